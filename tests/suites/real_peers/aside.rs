//! What the mesh has to leave alone, and what both families of addresses share: UDP, ICMP, loopback, one's own address,
//! destinations outside of the mesh.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use isthmus_world::Command;
use isthmus_world::apps::{self, Server};

use crate::curl::{curl, url};
use crate::shop::{DEADLINE, Shop, VIP, VIP_V6};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("both_families_reach_the_service_by_name", &["curl", "nginx"], both_families),
    ("udp_passes_untouched", &[], udp),
    ("ping_works_between_the_sites", &["ping"], ping),
    ("loopback_is_not_captured", &["curl"], loopback),
    ("ones_own_address_is_not_captured", &["curl"], own_address),
    ("an_endpoints_own_address_is_its_service", &["curl", "nginx", "python3"], endpoints_address),
    ("the_ports_of_anothers_proxy_are_refused", &["curl"], proxys_ports),
    ("outside_of_the_mesh_is_passed_through", &["curl", "ip"], outside),
    ("outside_of_the_mesh_nothing_is_held_back_and_nothing_piles_up", &["ip"], unbuffered),
];

/// In none of the mesh's ranges (RFC 5737).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

fn both_families(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    for family in ["--ipv4", "--ipv6"] {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let port = if version == "--http1.1" { 8180 } else { 8182 };
            let got = shop.crossing(1, || curl(shop, "web", &[family, version], &[url(port, "/")]))?;
            require(got.status == 200 && got.text().starts_with("nginx HTTP/"), || format!("{family}: {got:?}"))?;
            let address = if family == "--ipv4" { VIP } else { VIP_V6 };
            require(got.said.contains(address), || format!("{family} did not go to {address}: {}", got.said))?;
        }
        let got = curl(shop, "batch", &[family], &[url(8180, "/")])?;
        require(got.status == 403, || format!("batch by {family}: {got:?}"))?;
    }
    Ok(())
}

fn udp(shop: &Shop) -> Result<(), String> {
    let (web, orders) = (shop.host("web").clone(), shop.host("orders").clone());
    let families = [
        (IpAddr::V4(web.address()), IpAddr::V4(orders.address())),
        (IpAddr::V6(web.address_v6()), IpAddr::V6(orders.address_v6())),
    ];
    for (from, to) in families {
        let bound = |ip: IpAddr| {
            let socket = UdpSocket::bind((ip, 0))?;
            socket.set_read_timeout(Some(DEADLINE))?;
            Ok::<_, std::io::Error>(socket)
        };
        let server = orders.run(move || bound(to)).map_err(|e| e.to_string())?;
        let client = web.run(move || bound(from)).map_err(|e| e.to_string())?;
        let exchange = || {
            client.send_to(b"a datagram", server.local_addr()?)?;
            let mut buffer = [0; 64];
            let (length, source) = server.recv_from(&mut buffer)?;
            server.send_to(&buffer[..length], source)?;
            let (back, answered) = client.recv_from(&mut buffer)?;
            Ok::<_, std::io::Error>((source, answered, buffer[..back].to_vec()))
        };
        let (source, answered, bytes) = exchange().map_err(|e| format!("{from} to {to}: {e}"))?;
        let ends = (client.local_addr().ok(), server.local_addr().ok());
        // Both ends see each other's own address and port: nobody was in between.
        let untouched = ends == (Some(source), Some(answered)) && bytes == b"a datagram";
        require(untouched, || format!("{ends:?} saw {source} and {answered}, {bytes:?}"))?;
    }
    Ok(())
}

fn ping(shop: &Shop) -> Result<(), String> {
    let orders = shop.host("orders");
    for address in [IpAddr::V4(orders.address()), IpAddr::V6(orders.address_v6())] {
        // Large enough to be several packets on the way.
        let command = Command::new("ping").args(["-n", "-c", "3", "-i", "0.2", "-W", "5", "-s", "4000"]);
        let said = shop.succeed("web", command.arg(address.to_string()))?;
        require(said.contains("3 received, 0% packet loss"), || said.clone())?;
    }
    Ok(())
}

