//! What passes is counted by edge on both sides, and shown to who looks: requests and connections of bytes alike.

use isthmus_proto::live::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world_test::{
    OWN, Spec, VIP, World, app, exchange, get, id, mirror, on_worker, publish_inbound, publish_outbound, world,
};
use crate::state::{AppProtocol, Transport};
use crate::telemetry::{Filter, Looking, Metrics, Passed};

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

fn tcp(port: u16) -> Spec {
    Spec { protocol: AppProtocol::Tcp, ..Spec::http(port) }
}

fn look(metrics: &Metrics) -> Looking {
    metrics.live().look(Filter::read(wire::Filter::default())).unwrap()
}

async fn one(looking: &mut Looking) -> Passed {
    let mut passed = looking.next(10).await;
    assert_eq!(passed.len(), 1, "{passed:?}");
    passed.remove(0)
}

fn has(metrics: &Metrics, line: &str) {
    let text = metrics.render();
    assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
}

/// Three bytes there, and the same back.
async fn three_bytes(world: &World) {
    let (web, _) = world.capture(VIP).await;
    let mut stream = TcpStream::connect(web).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"abc");
}

#[tokio::test]
async fn a_connection_of_bytes_counts_on_its_edge_on_both_sides_and_is_seen_by_who_looks() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let world = world(tcp(port)).await;
        let (mut out, mut inside) = (look(&world.web_metrics), look(&world.orders.metrics));
        three_bytes(&world).await;
        let (out, inside) = (one(&mut out).await, one(&mut inside).await);
        let said = |passed: &Passed| (passed.protocol.clone(), passed.to_callee, passed.from_callee, passed.status);
        assert_eq!(said(&out), ("tcp".to_owned(), 3, 3, 0));
        assert_eq!(said(&inside), ("tcp".to_owned(), 3, 3, 0));
        assert_eq!((out.callee.as_str(), out.port, out.site.as_str()), ("shop/orders", 80, "dc1"));
        assert_eq!((out.transport.as_str(), inside.transport.as_str()), ("mesh", "mesh"));
        let web = id("web").to_string();
        assert_eq!((&out.caller, &inside.caller), (&web, &web));
        assert_eq!((inside.callee.as_str(), inside.port), ("shop/orders", u32::from(port)));
        assert!(out.reason.is_empty() && out.duration_us > 0 && inside.duration_us > 0);
        let labels = r#"service="shop/orders",port="80",site="dc1""#;
        has(&world.web_metrics, &format!("isthmus_service_connections_total{{{labels}}} 1"));
        has(&world.web_metrics, &format!("isthmus_service_bytes_total{{{labels},flow=\"to-callee\"}} 3"));
        let labels = format!(r#"caller="{web}",port="{port}""#);
        has(&world.orders.metrics, &format!("isthmus_caller_connections_total{{{labels}}} 1"));
        has(&world.orders.metrics, &format!("isthmus_caller_bytes_total{{{labels},flow=\"from-callee\"}} 3"));
        has(&world.orders.metrics, r#"isthmus_bytes_total{direction="inbound",flow="to-callee"} 3"#);
    })
    .await;
}

#[tokio::test]
async fn without_a_sidecar_it_counts_at_no_site_and_from_nobody() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let spec = Spec { transport: Transport::Permissive, ..tcp(port) };
        let world = world(spec.clone()).await;
        publish_outbound(&world.web_state, None, &id("orders"), &spec);
        let mut looking = look(&world.web_metrics);
        three_bytes(&world).await;
        let passed = one(&mut looking).await;
        assert_eq!((passed.transport.as_str(), passed.site.as_str(), passed.to_callee), ("plaintext", "", 3));
        has(&world.web_metrics, r#"isthmus_service_connections_total{service="shop/orders",port="80",site=""} 1"#);
        let past = world.capture_inbound((OWN, port).into()).await;
        let mut looking = look(&world.orders.metrics);
        let mut stream = TcpStream::connect(past).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let passed = one(&mut looking).await;
        assert_eq!((passed.caller.as_str(), passed.to_callee, passed.from_callee), ("127.0.0.1", 5, 5));
        has(&world.orders.metrics, &format!(r#"isthmus_caller_connections_total{{caller="unknown",port="{port}"}} 1"#));
    })
    .await;
}

#[tokio::test]
async fn a_refused_connection_is_seen_on_both_sides_with_its_word_and_counts_on_no_edge() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let world = world(Spec { allow: Some(vec!["batch"]), ..tcp(port) }).await;
        let (mut out, mut inside) = (look(&world.web_metrics), look(&world.orders.metrics));
        let (web, _) = world.capture(VIP).await;
        exchange(web, b"hello").await.unwrap_err();
        let (out, inside) = (one(&mut out).await, one(&mut inside).await);
        assert_eq!((out.reason.as_str(), inside.reason.as_str()), ("not-allowed", "not-allowed"));
        assert!(!inside.decision.is_empty() && out.decision == inside.decision, "{out:?} {inside:?}");
        assert!(!world.web_metrics.render().contains("isthmus_service_connections_total{"));
        assert!(!world.orders.metrics.render().contains("isthmus_caller_connections_total{"));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_a_new_policy_ends_says_so() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let world = world(tcp(port)).await;
        let mut looking = look(&world.orders.metrics);
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        publish_inbound(&world.orders.state, 2, &Spec { allow: Some(vec!["batch"]), ..tcp(port) });
        let passed = one(&mut looking).await;
        assert_eq!((passed.reason.as_str(), passed.to_callee, passed.from_callee), ("not-allowed", 5, 5));
    })
    .await;
}

/// Nobody looks, nothing is traced: the site that answered is known all the same.
#[tokio::test]
async fn a_request_counts_at_the_site_that_answered() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
        let labels = r#"service="shop/orders",port="80",site="dc1",status="2xx""#;
        has(&world.web_metrics, &format!("isthmus_service_requests_total{{{labels}}} 1"));
    })
    .await;
}

/// Whatever paths, queries and hosts callers think of: not one more line on either page.
#[tokio::test]
async fn what_callers_make_up_makes_no_series() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let names = |metrics: &Metrics| -> Vec<String> {
            let text = metrics.render();
            let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
            series.map(|(name, _)| name.to_owned()).collect()
        };
        assert!(get(web, "/first", "").await.unwrap().starts_with("HTTP/1.1 200"));
        let before = [names(&world.web_metrics), names(&world.orders.metrics)];
        for number in 0..300 {
            let answer =
                get(web, &format!("/p{number}/{number}?q={number}"), &format!("x-{number}: {number}\r\n")).await;
            assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
        }
        assert_eq!([names(&world.web_metrics), names(&world.orders.metrics)], before);
        has(&world.web_metrics, r#"isthmus_requests_total{direction="outbound",status="2xx"} 301"#);
    })
    .await;
}
