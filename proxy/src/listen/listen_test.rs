use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::reason::Reason;
use crate::telemetry::Metrics;

fn gate(permits: usize) -> Gate {
    Gate {
        permits: Arc::new(Semaphore::new(permits)),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        metrics: Metrics::new(1),
    }
}

fn any_port() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 0).into()
}

fn listener(bound: Bound) -> TcpListener {
    TcpListener::from_std(bound.listeners.into_iter().next().unwrap()).unwrap()
}

#[tokio::test]
async fn workers_share_one_port_of_both_families() {
    let bound = bind("outbound", any_port(), 3).unwrap();
    assert_eq!(bound.listeners.len(), 3);
    for listener in &bound.listeners {
        assert_eq!(listener.local_addr().unwrap().port(), bound.address.port());
    }
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, bound.address.port())).await.is_ok());
    if bound.address.is_ipv6() {
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, bound.address.port())).await.is_ok());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_says_whose_fault_it_is() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let error = bind("mesh", taken.local_addr().unwrap(), 1).unwrap_err().to_string();
    assert!(error.contains("mesh") && error.contains("another process has it"), "{error}");
}

#[tokio::test]
async fn a_connection_that_was_not_redirected_is_refused() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(original_destination(&stream), Err(Reason::NotRedirected));
    }
}

#[tokio::test]
async fn connections_beyond_the_permits_wait_in_the_kernel() {
    let gate = gate(1);
    let bound = bind("inbound", any_port(), 1).unwrap();
    let port = bound.address.port();
    let (seen, mut served) = mpsc::channel(4);
    let local = LocalSet::new();
    let serve = move |mut stream: TcpStream, peer: SocketAddr, permit: Permit| {
        let seen = seen.clone();
        async move {
            seen.send(peer).await.unwrap();
            let _ = stream.read_u8().await;
            drop(permit);
        }
    };
    let (listener, accepting) = (listener(bound), gate.clone());
    local.spawn_local(accept(listener, accepting, serve));
    local
        .run_until(async {
            let first = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let _second = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            assert_eq!(served.recv().await.unwrap(), first.local_addr().unwrap(), "canonical, not ::ffff:");
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            assert!(served.try_recv().is_err(), "served without a permit");
            drop(first);
            assert!(served.recv().await.is_some());
        })
        .await;
}

#[tokio::test]
async fn what_waits_in_the_queue_when_stopping_is_served() {
    let gate = gate(8);
    let bound = bind("inbound", any_port(), 1).unwrap();
    let port = bound.address.port();
    let listener = listener(bound);
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    gate.stop.cancel();
    let (seen, mut served) = mpsc::channel(1);
    let serve = move |_stream: TcpStream, peer: SocketAddr, _permit: Permit| {
        let seen = seen.clone();
        async move { seen.send(peer).await.unwrap() }
    };
    let local = LocalSet::new();
    local.run_until(accept(listener, gate.clone(), serve)).await;
    gate.tasks.close();
    local.run_until(gate.tasks.wait()).await;
    assert!(served.try_recv().is_ok());
}
