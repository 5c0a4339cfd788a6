//! What is counted of real traffic through a pair.

use std::collections::BTreeMap;

use isthmus_certs::{Clock, SystemClock};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::world_test::{
    OWN, Spec, VIP, World, app, exchange, get, id, mirror, on_worker, publish_inbound, world, world_of,
};
use crate::flows::{FlowKey, Verdict};
use crate::reason::Reason;
use crate::state::policy::Arrived;
use crate::state::{AppProtocol, Enforcement, Transport};

/// Everything that was counted so far.
fn counted(world: &World) -> Vec<(FlowKey, u64)> {
    let mut collector = world.collector.borrow_mut();
    world.inbound.flows().ship();
    collector.merge(SystemClock.now_ms());
    collector.take(usize::MAX).flows.into_iter().map(|(key, counted)| ((*key).clone(), counted.count)).collect()
}

#[tokio::test]
async fn requests_are_counted_by_caller_method_and_template() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        for path in ["/orders/1", "/orders/2?x=1", "/orders/3", "/health"] {
            assert!(get(web, path, "").await.unwrap().starts_with("HTTP/1.1 200"));
        }
        let flows = counted(&world);
        let paths: BTreeMap<_, _> = flows.iter().map(|(key, count)| (key.path.as_deref().unwrap(), *count)).collect();
        assert_eq!(paths, BTreeMap::from([("/orders/{id}", 3), ("/health", 1)]));
        for (key, _) in &flows {
            assert_eq!((key.peer.as_ref(), key.port, key.arrived), (Some(&id("web")), port, Arrived::Mesh));
            assert_eq!(
                (key.method.as_deref(), key.verdict, key.host.as_deref()),
                (Some("GET"), Verdict::Allowed, None)
            );
        }
        assert!(counted(&world).is_empty(), "each decision is handed over once");
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_and_what_would_be_are_told_apart() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let spec = Spec { allow: Some(vec!["web"]), ..Spec::http(port) };
        let world = world_of(spec.clone(), "batch", "orders").await;
        let (batch, _) = world.capture(VIP).await;
        assert!(get(batch, "/", "").await.unwrap().starts_with("HTTP/1.1 403"));
        publish_inbound(&world.orders.state, 2, &Spec { enforcement: Enforcement::Observe, ..spec });
        assert!(get(batch, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
        let plain = world.capture_inbound((OWN, port).into()).await;
        let answer = exchange(plain, b"GET /plain HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut flows = counted(&world);
        flows.sort_by_key(|(key, _)| (key.peer.is_none(), key.verdict == Verdict::WouldRefuse));
        let told: Vec<_> =
            flows.iter().map(|(key, n)| (key.verdict, key.reason, key.policy.as_deref(), key.arrived, *n)).collect();
        let not_allowed = Some(Reason::NotAllowed);
        assert_eq!(
            told,
            [
                (Verdict::Refused, not_allowed, Some("shop/orders"), Arrived::Mesh, 1),
                (Verdict::WouldRefuse, not_allowed, Some("shop/orders"), Arrived::Mesh, 1),
                (Verdict::WouldRefuse, Some(Reason::Plaintext), None, Arrived::Plain, 1),
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_is_counted_once_however_often_it_is_looked_at_again() {
    on_worker(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let _ = tokio::io::copy(&mut stream.split().0, &mut tokio::io::sink()).await;
        })
        .await;
        let spec = Spec { protocol: AppProtocol::Tcp, transport: Transport::MeshOnly, ..Spec::http(port) };
        let world = world(spec.clone()).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await.unwrap();
        let mut flows = counted(&world);
        while flows.is_empty() {
            tokio::task::yield_now().await;
            flows = counted(&world);
        }
        assert_eq!((flows.len(), flows[0].1, flows[0].0.method.clone()), (1, 1, None));
        publish_inbound(&world.orders.state, 2, &spec);
        publish_inbound(&world.orders.state, 3, &spec);
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
        assert!(counted(&world).is_empty());
    })
    .await;
}
