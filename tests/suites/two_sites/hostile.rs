//! Peers that send nonsense, nothing, or too much.

use std::time::Duration;

use isthmus_world::mesh::{Mesh, ORDERS_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("garbage_on_every_listener_harms_nobody", garbage),
    ("a_half_open_peer_is_let_go", half_open),
    ("five_thousand_connections_leave_no_memory_behind", five_thousand),
];

const GARBAGE: &[&[u8]] = &[
    b"\0\0\0\0\0\0\0\0",
    b"\x16\x03\x01\xff\xff\x01\x00\x00\x00",
    b"\x16\x03\x03\x00\x05\x01\xff\xff\xff\xff",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nX",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    &[0xff; 70_000],
];

fn garbage(mesh: &mut Mesh) -> Result<(), String> {
    // From a neighbour without a sidecar, to everything that listens to the network; and from inside to the loopback ports.
    let mut places: Vec<(&str, String)> = Vec::new();
    places.extend([15006, 15008, 8080, 8443].map(|port| ("stranger", format!("10.20.1.10:{port}"))));
    places.extend([15001, 15006, 15008, 15020, 15021].map(|port| ("orders", format!("127.0.0.1:{port}"))));
    places.extend([15012, 15013].map(|port| ("stranger", format!("10.10.0.2:{port}"))));
    places.push(("control", "127.0.0.1:15014".to_owned()));
    for (from, to) in &places {
        for bytes in GARBAGE {
            // Whatever comes back, or nothing: what counts is that the mesh lives.
            mesh.send_raw(from, to, bytes);
        }
    }
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("after the garbage: {} {}", answer.status, answer.body))?;
    let proxies = mesh.proxies()?;
    require(proxies.iter().all(|p| p.connected), || format!("after the garbage: {proxies:?}"))?;
    mesh.apply(isthmus_world::mesh::resources::policy("orders")).map(|_| ())
}

fn half_open(mesh: &mut Mesh) -> Result<(), String> {
    for to in ["10.20.1.10:15008", "10.10.0.2:15012"] {
        let held = mesh.hold_open("stranger", to, Duration::from_secs(40))?;
        require(held.closed_by_peer, || format!("{to} keeps a peer that says nothing for more than 40 s"))?;
    }
    Ok(())
}

fn five_thousand(mesh: &mut Mesh) -> Result<(), String> {
    const CONNECTIONS: usize = 5_000;
    // Once through first, so that what is allocated once is not counted.
    mesh.open_and_close("web", "10.96.0.10:80", 500)?;
    let before = [resident(mesh, "web")?, resident(mesh, "orders")?];
    let answered = mesh.open_and_close("web", "10.96.0.10:80", CONNECTIONS)?;
    require(answered == CONNECTIONS, || format!("only {answered} of {CONNECTIONS} connections got their answer"))?;
    let settled = mesh.until(Duration::from_secs(20), "the memory of 5,000 connections is given back", |mesh| {
        let now = [resident(mesh, "web")?, resident(mesh, "orders")?];
        let back = now.iter().zip(&before).all(|(now, before)| *now <= before + before / 4);
        Ok(back.then_some(()))
    });
    settled.map_err(|why| {
        format!("{why}: before {before:?}, after [{:?}, {:?}]", resident(mesh, "web"), resident(mesh, "orders"))
    })
}

fn resident(mesh: &Mesh, workload: &str) -> Result<u64, String> {
    mesh.sidecar(workload).process().resident_bytes().map_err(|e| e.to_string())
}
