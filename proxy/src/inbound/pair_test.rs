//! Requests through the pair: what arrives, what is refused, what survives a rotation.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world_test::{
    Spec, VIP, app, exchange, get, id, identity, mirror, on_worker, publish_inbound, world, world_of,
};
use crate::outbound::pool::Limits;
use crate::state::{AppProtocol, Enforcement};
use crate::telemetry::{AccessLog, AccessMode, AccessSettings, Metrics};

#[tokio::test]
async fn a_request_crosses_the_pair_and_the_app_learns_who_called() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let answer = get(web, "/a?b=c", &format!("{parent}\r\n")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("GET /a?b=c\n"), "{answer}");
        assert!(answer.contains("host: orders.shop\n"), "{answer}");
        let xfcc = "x-forwarded-client-cert: By=spiffe://shop.example/ns/shop/sa/orders;URI=spiffe://shop.example/ns/shop/sa/web";
        assert!(answer.contains(xfcc), "{answer}");
        assert!(answer.contains(parent), "nobody records it here: the app's span stays the parent: {answer}");
        assert!(answer.to_lowercase().contains("x-kept: yes"), "{answer}");
        assert!(!answer.contains("isthmus"), "nothing that sidecars say reaches an app, and no forgery: {answer}");
    })
    .await;
}

#[tokio::test]
async fn forged_headers_of_an_app_are_gone_in_every_spelling() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let forged = "isthmus-port: 22\r\nIsthmus_Port: 22\r\nX-Forwarded-Client-Cert: URI=spiffe://shop.example/ns/shop/sa/admin\r\n\
                      x_forwarded_client_cert: URI=x\r\nX-Drop: 1\r\nConnection: x-drop, x-forwarded-client-cert, isthmus-port\r\n";
        let answer = get(web, "/", forged).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(!answer.contains("isthmus") && !answer.contains("admin") && !answer.contains("x-drop"), "{answer}");
        assert_eq!(answer.matches("client").count(), 1, "only ours: {answer}");
    })
    .await;
}

