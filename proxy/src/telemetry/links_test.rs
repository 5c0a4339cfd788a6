use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::super::metrics::Metrics;
use super::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn what_the_kernel_says_of_a_connection_is_on_the_page_and_for_its_spans() {
    let metrics = Metrics::new(1);
    let (mut client, mut server) = pair();
    let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let watched = metrics.links().watch("dc1", local, peer);
    assert_eq!(watched.view.read(), None, "nobody has asked yet");
    client.write_all(&[1; 9000]).unwrap();
    server.read_exact(&mut [0; 9000]).unwrap();
    metrics.links().sample(&mut TcpDiagnosis::open().unwrap());
    let (rtt, retransmitted, _) = watched.view.read().expect("asked");
    assert!(rtt > 0 && retransmitted == 0);
    let text = metrics.render();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{site=\"dc1\"}} ")));
        line.unwrap_or_else(|| panic!("{name}\n{text}")).parse::<f64>().unwrap()
    };
    assert!(value("isthmus_link_rtt_seconds") > 0.0 && value("isthmus_link_segments_total") >= 1.0);
    assert_eq!(value("isthmus_link_retransmitted_segments_total"), 0.0);
    let sent = text.lines().find_map(|line| line.strip_prefix("isthmus_link_bytes_total{site=\"dc1\",flow=\"sent\"} "));
    assert!((9000..=9001).contains(&sent.unwrap().parse::<u64>().unwrap()), "{text}");
    drop(watched);
    let sites = metrics.links().each();
    assert_eq!((sites[0].rtt, sites[0].sent > 0), (None, true), "the past is kept, the present is empty");
}

#[test]
fn counters_of_connections_that_come_and_go_only_grow() {
    let links = Links::default();
    let somewhere: SocketAddr = "192.0.2.1:15008".parse().unwrap();
    let info =
        |sent, retransmitted| TcpInfo { rtt: Duration::from_millis(4), sent, retransmitted, ..TcpInfo::default() };
    let first = links.watch("dc1", somewhere, somewhere);
    links.lock().note(first.number, info(u32::MAX, 1));
    links.lock().note(first.number, info(9, 3));
    let number = first.number;
    drop(first);
    links.lock().note(number, info(700, 700));
    let second = links.watch("dc1", somewhere, somewhere);
    links.lock().note(second.number, info(5, 0));
    let site = &links.each()[0];
    assert_eq!((site.sent, site.retransmitted), (u64::from(u32::MAX) + 10 + 5, 3));
}

#[test]
fn sites_and_rounds_are_bounded_and_everybody_has_a_turn() {
    let links = Links::default();
    let somewhere: SocketAddr = "192.0.2.1:15008".parse().unwrap();
    let all: Vec<_> = (0..MOST_AT_ONCE * 2).map(|n| links.watch(&format!("s{n}"), somewhere, somewhere)).collect();
    assert_eq!(links.each().len(), MOST_SITES + 1);
    let mut asked: Vec<_> = links.turn().into_iter().chain(links.turn()).map(|(number, ..)| number).collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), all.len());
}
