//! Hosts, sites and the link between them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use isthmus_world::apps::raw::{self, End, Then};
use isthmus_world::apps::{echo_server, http_server};
use isthmus_world::{CLOUD, Command, Host, LinkShape, World, find};
use libtest_mimic::Trial;

use crate::{Outcome, SOON, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("hosts_reach_each_other_over_the_link_in_both_families", both_families),
        test("hosts_of_one_site_do_not_cross_the_link", one_site),
        test("the_links_own_time_is_what_an_app_measures", link_time),
        test("a_cut_link_is_silent_and_a_restored_one_resumes", cut_and_restore),
        test("lost_frames_are_counted", loss),
        test("bandwidth_bounds_throughput", bandwidth),
        test("each_host_has_its_own_hosts_file", hosts_file),
        test("a_removed_host_leaves_its_address_to_another", churn),
        test("an_unknown_address_is_unreachable", unknown_address),
    ]
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0_u16; 8], port))
}

fn both_families() -> Outcome {
    let world = World::two_sites().build()?;
    let echo = echo_server(world.host("orders"), any(0))?;
    let port = echo.address().port();
    let orders = world.host("orders");
    let addresses = [IpAddr::V4(orders.address()), IpAddr::V6(orders.address_v6())];
    let usable = if world.has_ipv6() { 2 } else { 1 };
    for address in addresses.into_iter().take(usable) {
        world.link().mark();
        let answer = raw::exchange(world.host("web"), (address, port).into(), "hello", Then::HalfClose, SOON);
        assert_eq!((answer.text().as_str(), answer.end), ("hello", End::Closed), "{address}");
        let stats = world.link().stats();
        assert!(stats.left_to_right.frames >= 4 && stats.right_to_left.frames >= 3, "{stats:?}");
        let round_trip = stats.round_trip().ok_or("frames passed in one direction only")?;
        assert!(round_trip >= Duration::from_millis(4), "{round_trip:?}");
        assert_eq!(stats.dropped(), 0, "{stats:?}");
    }
    assert_eq!(echo.accepted(), usable as u64);
    Ok(())
}

fn one_site() -> Outcome {
    let world = World::two_sites().build()?;
    let server = echo_server(world.host("batch"), any(0))?;
    world.link().mark();
    let to = world.host("batch").socket(server.address().port());
    let answer = raw::exchange(world.host("web"), to, vec![7; 200_000], Then::HalfClose, SOON);
    assert_eq!((answer.bytes.len(), answer.end), (200_000, End::Closed));
    // Not zero: the routers look for their neighbours.
    assert!(world.link().stats().left_to_right.bytes < 20_000, "{:?}", world.link().stats());
    Ok(())
}

/// The demo holds the mesh's own link times against the emulator's. So the emulator must see what an app sees.
fn link_time() -> Outcome {
    let world = World::two_sites().build()?;
    let echo = echo_server(world.host("orders"), any(0))?;
    let to = world.host("orders").socket(echo.address().port());
    let link = world.link();
    let measured = world.host("web").run(move || ping_pong(to, 100))?;
    link.mark();
    let measured = measured.max(world.host("web").run(move || ping_pong(to, 200))?);
    let emulated = link.stats().round_trip().ok_or("no frames")?;
    println!("an app measured {measured:?}, the link itself {emulated:?}");
    assert!(measured >= Duration::from_millis(4), "{measured:?}");
    assert!(measured + Duration::from_micros(50) >= emulated, "{measured:?} {emulated:?}");
    Ok(())
}

fn ping_pong(to: SocketAddr, times: usize) -> std::io::Result<Duration> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut took = Vec::new();
    for _ in 0..times {
        let start = Instant::now();
        stream.write_all(b"ping")?;
        stream.read_exact(&mut [0; 4])?;
        took.push(start.elapsed());
    }
    took.sort();
    Ok(took[times / 2])
}

fn cut_and_restore() -> Outcome {
    let world = World::two_sites().build()?;
    let echo = echo_server(world.host("orders"), any(0))?;
    let to = world.host("orders").socket(echo.address().port());
    world.link().cut();
    assert!(world.link().is_cut());
    let answer = raw::exchange(world.host("web"), to, "hello", Then::HalfClose, Duration::from_millis(300));
    assert_eq!((answer.connected, answer.end), (false, End::Deadline));
    assert!(world.link().stats().left_to_right.dropped_cut > 0);
    world.link().restore();
    assert_eq!(raw::exchange(world.host("web"), to, "hello", Then::HalfClose, SOON).text(), "hello");
    Ok(())
}

