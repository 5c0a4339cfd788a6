//! Answers as resolvers give them, and as they should not be believed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use tokio::net::UdpSocket;

use super::message::{Answer, Kind, MessageError, answer, query};
use super::resolv_conf::{addresses_of, name_servers};
use super::{Files, ResolveError, Resolver};
use crate::tcp::DialOptions;

/// The answer to [`query`], with records of (name, kind, life, data). A name here may not be compressed.
fn reply(id: u16, name: &str, kind: Kind, code: u8, records: &[(&str, u16, u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = query(id, name, kind).unwrap();
    bytes[2] |= 0x80;
    bytes[3] = 0x80 | code;
    bytes[7] = u8::try_from(records.len()).unwrap();
    for (name, kind, life, data) in records {
        bytes.extend(wire_name(name));
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&1u16.to_be_bytes());
        bytes.extend_from_slice(&life.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(data);
    }
    bytes
}

fn wire_name(name: &str) -> Vec<u8> {
    let labels = name
        .split('.')
        .flat_map(|label| std::iter::once(u8::try_from(label.len()).unwrap()).chain(label.bytes()).collect::<Vec<_>>());
    labels.chain([0]).collect()
}

#[test]
fn only_what_the_chain_of_names_leads_to_counts() {
    let records = [
        ("other.example", 1, 60, vec![6, 6, 6, 6]),
        ("edge.cdn.example", 1, 30, vec![192, 0, 2, 1]),
        ("api.example", 5, 20, wire_name("edge.cdn.example")),
        ("edge.cdn.example", 1, 90, vec![192, 0, 2, 2]),
    ];
    let bytes = reply(7, "api.example", Kind::A, 0, &records);
    let expected = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from).to_vec();
    let read = answer(&bytes, 7, "api.example", Kind::A);
    assert_eq!(read, Ok(Answer::Addresses(expected, Duration::from_secs(20))));
}

#[test]
fn what_was_not_asked_for_is_not_believed() {
    let bytes = reply(7, "api.example", Kind::A, 0, &[("api.example", 1, 60, vec![192, 0, 2, 1])]);
    assert_eq!(answer(&bytes, 8, "api.example", Kind::A), Err(MessageError::NotOurs));
    assert_eq!(answer(&bytes, 7, "api.example.evil", Kind::A), Err(MessageError::NotOurs));
    assert_eq!(answer(&bytes, 7, "api.example", Kind::Aaaa), Err(MessageError::NotOurs));
    let question = query(7, "api.example", Kind::A).unwrap();
    assert_eq!(answer(&question, 7, "api.example", Kind::A), Err(MessageError::NotOurs));
}

#[test]
fn no_such_name_is_an_answer_and_failure_is_none() {
    let none = reply(7, "api.example", Kind::A, 3, &[]);
    assert!(matches!(answer(&none, 7, "api.example", Kind::A), Ok(Answer::Addresses(found, _)) if found.is_empty()));
    let failed = reply(7, "api.example", Kind::A, 2, &[]);
    assert_eq!(answer(&failed, 7, "api.example", Kind::A), Err(MessageError::Code(2)));
    let mut cut = reply(7, "api.example", Kind::A, 0, &[]);
    cut[2] |= 2;
    assert_eq!(answer(&cut, 7, "api.example", Kind::A), Ok(Answer::Truncated));
}

#[test]
fn a_name_that_points_at_itself_ends() {
    let mut bytes = reply(7, "a.example", Kind::A, 0, &[]);
    bytes[7] = 1;
    let here = u8::try_from(bytes.len()).unwrap();
    bytes.extend_from_slice(&[0xc0, here, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
    assert_eq!(answer(&bytes, 7, "a.example", Kind::A), Err(MessageError::Malformed));
}

#[test]
fn names_that_cannot_be_asked_for_are_not() {
    for name in ["", "a..b", &"a".repeat(64), &["abc"; 80].join(".")] {
        assert_eq!(query(1, name, Kind::A), Err(MessageError::Name), "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), keep in any::<bool>()) {
        let mut bytes = bytes;
        if keep {
            // Past the header and the question, where the parsing is.
            let question = reply(7, "a.b", Kind::A, 0, &[]);
            bytes.splice(..0, question);
            bytes[7] = 3;
        }
        let _ = answer(&bytes, 7, "a.b", Kind::A);
    }
}

#[test]
fn the_hosts_own_files_are_read() {
    let text = "# comment\nsearch x\nnameserver 192.0.2.53\nnameserver 2001:db8::53 \nnameserver fe80::1%eth0\n";
    assert_eq!(name_servers(text), ["192.0.2.53", "2001:db8::53"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    let hosts = "127.0.0.1 localhost\n192.0.2.1 api.example API2.example # api3.example\n";
    assert_eq!(addresses_of(hosts, "api2.example"), [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(addresses_of(hosts, "api3.example"), Vec::<IpAddr>::new());
}

/// A resolver that answers A with `ip`, AAAA with nothing, and counts.
async fn server(ip: [u8; 4], life: u32) -> (SocketAddr, std::rc::Rc<std::cell::Cell<usize>>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = asked.clone();
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.set(count.get() + 1);
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            let is_a = buffer[length - 3] == 1;
            let record = ("api.example", 1, life, ip.to_vec());
            let bytes = match is_a {
                true => reply(id, "api.example", Kind::A, 0, &[record]),
                false => reply(id, "api.example", Kind::Aaaa, 0, &[]),
            };
            // First a forgery with a wrong id.
            let mut forged = bytes.clone();
            forged[0] ^= 1;
            socket.send_to(&forged, from).await.unwrap();
            socket.send_to(&bytes, from).await.unwrap();
        }
    });
    (address, asked)
}

fn resolver(port: u16) -> Resolver {
    let files = Files { resolv_conf: "/nonexistent", hosts: "/nonexistent" };
    Resolver { port, files, ..Resolver::new(DialOptions::default()) }
}

#[tokio::test]
async fn an_answer_is_kept_as_long_as_it_says_and_asked_for_once() {
    tokio::task::LocalSet::new()
        .run_until(Box::pin(async {
            let (address, asked) = server([192, 0, 2, 1], 60).await;
            let resolver = resolver(address.port());
            let servers = [address.ip()];
            let ask = || resolver.resolve("api.example", &servers);
            let (a, b, c) = tokio::join!(ask(), ask(), ask());
            for found in [a, b, c, ask().await] {
                assert_eq!(found.unwrap()[..], [IpAddr::from([192, 0, 2, 1])]);
            }
            // A and AAAA, once each.
            assert_eq!(asked.get(), 2);
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(61)).await;
            tokio::time::resume();
            ask().await.unwrap();
            assert_eq!(asked.get(), 4);
        }))
        .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_for_ever() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = silent.local_addr().unwrap();
    let resolver = resolver(address.port());
    let begun = tokio::time::Instant::now();
    let found = resolver.resolve("api.example", &[address.ip()]).await;
    assert!(matches!(found, Err(ResolveError::NoAnswer { .. })), "{found:?}");
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(resolver.resolve("api.example", &[]).await, found, "remembered for a moment");
    assert_eq!(resolver.resolve("b.example", &[]).await, Err(ResolveError::NoResolver));
}
