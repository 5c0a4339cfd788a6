//! What is recorded for how it ended, where no request is sampled: whole trees over both proxies, and nothing for those
//! that went well.

use std::time::Duration;

use isthmus_proto::model::TrafficOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::spans_test::tree;
use super::world_test::{OWN, Spec, VIP, app, get, id, mirror, on_worker, publish_endpoints, world};
use crate::state::AppProtocol;
use crate::telemetry::Keep;

const KEEP: Keep = Keep { errors: true, denied: true, slower_than: None };

fn none(spec: Spec) -> Spec {
    Spec { traced: Some((0.0, KEEP)), ..spec }
}

/// Answers `GET /fail` by 500 and all else by 200.
async fn fails(mut stream: TcpStream) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        assert!(!head.windows(12).any(|part| part == b"traceparent:"), "nothing is added for what may be kept");
        let answer: &[u8] = if head.starts_with(b"GET /fail") {
            b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        };
        stream.write_all(answer).await.unwrap();
    }
}

fn heads(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split(':').next().unwrap()).collect()
}

#[tokio::test]
async fn a_rare_failure_is_kept_whole_and_nothing_else_is() {
    on_worker(Box::pin(async {
        let (port, _) = app(fails).await;
        let world = world(none(Spec::http(port))).await;
        let (web, _) = world.capture(VIP).await;
        for n in 0..200 {
            let path = if n == 137 { "/fail" } else { "/well" };
            let answer = get(web, path, "").await.unwrap();
            assert!(!answer.to_ascii_lowercase().contains("isthmus-kept"), "{answer}");
        }
        let spans = world.spans(3).await;
        let text = tree(&spans);
        assert_eq!(spans.len(), 3, "{text}");
        assert_eq!(
            heads(&text),
            ["GET client error()", "  link internal error()", "    GET server error()"]
                .map(|head| if head.contains("link") { "  link internal" } else { head }),
            "{text}"
        );
        assert_eq!(text.matches("isthmus.kept=error").count(), 2, "{text}");
        assert_eq!(text.matches("url.path=/fail").count(), 2, "{text}");
    }))
    .await;
}

#[tokio::test]
async fn an_unsampled_trace_of_the_apps_own_is_kept_in_place() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(none(Spec { allow: Some(vec!["batch"]), ..Spec::http(port) })).await;
        let (web, _) = world.capture(VIP).await;
        let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";
        assert!(get(web, "/", parent).await.unwrap().starts_with("HTTP/1.1 403"));
        let spans = world.spans(3).await;
        let text = tree(&spans);
        assert_eq!(heads(&text), ["GET client error(not-allowed)", "  link internal", "    GET server"], "{text}");
        assert_eq!(spans[0].trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let root = spans.iter().find(|span| span.span_id == root_of(&spans)).unwrap();
        assert_eq!(root.parent.unwrap().to_string(), "00f067aa0ba902b7");
        assert_eq!(text.matches("isthmus.kept=denied").count(), 2, "{text}");
    }))
    .await;
}

fn root_of(spans: &[crate::telemetry::Span]) -> crate::telemetry::SpanId {
    let root = spans.iter().find(|span| !spans.iter().any(|other| Some(other.span_id) == span.parent)).unwrap();
    root.span_id
}

#[tokio::test]
async fn tries_that_came_to_nothing_are_kept_with_the_one_that_failed() {
    on_worker(Box::pin(async {
        let (port, _) = app(fails).await;
        let world = world(none(Spec::http(port))).await;
        let nobody = TcpListener::bind((OWN, 0)).await.unwrap().local_addr().unwrap().port();
        let ports = [Some(nobody), Some(world.mesh.port())];
        publish_endpoints(&world.web_state, &ports, &id("orders"), &world.spec);
        let (web, _) = world.capture(VIP).await;
        let mut seen = Vec::new();
        for _ in 0..2 {
            assert!(get(web, "/fail", "").await.unwrap().starts_with("HTTP/1.1 500"));
            let mut spans = world.spans(3).await;
            if spans.iter().filter(|span| span.name == "link").count() == 2 && spans.len() == 3 {
                spans.extend(world.spans(1).await);
            }
            seen.push(tree(&spans));
        }
        let retried = seen.iter().find(|text| text.matches("link internal").count() == 2).expect("one was tried twice");
        assert!(retried.contains("\n  link internal error(connect-failed): "), "{retried}");
        assert!(retried.contains(" isthmus.retry=1 ") && retried.contains("\n    GET server error()"), "{retried}");
    }))
    .await;
}

#[tokio::test]
async fn what_is_slow_is_kept_by_both() {
    on_worker(Box::pin(async {
        let (port, _) = app(|stream| async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            fails(stream).await;
        })
        .await;
        let keep = Keep { errors: false, denied: false, slower_than: Some(Duration::from_millis(50)) };
        let world = world(Spec { traced: Some((0.0, keep)), ..Spec::http(port) }).await;
        let (web, _) = world.capture(VIP).await;
        get(web, "/", "").await.unwrap();
        let text = tree(&world.spans(3).await);
        assert_eq!(heads(&text), ["GET client", "  link internal", "    GET server"], "{text}");
        assert_eq!(text.matches("isthmus.kept=slow").count(), 2, "{text}");
    }))
    .await;
}

#[tokio::test]
async fn bytes_that_are_denied_are_kept() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let spec = Spec { protocol: AppProtocol::Tcp, allow: Some(vec!["batch"]), ..Spec::http(port) };
        let world = world(none(spec)).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        let spans = world.spans(2).await;
        for span in &spans {
            let told: Vec<String> =
                span.attributes.iter().map(|(name, value)| format!("{name}={}", value.to_text())).collect();
            assert!(told.contains(&"isthmus.kept=denied".to_owned()), "{told:?}");
            assert!(told.contains(&"isthmus.reason=not-allowed".to_owned()), "{told:?}");
        }
    }))
    .await;
}

/// A service's own ratio counts, whatever the mesh's is.
#[tokio::test]
async fn a_service_has_a_ratio_of_its_own() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let options = TrafficOptions { sampling_millionths: Some(1_000_000), ..TrafficOptions::default() };
        let world = world(none(Spec { options, ..Spec::http(port) })).await;
        let (web, _) = world.capture(VIP).await;
        get(web, "/", "").await.unwrap();
        let text = tree(&world.spans(3).await);
        assert_eq!(heads(&text), ["GET client", "  link internal", "    GET server"], "{text}");
        assert!(!text.contains("isthmus.kept"), "{text}");
    }))
    .await;
}