/// Connections that the outbound side of `web` has taken up.
fn taken_up(shop: &Shop) -> Result<f64, String> {
    shop.mesh().metric("web", "isthmus_connections_opened_total", &[])
}

fn loopback(shop: &Shop) -> Result<(), String> {
    not_captured(shop, [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)])
}

fn own_address(shop: &Shop) -> Result<(), String> {
    let web = shop.host("web");
    not_captured(shop, [IpAddr::V4(web.address()), IpAddr::V6(web.address_v6())])
}

/// An app on `web` that calls an app on `web`.
fn not_captured(shop: &Shop, addresses: [IpAddr; 2]) -> Result<(), String> {
    for address in addresses {
        let server = http_server(shop, "web", SocketAddr::new(address, 0))?;
        let before = taken_up(shop)?;
        let got = curl(shop, "web", &[], &[format!("http://{}/", server.address())])?;
        require(got.status == 200 && server.accepted() == 1, || format!("{address}: {got:?}"))?;
        let after = taken_up(shop)?;
        require(after == before, || format!("{address}: the sidecar has taken up {} connections", after - before))?;
    }
    Ok(())
}

/// What a socket load balancer (Cilium's, for one) makes of a service's address before capture sees it. The service's own
/// policy and options hold, and the mesh carries it.
fn endpoints_address(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    shop.http1_app()?;
    let orders = shop.host("orders");
    for address in [IpAddr::V4(orders.address()), IpAddr::V6(orders.address_v6())] {
        let to = |port: u16, path: &str| [format!("http://{}{path}", SocketAddr::new(address, port))];
        let got = shop.crossing(1, || curl(shop, "web", &["--http1.1"], &to(8180, "/")))?;
        require(got.status == 200 && got.text() == "nginx HTTP/1.1\n", || format!("{address}: {got:?}"))?;
        // Declared by the service's name for the port, and not by its number.
        let got = shop.crossing(1, || curl(shop, "web", &["--http2-prior-knowledge"], &to(8182, "/")))?;
        require(got.status == 200 && got.text() == "nginx HTTP/2.0\n", || format!("{address}: {got:?}"))?;
        let refused = shop.refusing(|| curl(shop, "batch", &["--http1.1"], &to(8180, "/")))?;
        require(refused.status == 403, || format!("batch at {address}: {refused:?}"))?;
        let spelled = ["--http1.1", "--header", "x-MiXed: 3"];
        let got = shop.with_traffic_policy("headerNames: Preserve", "headerNames: TitleCase", || {
            shop.crossing(1, || curl(shop, "web", &spelled, &to(8210, "/head")))
        })?;
        require(got.text().contains("x-MiXed: 3"), || format!("{address}: its service's option is lost: {got:?}"))?;
    }
    Ok(())
}

/// What listens there is the sidecar's own: no app may have it connect to itself, or read what it says of itself.
fn proxys_ports(shop: &Shop) -> Result<(), String> {
    let counted = || shop.mesh().metric("orders", "isthmus_refused_total", &[("reason", "forbidden-port")]);
    // The port of the caller's own outbound listener is that of a connection which nobody redirected: a reset.
    let own = curl(shop, "web", &["--http1.1"], &[format!("http://{}:15001/", shop.host("orders").address())]);
    require(own.as_ref().is_err_and(|why| why.contains("reset")), || format!("15001: {own:?}"))?;
    for port in [15006, 15008, 15020, 15021] {
        let before = counted()?;
        let got =
            curl(shop, "web", &["--http1.1"], &[format!("http://{}:{port}/metrics", shop.host("orders").address())])?;
        require(got.status == 403 && got.text() == "forbidden-port", || format!("{port}: {got:?}"))?;
        require(counted()? > before, || format!("{port}: orders counts no forbidden-port"))?;
    }
    Ok(())
}

