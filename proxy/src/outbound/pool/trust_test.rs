//! What a change of whom we trust does to connections that are open: only those whom it concerns are touched.

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{
    CertificateAuthority, Clock as _, ManualClock, Revocations, Serial, SystemClock, TrustBundle, TrustDomain,
};

use super::ConnectError;
use super::pool_test::{HOUR, World, acquire, far, get, id, issue, on_worker, pass, until};

fn revoking(serial: Serial, epoch: u64) -> Revocations {
    Revocations { epoch, serials: [serial].into(), ..Revocations::default() }
}

#[tokio::test]
async fn a_revocation_of_others_and_a_root_beside_ours_leave_connections_alone() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        drop(acquire(&pool, &to).await.unwrap());
        assert!(world.identity.revoke(revoking(Serial::from_bytes(&[7]).unwrap(), 1)));
        let next = CertificateAuthority::generate(&TrustDomain::parse("shop.example").unwrap(), Arc::new(SystemClock));
        let both: Vec<_> =
            [world.identity.bundle(), next.unwrap().bundle()].iter().flat_map(|b| b.roots().to_vec()).collect();
        world.identity.set_bundle(TrustBundle::from_ders(both).unwrap());
        // Long enough for every successor that somebody might have wanted.
        pass(Duration::from_secs(10)).await;
        assert_eq!(get(&pool.try_acquire(&to).unwrap(), "/").await.unwrap(), 200);
        assert_eq!((far.accepted.get(), pool.open()), (1, 1), "nobody dialled again");
    })
    .await;
}

#[tokio::test]
async fn a_revoked_peer_loses_its_connection_and_its_streams_and_nobody_else_does() {
    on_worker(async {
        let world = World::new();
        let (good, bad) = (far(&world).await, far(&world).await);
        let pool = world.worker();
        let (to_good, to_bad) = (good.endpoint(), bad.endpoint());
        drop(acquire(&pool, &to_good).await.unwrap());
        // The same workload on another machine, with a certificate of its own.
        world.far.replace(issue(&world.ca, &id("orders"), HOUR)).unwrap();
        let held = acquire(&pool, &to_bad).await.unwrap();
        let open = get(&held, "/held");
        tokio::pin!(open);
        assert!(futures::poll!(open.as_mut()).is_pending());
        assert!(world.identity.revoke(revoking(world.far.current().unwrap().serial, 1)));
        assert!(open.await.is_err(), "the stream under way ended");
        until(|| pool.open() == 1).await;
        assert_eq!(get(&pool.try_acquire(&to_good).unwrap(), "/").await.unwrap(), 200);
        assert_eq!(good.accepted.get(), 1, "nobody dialled again");
        assert!(acquire(&pool, &to_bad).await.is_err(), "and the revoked one is not called again");
    })
    .await;
}

#[tokio::test]
async fn streams_outlive_the_callees_certificate_by_max_stream_age_and_no_longer() {
    on_worker(async {
        let clock = ManualClock::at_ms(SystemClock.now_ms());
        let world = World::by(Arc::new(clock.clone()));
        let far = far(&world).await;
        let pool = world.worker();
        let held = acquire(&pool, &far.endpoint()).await.unwrap();
        // An answer: the callee has looked at our certificate as well, and at the time that was.
        assert_eq!(get(&held, "/").await.unwrap(), 200);
        let open = get(&held, "/held");
        tokio::pin!(open);
        assert!(futures::poll!(open.as_mut()).is_pending());
        // The mesh says 24 h where it says nothing else.
        let mesh = || crate::state::Mesh::clone(&world.state.snapshot());
        clock.advance(HOUR * 24);
        world.state.publish(mesh());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(futures::poll!(open.as_mut()).is_pending(), "the certificate ended hours before, the stream goes on");
        clock.advance(HOUR + Duration::from_secs(2));
        world.state.publish(mesh());
        assert!(open.await.is_err(), "the stream ended");
        assert!(world.counted("{event=\"outlived-certificate\"} 1\n"));
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_the_callee_refuses_is_named_though_the_handshake_looked_done() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        let own = world.identity.current().unwrap().serial;
        assert!(world.far.revoke(revoking(own, 1)));
        let slot = acquire(&pool, &to).await.unwrap();
        assert!(get(&slot, "/").await.is_err());
        until(|| world.counted("revoked-by-peer")).await;
        let Err(error) = acquire(&pool, &to).await else { panic!("called again at once") };
        assert!(matches!(error, ConnectError::Handshake(..)), "{error}");
        assert_eq!(error.reason(), crate::reason::Reason::PeerIdentity);
    })
    .await;
}
