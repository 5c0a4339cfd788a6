//! Answers that fail after a good head, where no request is sampled: what breaks is kept whole by both proxies and in one
//! trace, and nothing is of those that end as they should, or that whoever asked wants no more of.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::spans_test::{all, client, http2_app, tree};
use super::under_way::UnderWay;
use super::world_test::{Spec, VIP, World, app, get, mirror, on_worker, publish_inbound, world};
use crate::http::Body;
use crate::http::followed::MOST;
use crate::state::AppProtocol;
use crate::telemetry::{Keep, Span};

const KEEP: Keep = Keep { errors: true, denied: true, slower_than: None };

fn none(spec: Spec) -> Spec {
    Spec { traced: Some((0.0, KEEP)), ..spec }
}

fn http2(port: u16) -> Spec {
    none(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) })
}

fn heads(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split(':').next().unwrap()).collect()
}

/// What was recorded until now, once no answer is under way any more.
async fn recorded(world: &World) -> Vec<Span> {
    while world.inbound.followed.count() > 0 || world.outbound.followed().0 > 0 {
        tokio::task::yield_now().await;
    }
    world.spans.borrow_mut().iter_mut().flat_map(|queue| std::iter::from_fn(|| queue.take())).collect()
}

async fn text(world: &World) -> String {
    tree(&recorded(world).await)
}

/// A gRPC server that sends two messages, and then the code that the method is called.
async fn grpc_app() -> u16 {
    http2_app(|request, mut respond| async move {
        let code = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        for message in ["one", "two"] {
            body.send_data(message.into(), false).unwrap();
            tokio::task::yield_now().await;
        }
        body.send_trailers([("grpc-status".parse().unwrap(), code.parse().unwrap())].into_iter().collect()).unwrap();
    })
    .await
}

async fn call(sender: &h2::client::SendRequest<Bytes>, code: &str) -> HeaderMap {
    let request = Request::post(format!("http://orders.shop/shop.Orders/{code}"));
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    let mut body = sender.clone().send_request(request, true).unwrap().0.await.unwrap().into_body();
    while let Some(piece) = body.data().await {
        piece.unwrap();
    }
    body.trailers().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_grpc_code_in_trailers_is_kept() {
    on_worker(Box::pin(async {
        let world = world(http2(grpc_app().await)).await;
        let sender = client(&world).await;
        assert_eq!(call(&sender, "0").await["grpc-status"], "0");
        assert_eq!(recorded(&world).await, []);
        for (code, name, clients, servers) in
            [("13", "INTERNAL", " error(INTERNAL)", " error(INTERNAL)"), ("5", "NOT_FOUND", " error(NOT_FOUND)", "")]
        {
            let trailers = call(&sender, code).await;
            assert_eq!((trailers["grpc-status"].to_str().unwrap(), trailers.len()), (code, 1));
            let text = text(&world).await;
            let expected = [
                format!("shop.Orders/{code} client{clients}"),
                "  link internal".to_owned(),
                format!("    shop.Orders/{code} server{servers}"),
            ];
            assert_eq!(heads(&text), expected, "{text}");
            let end =
                format!("http.response.status_code=200 http.response.body.size=6 rpc.response.status_code={name}");
            assert_eq!(text.matches(&end).count(), 2, "{text}");
            assert_eq!(text.matches(" isthmus.kept=error ").count(), 2, "{text}");
            assert_eq!(text.matches(&format!(" url.path=/shop.Orders/{code} ")).count(), 2, "{text}");
        }
    }))
    .await;
}

/// Where the caller's app has a trace of its own that it does not sample, what is kept is in that.
#[tokio::test]
async fn it_is_kept_in_the_trace_that_the_app_named() {
    on_worker(Box::pin(async {
        let world = world(http2(grpc_app().await)).await;
        let request = Request::post("http://orders.shop/shop.Orders/13")
            .header("content-type", "application/grpc")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        let answer = client(&world).await.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
        let mut body = answer.into_body();
        while body.data().await.is_some() {}
        let spans = recorded(&world).await;
        assert_eq!(heads(&tree(&spans)).len(), 3, "{spans:?}");
        assert!(spans.iter().all(|span| span.trace_id.to_string() == "4bf92f3577b34da6a3ce929d0e0e4736"), "{spans:?}");
    }))
    .await;
}

/// Answers `/whole` in full. All else gets a head and half of what that promised, and, when the caller has it, an end of that
/// name.
async fn breaks(heard: Rc<Notify>) -> u16 {
    let serve = move |mut stream: TcpStream| {
        let heard = Rc::clone(&heard);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let path = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
            let (framing, first, rest) = match path.as_str() {
                "/whole" => ("Content-Length: 8", "4321", "8765"),
                "/nonsense" => ("Transfer-Encoding: chunked", "4\r\n4321\r\n", "zz\r\n"),
                "/chunks" => ("Transfer-Encoding: chunked", "4\r\n4321\r\n", ""),
                _ => ("Content-Length: 8", "4321", ""),
            };
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{first}").as_bytes()).await.unwrap();
            heard.notified().await;
            stream.write_all(rest.as_bytes()).await.unwrap();
            match path.as_str() {
                "/reset" => crate::tcp::reset(stream),
                _ => stream.shutdown().await.unwrap(),
            }
        }
    };
    app(serve).await.0
}