fn http_server(shop: &Shop, host: &str, address: SocketAddr) -> Result<Server, String> {
    apps::http_server(shop.host(host), address).map_err(|e| e.to_string())
}

/// The first router has one more address, which is nobody's in the mesh.
fn outside_host(shop: &Shop) -> Result<&isthmus_world::Host, String> {
    let router = shop.mesh().world().sites()[0].router();
    let address = format!("{OUTSIDE}/32");
    let add = Command::new("ip").args(["address", "replace", &address, "dev", "lo"]);
    let done = router.output(add, DEADLINE).map_err(|e| e.to_string())?;
    require(done.status.success(), || format!("ip address replace: {}", done.stderr))?;
    Ok(router)
}

fn outside(shop: &Shop) -> Result<(), String> {
    let server = apps::http_server(outside_host(shop)?, SocketAddr::from((OUTSIDE, 0))).map_err(|e| e.to_string())?;
    let before = taken_up(shop)?;
    let address = server.address();
    let got = curl(shop, "web", &["--http1.1", "--header", "x-own: 1"], &[format!("http://{address}/")])?;
    require(got.status == 200 && server.accepted() == 1, || format!("{got:?}"))?;
    require(taken_up(shop)? > before, || "the sidecar did not see the connection".to_owned())?;
    // It is none of the mesh's: the app behind it is told nothing that the caller did not say.
    let seen = got.text();
    let told = ["traceparent", "isthmus", "x-forwarded-client-cert"].iter().find(|name| seen.contains(*name));
    require(told.is_none(), || format!("the app outside was told {told:?}: {seen}"))?;
    // Where nobody listens, the caller hears that at once.
    let failed = curl(shop, "web", &[], &[format!("http://{OUTSIDE}:9/")]);
    require(failed.is_err_and(|why| why.contains("reset") || why.contains("refused")), || "port 9 answered".into())?;
    Ok(())
}

/// One byte at a time comes back one at a time; and a far side that does not read stops the app, not the memory.
fn unbuffered(shop: &Shop) -> Result<(), String> {
    let router = outside_host(shop)?;
    let echo = apps::echo_server(router, SocketAddr::from((OUTSIDE, 0))).map_err(|e| e.to_string())?;
    let to = echo.address();
    let one_at_a_time = shop.host("web").run(move || {
        let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        for byte in 0..100_u8 {
            stream.write_all(&[byte])?;
            let mut back = [0];
            stream.read_exact(&mut back)?;
            assert_eq!(back[0], byte);
        }
        Ok::<_, std::io::Error>(())
    });
    one_at_a_time.map_err(|e| format!("one byte at a time: {e}"))?;

    let deaf = router
        .run(|| std::net::TcpListener::bind((OUTSIDE, 0)).and_then(|l| l.local_addr().map(|address| (l, address))));
    let (listener, to) = deaf.map_err(|e| e.to_string())?;
    let memory = || shop.mesh().sidecar("web").process().resident_bytes().map_err(|e| e.to_string());
    let before = memory()?;
    let sent = shop.host("web").run(move || send_until_stuck(to)).map_err(|e| e.to_string())?;
    let grown = memory()?.saturating_sub(before);
    drop(listener);
    // Socket buffers on four sides take what the kernel allows (tcp_wmem and tcp_rmem: 4 and 6 MB each by default).
    require(sent < 64 << 20, || format!("the app could send {sent} bytes to somebody who reads nothing"))?;
    require(grown < 8 << 20, || format!("the sidecar grew by {grown} bytes for {sent} bytes that nobody reads"))
}

/// Bytes that went out before nothing moved for a while.
fn send_until_stuck(to: SocketAddr) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500)))?;
    let block = vec![0x5a; 256 * 1024];
    let mut sent = 0;
    while sent < 256 << 20 {
        match stream.write(&block) {
            Ok(written) => sent += written,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