#[tokio::test]
async fn bodies_and_trailers_arrive_as_they_were_sent() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let request = "POST / HTTP/1.1\r\nHost: o\r\nConnection: close\r\nTrailer: x-sum, isthmus-port\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\nisthmus-port: 22\r\nisthmus_x: 1\r\n\r\n";
        let answer = exchange(web, request.as_bytes()).await.unwrap();
        assert!(answer.contains("hello world"), "{answer}");
        assert!(answer.contains("t-x-sum: 11"), "{answer}");
        assert!(!answer.contains("t-isthmus"), "{answer}");
        let big = "x".repeat(3_000_000);
        let request = format!("POST / HTTP/1.1\r\nHost: o\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{big}", big.len());
        let answer = exchange(web, request.as_bytes()).await.unwrap();
        assert!(answer.ends_with(&big), "{} bytes came back", answer.len());
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_is_not_allowed_gets_a_word_and_an_id_and_the_operator_the_rule() {
    on_worker(async {
        let (port, accepted) = app(mirror).await;
        let world = world_of(Spec { allow: Some(vec!["web"]), ..Spec::http(port) }, "batch", "orders").await;
        let (batch, _) = world.capture(VIP).await;
        let answer = get(batch, "/", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden"), "{answer}");
        assert!(answer.ends_with("not-allowed"), "{answer}");
        let header =
            answer.lines().find_map(|line| line.to_lowercase().strip_prefix("isthmus-decision: ").map(str::to_owned));
        let record = world.decisions.get(header.unwrap().trim()).expect("the decision is remembered");
        assert_eq!(record.policy.as_deref(), Some("shop/orders"));
        assert!(record.would_allow.unwrap().contains("sa/batch"));
        assert_eq!(accepted.get(), 0);
        // The control arm: the same bytes with the rule relaxed.
        publish_inbound(&world.orders.state, 2, &Spec { allow: Some(vec!["web", "batch"]), ..world.spec.clone() });
        assert!(get(batch, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(accepted.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn in_observe_a_refusal_is_recorded_and_the_request_passes() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let spec = Spec { allow: Some(vec![]), enforcement: Enforcement::Observe, ..Spec::http(port) };
        let world = world(spec).await;
        let (web, _) = world.capture(VIP).await;
        assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
        let recent = world.decisions.recent();
        assert!(recent.len() == 1 && !recent[0].enforced, "{recent:?}");
    })
    .await;
}

#[tokio::test]
async fn an_address_of_the_mesh_that_nobody_knows_is_refused() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture("10.96.0.1:81".parse().unwrap()).await;
        let answer = get(web, "/", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 502") && answer.ends_with("destination-unknown"), "{answer}");
        let reset = exchange(web, b"\0\0\0\0").await;
        assert_eq!(reset.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn a_peer_with_another_identity_than_the_endpoint_may_have_is_not_spoken_to() {
    on_worker(async {
        let (port, accepted) = app(mirror).await;
        let world = world_of(Spec::http(port), "web", "payments").await;
        let (web, _) = world.capture(VIP).await;
        let answer = get(web, "/", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 502") && answer.ends_with("peer-identity"), "{answer}");
        assert_eq!(accepted.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn rotations_under_load_cost_no_request() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = Rc::new(world(Spec::http(port)).await);
        let (web, _) = world.capture(VIP).await;
        let done = Rc::new(Cell::new(0));
        let workers = (0..10).map(|_| {
            let done = Rc::clone(&done);
            tokio::task::spawn_local(async move {
                for _ in 0..200 {
                    let answer = get(web, "/", "").await.unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    done.set(done.get() + 1);
                }
            })
        });
        let workers: Vec<_> = workers.collect();
        let rotating = Rc::clone(&world);
        let progress = Rc::clone(&done);
        let rotations = tokio::task::spawn_local(async move {
            for rotation in 1..=5 {
                while progress.get() < rotation * 300 {
                    tokio::task::yield_now().await;
                }
                rotating.web.replace(identity(&rotating.ca, &id("web"), Duration::from_secs(3600))).unwrap();
            }
        });
        for worker in workers {
            worker.await.unwrap();
        }
        rotations.await.unwrap();
        assert_eq!(done.get(), 2_000);
        while world.outbound.mesh_connections() > Limits::default().per_peer {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_open_goes_back_to_nothing() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, open) = world.capture(VIP).await;
        for _ in 0..10 {
            let mut held = Vec::new();
            for _ in 0..100 {
                held.push(TcpStream::connect(web).await.unwrap());
            }
            while open.get() < 100 {
                tokio::task::yield_now().await;
            }
            drop(held);
            while open.get() > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(world.outbound.mesh_connections() <= Limits::default().per_peer);
        assert_eq!(world.inbound.app_connections(), 0);
        let _ = (&world.web_state, &world.stop, &world.orders.metrics);
    })
    .await;
}

/// An HTTP/2 app that echoes each message as it comes, then ends with trailers: gRPC in all but name.
async fn grpc_app(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::task::spawn_local(async move {
            let te = request.headers().get("te").is_some_and(|te| te == "trailers");
            let response =
                http::Response::builder().header("content-type", "application/grpc").header("x-te", te.to_string());
            let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
            let mut body = request.into_body();
            while let Some(Ok(bytes)) = body.data().await {
                let _ = body.flow_control().release_capacity(bytes.len());
                send.send_data(bytes, false).unwrap();
            }
            let trailers = [("grpc-status", "0"), ("isthmus-x", "1")];
            let trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            send.send_trailers(trailers.collect::<http::HeaderMap>()).unwrap();
        });
    }
}

#[tokio::test]
async fn a_stream_of_messages_goes_both_ways_at_once_and_ends_with_trailers() {
    on_worker(async {
        let (port, _) = app(grpc_app).await;
        let world = world(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) }).await;
        let (web, _) = world.capture(VIP).await;
        let (sender, connection) = h2::client::handshake(TcpStream::connect(web).await.unwrap()).await.unwrap();
        tokio::task::spawn_local(async move { connection.await.unwrap() });
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::post("http://orders.shop/shop.Orders/Chat")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (response, mut send) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["x-te"], "true");
        let mut body = response.into_body();
        for message in ["one", "two", "three"] {
            // The next one leaves only after the answer to the last: nothing may be held back on the way.
            send.send_data(message.into(), false).unwrap();
            let back = body.data().await.unwrap().unwrap();
            let _ = body.flow_control().release_capacity(back.len());
            assert_eq!(back, message);
        }
        send.send_data("".into(), true).unwrap();
        while let Some(rest) = body.data().await {
            assert!(rest.unwrap().is_empty());
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!((trailers["grpc-status"].to_str().unwrap(), trailers.len()), ("0", 1));
    })
    .await;
}

#[tokio::test]
async fn a_refused_grpc_call_gets_a_grpc_status() {
    on_worker(async {
        let (port, accepted) = app(grpc_app).await;
        let spec = Spec { protocol: AppProtocol::Http2, allow: Some(vec!["batch"]), ..Spec::http(port) };
        let world = world(spec).await;
        let (web, _) = world.capture(VIP).await;
        let (sender, connection) = h2::client::handshake(TcpStream::connect(web).await.unwrap()).await.unwrap();
        tokio::task::spawn_local(async move { connection.await.unwrap() });
        let mut sender: h2::client::SendRequest<bytes::Bytes> = sender.ready().await.unwrap();
        let request = http::Request::post("http://orders.shop/a").header("content-type", "application/grpc");
        let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["isthmus-denied"], "not-allowed");
        assert_eq!(accepted.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer_at_the_other_end() {
    on_worker(async {
        let written = Rc::new(Cell::new(0usize));
        let counted = Rc::clone(&written);
        let (port, _) = app(move |mut stream: TcpStream| {
            let written = Rc::clone(&counted);
            async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
                while stream.write_all(&[7; 65536]).await.is_ok() {
                    written.set(written.get() + 65536);
                }
            }
        })
        .await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let mut client = TcpStream::connect(web).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: o\r\n\r\n").await.unwrap();
        // Until nothing moves any more: windows and socket buffers are full.
        let mut last = usize::MAX;
        while last != written.get() || last == 0 {
            last = written.get();
            let _ = tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await;
        }
        assert!(last < 64 << 20, "{last} bytes are held for a reader that does not read");
    })
    .await;
}

#[tokio::test]
async fn the_access_log_tells_of_both_sides_and_of_no_secret() {
    on_worker(async {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = Some(file.path().to_owned());
        let settings = AccessSettings { mode: AccessMode::All, path, ..AccessSettings::default() };
        let access = AccessLog::start(settings, Arc::new(SystemClock), &Metrics::new(1)).unwrap();
        let (port, _) = app(mirror).await;
        let spec = Spec { access: access.clone(), allow: Some(vec!["web"]), ..Spec::http(port) };
        let headers = "Authorization: Bearer hush\r\nCookie: a=hush\r\n";
        for (caller, status) in [("web", "200"), ("batch", "403")] {
            let world = world_of(spec.clone(), caller, "orders").await;
            let (captured, _) = world.capture(VIP).await;
            let answer = get(captured, "/a?q=1&token=hush", headers).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
        access.flush().await;
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains("hush"), "{text}");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = |line: &serde_json::Value| format!("{} {} {}", line["direction"], line["status"], line["reason"]);
        let expected = [
            "\"inbound\" 200 null",
            "\"outbound\" 200 null",
            "\"inbound\" 403 \"not-allowed\"",
            "\"outbound\" 403 \"not-allowed\"",
        ];
        assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), expected, "{text}");
        for line in &lines {
            assert_eq!((line["path"].as_str(), line["host"].as_str()), (Some("/a?q=1&token=-"), Some("orders.shop")));
        }
        assert_eq!(lines[0]["peer"], "spiffe://shop.example/ns/shop/sa/web");
        assert!(lines[1]["link_us"].is_u64() && lines[1]["app_us"].is_u64(), "{text}");
        // The same id at both ends: `isthmus explain` takes it.
        assert!(lines[2]["decision"].is_string() && lines[2]["decision"] == lines[3]["decision"], "{text}");
    })
    .await;
}
