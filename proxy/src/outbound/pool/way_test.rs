//! Ways that freeze, drop large hellos or end at somebody who is no sidecar of ours.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::pool_test::{World, acquire, endpoint, far, far_with, get, on_worker, pass, until};
use crate::reason::Reason;

/// Passes bytes on until it is frozen; then nothing moves, and nothing is closed.
async fn relay(to: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (freeze, frozen) = tokio::sync::watch::channel(false);
    spawn_local(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(to).await.unwrap();
            let mut frozen = frozen.clone();
            frozen.mark_unchanged();
            spawn_local(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = frozen.changed() => std::future::pending().await,
                }
            });
        }
    });
    (address, freeze)
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up_within_seconds_and_replaced() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (address, freeze) = relay(far.address).await;
        let (pool, to) = (world.worker(), endpoint(address));
        let slot = acquire(&pool, &to).await.unwrap();
        freeze.send_replace(true);
        let started = tokio::time::Instant::now();
        tokio::time::pause();
        assert!(get(&slot, "/").await.is_err());
        tokio::time::resume();
        assert!(started.elapsed() <= Duration::from_secs(10), "{:?}", started.elapsed());
        assert!(world.counted("isthmus_mesh_events_total{event=\"peer-silent\"} 1\n"));
        // The way is open again for who comes anew.
        until(|| far.accepted.get() == 2).await;
        assert_eq!(get(&acquire(&pool, &to).await.unwrap(), "/").await.unwrap(), 200);
    })
    .await;
}

/// Passes bytes on, but for first flights larger than `most`: those it swallows, as some middleboxes do.
async fn middlebox(to: SocketAddr, most: usize) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let swallowed = Rc::new(Cell::new(0));
    let count = Rc::clone(&swallowed);
    spawn_local(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let count = Rc::clone(&count);
            spawn_local(async move {
                let mut flight = vec![0; 16 * 1024];
                let Ok(length) = near.read(&mut flight).await else { return };
                if length > most {
                    count.set(count.get() + 1);
                    let _ = near.read(&mut [0; 1]).await;
                    return;
                }
                let Ok(mut far) = TcpStream::connect(to).await else { return };
                let _ = far.write_all(&flight[..length]).await;
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, swallowed)
}

#[tokio::test]
async fn a_hello_that_is_dropped_on_the_way_is_sent_again_small_and_reported() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (address, swallowed) = middlebox(far.address, 1_200).await;
        let (pool, to) = (world.worker(), endpoint(address));
        let slot = acquire(&pool, &to).await.unwrap();
        assert_eq!(get(&slot, "/").await.unwrap(), 200);
        assert_eq!(swallowed.get(), 1);
        let reported = "isthmus_mesh_handshakes_failed_total{side=\"client\",reason=\"hello_dropped\"} 1\n";
        assert!(world.counted(reported));
        drop(slot);
        // The next one knows it, until the memory fades.
        far.break_all();
        until(|| far.accepted.get() == 2).await;
        assert_eq!(swallowed.get(), 1, "not tried again for a while");
        for _ in 0..11 {
            until(|| pool.try_acquire(&to).is_some()).await;
            pass(Duration::from_secs(60)).await;
        }
        far.break_all();
        until(|| swallowed.get() == 2).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_silent_whatever_the_hello_is_no_middlebox() {
    on_worker(async {
        let world = World::new();
        let (address, swallowed) = middlebox("127.0.0.1:9".parse().unwrap(), 0).await;
        let (pool, to) = (world.worker(), endpoint(address));
        let error = acquire(&pool, &to).await.map(drop).unwrap_err();
        assert_eq!((error.reason(), swallowed.get()), (Reason::Timeout, 2));
        assert!(!world.counted("hello_dropped"));
        assert!(world.counted("reason=\"silent\"} 1\n"));
    })
    .await;
}

#[tokio::test]
async fn a_peer_with_plain_h2_takes_tunnels_only() {
    on_worker(async {
        let world = World::new();
        let ours = far(&world).await;
        let ztunnel = far_with(&world, &[b"h2"]).await;
        let pool = world.worker();
        assert!(acquire(&pool, &ours.endpoint()).await.unwrap().takes_requests(), "isthmus/1 is offered first");
        assert!(!acquire(&pool, &ztunnel.endpoint()).await.unwrap().takes_requests());
        let other = far_with(&world, &[b"http/1.1"]).await;
        assert_eq!(acquire(&pool, &other.endpoint()).await.map(drop).unwrap_err().reason(), Reason::PeerIdentity);
    })
    .await;
}
