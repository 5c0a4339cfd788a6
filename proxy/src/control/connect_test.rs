use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use super::{Dialer, in_turn};
use crate::tcp::DialOptions;

#[tokio::test]
async fn each_connection_goes_to_another_control_plane_than_the_one_before() {
    let (one, other) = (listener().await, listener().await);
    // Nobody listens there any more.
    let gone = listener().await.local_addr().unwrap();
    let addresses = format!("{},{gone},{}", one.local_addr().unwrap(), other.local_addr().unwrap());
    let dialer = Dialer::tcp(&addresses, DialOptions::default());
    let mut before = None;
    for _ in 0..16 {
        let (wire, at) = tokio::join!((dialer.dial)(), async {
            tokio::select! {
                _ = one.accept() => "one",
                _ = other.accept() => "other",
            }
        });
        wire.unwrap();
        assert_ne!(before.replace(at), Some(at));
    }
}

#[test]
fn the_first_of_many_is_anyone_but_the_last_used() {
    let all: Vec<SocketAddr> = (1..=4).map(|n| (Ipv4Addr::new(10, 0, 0, n), 15012).into()).collect();
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let mut order = all.clone();
        in_turn(&mut order, Some(all[2]));
        assert_eq!(order.last(), Some(&all[2]));
        first.insert(order[0]);
    }
    assert_eq!(first.len(), 3);
}

async fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}