/// Asks, and reads up to the half.
async fn half(world: &World, path: &str) -> TcpStream {
    let (web, _) = world.capture(VIP).await;
    let mut stream = TcpStream::connect(web).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: orders.shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.windows(4).any(|part| part == b"4321") {
        got.push(stream.read_u8().await.unwrap());
    }
    stream
}

#[tokio::test]
async fn a_body_that_breaks_off_in_http1_is_kept() {
    on_worker(Box::pin(async {
        let heard = Rc::new(Notify::new());
        let world = world(none(Spec::http(breaks(Rc::clone(&heard)).await))).await;
        for (path, word, reset) in [
            ("/whole", "", ""),
            ("/reset", "reset", "CANCEL"),
            ("/short", "broken", "CANCEL"),
            ("/chunks", "broken", "CANCEL"),
            ("/nonsense", "malformed-response", "PROTOCOL_ERROR"),
        ] {
            let mut stream = half(&world, path).await;
            heard.notify_one();
            let mut rest = Vec::new();
            let read = stream.read_to_end(&mut rest).await;
            let text = text(&world).await;
            if path == "/whole" {
                assert_eq!((read.unwrap(), text.as_str()), (4, ""));
                continue;
            }
            assert!(!rest.ends_with(b"0\r\n\r\n"), "a part is never the whole: {rest:?}");
            let expected = ["GET client error(reset)", "  link internal", &format!("    GET server error({word})")];
            assert_eq!(heads(&text), expected, "{path}: {text}");
            let seen = format!(
                "http.response.status_code=200 http.response.body.size=4 isthmus.reset={reset} error.type=reset\n"
            );
            assert_eq!(text.matches(&seen).count(), 1, "{text}");
            assert!(text.contains(&format!("http.response.body.size=4 error.type={word}\n")), "{text}");
            assert_eq!(text.matches(" isthmus.kept=error ").count(), 2, "{text}");
        }
    }))
    .await;
}

#[tokio::test]
async fn a_stream_that_the_app_resets_after_its_head_is_kept() {
    on_worker(Box::pin(async {
        let port = http2_app(|_, mut respond| async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data("4321".into(), false).unwrap();
            tokio::task::yield_now().await;
            body.send_reset(h2::Reason::INTERNAL_ERROR);
        })
        .await;
        let world = world(http2(port)).await;
        let request = Request::get("http://orders.shop/").body(()).unwrap();
        // The reset may overtake what came before it.
        if let Ok(answer) = client(&world).await.send_request(request, true).unwrap().0.await {
            let mut body = answer.into_body();
            while let Some(Ok(_)) = body.data().await {}
        }
        let text = text(&world).await;
        let expected = ["GET client error(reset)", "  link internal", "    GET server error(reset)"];
        assert_eq!(heads(&text), expected, "{text}");
        assert_eq!(text.matches(" isthmus.reset=INTERNAL_ERROR error.type=reset\n").count(), 2, "{text}");
    }))
    .await;
}

/// The link, or the other sidecar: neither app has left.
#[tokio::test]
async fn a_mesh_connection_that_breaks_inside_an_answer_is_told_by_both() {
    on_worker(Box::pin(async {
        let heard = Rc::new(Notify::new());
        let world = world(none(Spec::http(breaks(heard).await))).await;
        let mut stream = half(&world, "/whole").await;
        let serials = [world.web.current().unwrap().serial].into();
        let revoked = isthmus_certs::Revocations { epoch: 1, serials, ..Default::default() };
        assert!(world.inbound.needs.identity.revoke(revoked));
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let text = text(&world).await;
        let expected = ["GET client error(broken)", "  link internal", "    GET server error(broken)"];
        assert_eq!(heads(&text), expected, "{text}");
    }))
    .await;
}

