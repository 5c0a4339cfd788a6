//! Proves the world itself: what the other suites and the demo stand on.
use isthmus_world::World;
fn main() {
    isthmus_world::child_entry();
    let privilege = match isthmus_world::privilege::enter() {
        Ok(p) => p,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1);
        }
    };
    println!("{privilege:?}");
    let t = std::time::Instant::now();
    let world = World::two_sites().build().unwrap();
    println!("built in {:?}", t.elapsed());
    println!("{}", world.host("web").enter_command());
    let listener = world
        .host("orders")
        .run(|| std::net::TcpListener::bind("[::]:8080").unwrap());
    std::thread::spawn(move || {
        for s in listener.incoming() {
            let mut s = s.unwrap();
            std::thread::spawn(move || {
                let mut b = [0; 65536];
                while let Ok(n) = std::io::Read::read(&mut s, &mut b) {
                    if n == 0 {
                        break;
                    }
                    if n < 100 {
                        std::io::Write::write_all(&mut s, &b[..n]).unwrap();
                    }
                }
            });
        }
    });
    world.link().mark();
    for addr in ["10.20.1.10:8080", "[fd00:20::1:10]:8080"] {
        let r = world.host("web").run(move || {
            let t = std::time::Instant::now();
            let mut s = std::net::TcpStream::connect(addr)?;
            s.set_nodelay(true)?;
            let c = t.elapsed();
            let mut b = [0; 10];
            let mut rtts = vec![];
            for _ in 0..50 {
                let t = std::time::Instant::now();
                std::io::Write::write_all(&mut s, b"hello")?;
                std::io::Read::read(&mut s, &mut b)?;
                rtts.push(t.elapsed());
            }
            rtts.sort();
            Ok::<_, std::io::Error>((c, rtts[25]))
        });
        println!(
            "{addr}: {r:?}; {:?} {:?}",
            world.link().stats(),
            world.link().stats().round_trip()
        );
    }
    world.link().mark();
    let r = world.host("web").run(|| {
        let mut s = std::net::TcpStream::connect("10.20.1.10:8080")?;
        let t = std::time::Instant::now();
        let b = vec![0; 1 << 20];
        for _ in 0..100 {
            std::io::Write::write_all(&mut s, &b)?;
        }
        Ok::<_, std::io::Error>(t.elapsed())
    });
    println!("100MiB {r:?} {:?}", world.link().stats());
    let o = world.host("web").output(
        isthmus_world::Command::new("ip").args(["a"]),
        std::time::Duration::from_secs(5),
    );
    println!("{}", o.unwrap().stdout);
    let t = std::time::Instant::now();
    drop(world);
    println!("dropped in {:?}", t.elapsed());
}