fn loss() -> Outcome {
    const SENT: u64 = 400;
    // Fewer at once than fit into an ordinary user's receive buffer, also when the emulator gets no processor.
    const AT_ONCE: u64 = 40;
    let world = World::two_sites().build()?;
    let echo = echo_server(world.host("orders"), any(0))?;
    let to = world.host("orders").socket(echo.address().port());
    // Addresses are resolved before frames get lost.
    assert_eq!(raw::exchange(world.host("web"), to, "x", Then::HalfClose, SOON).text(), "x");
    world.link().set_shape(LinkShape { loss: 0.25, bandwidth: None, ..LinkShape::default() });
    world.link().mark();
    for sent in (0..SENT).step_by(AT_ONCE as usize) {
        world.host("web").run(move || -> std::io::Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            (0..AT_ONCE).try_for_each(|_| socket.send_to(b"x", to).map(|_| ()))
        })?;
        let counted = wait_until(|| {
            let direction = world.link().stats().left_to_right;
            direction.frames + direction.dropped() >= sent + AT_ONCE
        });
        assert!(counted, "{:?}", world.link().stats());
    }
    let direction = world.link().stats().left_to_right;
    assert!((50..150).contains(&direction.dropped_loss), "{direction:?}");
    Ok(())
}

fn bandwidth() -> Outcome {
    const BYTES: usize = 500_000;
    let world = World::two_sites().build()?;
    let server = http_server(world.host("orders"), any(0))?;
    world.link().set_bandwidth(Some(20_000_000));
    let to = world.host("orders").socket(server.address().port());
    let start = Instant::now();
    let request = isthmus_world::apps::Request::get(format!("http://{to}/bytes/{BYTES}"));
    let response = request.send(world.host("web"), SOON)?;
    let took = start.elapsed();
    assert_eq!(response.body.len(), BYTES);
    // 500,000 bytes at 20 Mbit/s are 200 ms, headers not counted.
    assert!(took >= Duration::from_millis(200), "{took:?}");
    Ok(())
}

fn hosts_file() -> Outcome {
    const NAME: &str = "orders.shop.svc.cluster.local";
    let world = World::two_sites().build()?;
    world.set_hosts(&[("10.96.0.10".parse()?, NAME), ("fd00:96::10".parse()?, NAME)])?;
    world.host("batch").set_hosts(&[("10.96.0.99".parse()?, NAME)])?;
    let look_up = |host: &Host| -> Result<Vec<IpAddr>, std::io::Error> {
        host.run(|| Ok((NAME, 80).to_socket_addrs()?.map(|address| address.ip()).collect()))
    };
    assert!(look_up(world.host("web"))?.contains(&"10.96.0.10".parse()?));
    assert_eq!(look_up(world.host("batch"))?, ["10.96.0.99".parse::<IpAddr>()?]);
    if find::program("getent").is_some() {
        let command = Command::new("getent").args(["ahostsv4", NAME]);
        let child = world.host("web").output(command, SOON)?;
        assert!(child.stdout.starts_with("10.96.0.10"), "{child:?}");
    }
    Ok(())
}

fn churn() -> Outcome {
    let mut world = World::two_sites().build()?;
    for turn in 0..3 {
        let name = format!("pod{turn}");
        let pod = world.add_host(CLOUD, &name, Ipv4Addr::new(10, 10, 2, 2))?;
        let echo = echo_server(&pod, any(0))?;
        let to = pod.socket(echo.address().port());
        assert_eq!(raw::exchange(world.host("orders"), to, "hello", Then::HalfClose, SOON).text(), "hello");
        world.remove_host(&name)?;
    }
    Ok(())
}

fn unknown_address() -> Outcome {
    let world = World::two_sites().outsider().build()?;
    let to = SocketAddr::from(([10, 96, 0, 10], 80));
    let answer = raw::exchange(world.host("outsider"), to, "x", Then::Read, SOON);
    assert_eq!((answer.connected, answer.end), (false, End::Unreachable));
    Ok(())
}

/// Waits for something that has no event to wait for.
fn wait_until(done: impl Fn() -> bool) -> bool {
    let until = Instant::now() + SOON;
    while !done() {
        if Instant::now() > until {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