#[tokio::test]
async fn an_answer_that_a_new_policy_ends_is_kept_with_the_decision() {
    on_worker(Box::pin(async {
        let heard = Rc::new(Notify::new());
        let world = world(none(Spec::http(breaks(heard).await))).await;
        let mut stream = half(&world, "/whole").await;
        publish_inbound(&world.orders.state, 2, &Spec { allow: Some(vec!["batch"]), ..world.spec.clone() });
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let text = text(&world).await;
        let expected = ["GET client error(reset)", "  link internal", "    GET server error(not-allowed)"];
        assert_eq!(heads(&text), expected, "{text}");
        let server = text.lines().find(|line| line.contains("GET server")).unwrap();
        for part in [" isthmus.kept=denied ", " isthmus.decision.id=*", " isthmus.reason=not-allowed "] {
            assert!(server.contains(part), "{part} in {text}");
        }
    }))
    .await;
}

/// An app in HTTP/2 whose answers go on until nobody hears them; `/` with a beginning.
async fn endless() -> u16 {
    http2_app(|request, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        if request.uri().path() == "/" {
            let _ = body.send_data("4321".into(), false);
        }
        let _ = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
    })
    .await
}

/// A download that is given up, the end of a subscription: the answer was good, and whoever asked had enough of it.
#[tokio::test]
async fn whoever_leaves_inside_an_answer_is_no_failure_of_the_servers() {
    on_worker(Box::pin(async {
        let port = endless().await;
        let spec = || Spec { protocol: AppProtocol::Http2, ..Spec::http(port) };
        for (world, heads_expected, telling) in [
            (world(none(spec())).await, &[][..], 0),
            (world(all(spec())).await, &["GET client error(caller-gone)", "  link internal", "    GET server"], 2),
        ] {
            let request = Request::get("http://orders.shop/").body(()).unwrap();
            let answer = client(&world).await.send_request(request, true).unwrap().0.await.unwrap();
            let mut body = answer.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "4321");
            drop(body);
            let text = text(&world).await;
            assert_eq!(heads(&text), heads_expected, "{text}");
            assert_eq!(text.matches(" isthmus.reason=caller-gone").count(), telling, "{text}");
        }
    }))
    .await;
}

#[tokio::test]
async fn answers_that_are_here_with_their_head_take_no_place() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(none(Spec::http(port))).await;
        let (web, _) = world.capture(VIP).await;
        for _ in 0..10 {
            assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
        }
        assert_eq!((world.inbound.followed.room(), world.outbound.followed()), (0, (0, 0)));
        assert_eq!(recorded(&world).await, []);
    }))
    .await;
}

#[tokio::test]
async fn beyond_so_many_they_are_counted_and_not_followed() {
    on_worker(Box::pin(async {
        let world = world(http2(endless().await)).await;
        let heard = Rc::new(Cell::new(0));
        let mut open = Vec::new();
        while open.len() < MOST + 1 {
            let mut sender = client(&world).await;
            for _ in 0..900.min(MOST + 1 - open.len()) {
                let request = Request::get("http://orders.shop/silent").body(()).unwrap();
                sender = sender.ready().await.unwrap();
                let (answer, _) = sender.send_request(request, true).unwrap();
                let heard = Rc::clone(&heard);
                open.push(tokio::task::spawn_local(async move {
                    let body = answer.await.unwrap().into_body();
                    heard.set(heard.get() + 1);
                    std::future::pending::<()>().await;
                    drop(body);
                }));
            }
        }
        while heard.get() < MOST + 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!((world.inbound.followed.count(), world.outbound.followed().0), (MOST, MOST));
        for (metrics, direction) in [(&world.orders.metrics, "inbound"), (&world.web_metrics, "outbound")] {
            let line = format!("isthmus_answers_not_followed_total{{direction=\"{direction}\"}} 1\n");
            assert!(metrics.render().contains(&line), "{line}");
        }
        open.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(recorded(&world).await, []);
        assert!(world.inbound.followed.room() < MOST, "room follows use");
    }))
    .await;
}

#[test]
fn what_is_remembered_stays_in_its_budget() {
    let one = size_of::<Option<UnderWay>>() + size_of::<Body>() + 16;
    println!("an answer under way: {one} B");
    assert!(MOST * one <= 2 << 20, "{one} B");
}
