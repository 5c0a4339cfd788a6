//! Who gets which mesh connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::coop::unconstrained;

use super::{Permit, Received, Served, Share, shares};
use crate::telemetry::{MeshSide, Metrics};

struct Accepting {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Accepting {
    async fn new() -> Accepting {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Accepting { listener, permits: Arc::new(Semaphore::new(10_000)) }
    }

    async fn next(&self) -> (TcpStream, (TcpStream, SocketAddr, Permit)) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = self.listener.accept().await.unwrap();
        let permit = Arc::clone(&self.permits).acquire_owned().await.unwrap();
        (client, (stream, peer, permit))
    }
}

fn waiting(received: &mut Received) -> Vec<Served> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut served = Vec::new();
    while let std::task::Poll::Ready(Some(one)) =
        std::pin::pin!(unconstrained(received.next())).as_mut().poll(&mut context)
    {
        served.push(one);
    }
    served
}

#[tokio::test]
async fn connections_that_all_came_to_one_worker_are_spread_evenly() {
    let (accepting, metrics) = (Accepting::new().await, Metrics::new(4));
    let mut shares = shares(4, &metrics);
    let mut kept = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let (client, (stream, peer, permit)) = accepting.next().await;
        kept.extend(shares[1].0.keep_or_hand(stream, peer, permit));
        clients.push(client);
    }
    assert_eq!(kept.len(), 10, "its own part");
    for (worker, (_, received)) in shares.iter_mut().enumerate() {
        assert_eq!(waiting(received).len(), if worker == 1 { 0 } else { 10 }, "worker {worker}");
    }
    assert!(metrics.render().contains("isthmus_mesh_events_total{event=\"handed\"} 30"));
}

#[tokio::test]
async fn what_ended_weighs_nothing_and_streams_weigh() {
    let (accepting, metrics) = (Accepting::new().await, Metrics::new(2));
    let mut shares = shares(2, &metrics);
    let (own, other): (&Share, _) = (&shares[0].0, 1);
    // The other one has no connection, but many streams.
    let streams: Vec<_> = (0..10).map(|_| metrics.for_worker(other).stream(MeshSide::Server)).collect();
    let (_client, (stream, peer, permit)) = accepting.next().await;
    let first = own.keep_or_hand(stream, peer, permit);
    assert!(first.is_some(), "kept");
    drop(streams);
    let (_client, (stream, peer, permit)) = accepting.next().await;
    assert!(own.keep_or_hand(stream, peer, permit).is_none(), "handed: the other one has nothing now");
    drop(first);
    let (_client, (stream, peer, permit)) = accepting.next().await;
    assert!(own.keep_or_hand(stream, peer, permit).is_some(), "kept again: the first one has ended");
    assert_eq!(waiting(&mut shares[1].1).len(), 1);
}

#[tokio::test]
async fn a_worker_that_takes_nothing_up_gets_no_more_and_nothing_is_lost() {
    let (accepting, metrics) = (Accepting::new().await, Metrics::new(2));
    let mut shares = shares(2, &metrics);
    // This worker is busy: everything should go to the other one.
    let _streams: Vec<_> = (0..2_000).map(|_| metrics.for_worker(0).stream(MeshSide::Server)).collect();
    let mut kept = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..300 {
        let (client, (stream, peer, permit)) = accepting.next().await;
        kept.extend(shares[0].0.keep_or_hand(stream, peer, permit));
        clients.push(client);
    }
    let waiting = waiting(&mut shares[1].1).len();
    assert_eq!((waiting, kept.len()), (256, 44));
    assert_eq!(accepting.permits.available_permits(), 10_000 - kept.len(), "permits go with the connections");
}

#[test]
fn a_connection_works_on_the_thread_it_was_handed_to() {
    let metrics = Metrics::new(2);
    let mut ends = shares(2, &metrics).into_iter();
    let (Some((first, _first_received)), Some((second, mut received))) = (ends.next(), ends.next()) else {
        panic!("two workers");
    };
    let other = std::thread::spawn(move || {
        drop(second);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut served = received.next().await.unwrap();
            let mut byte = [0];
            served.stream.read_exact(&mut byte).await.unwrap();
            served.stream.write_all(&byte).await.unwrap();
            assert!(received.next().await.is_none(), "ends when nobody can hand anything any more");
        });
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let accepting = Accepting::new().await;
        let (_kept_client, (stream, peer, permit)) = accepting.next().await;
        let _kept = first.keep_or_hand(stream, peer, permit).unwrap();
        let (mut client, (stream, peer, permit)) = accepting.next().await;
        assert!(first.keep_or_hand(stream, peer, permit).is_none());
        drop(first);
        client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    });
    other.join().unwrap();
}
