//! Span trees, whole: names, kinds, parents, status and attributes of what both proxies record of one exchange. Values that
//! differ from run to run are written as `*`.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use isthmus_proto::model::{self, B3Headers, TrafficOptions};
use tokio::net::{TcpListener, TcpStream};

use super::world_test::{
    OWN, Spec, VIP, World, app, get, id, mirror, on_worker, publish_endpoints, publish_outbound, world,
};
use crate::state::{AppProtocol, Enforcement, Transport};
use crate::telemetry::{Keep, Kind, Span, Status};

pub(super) fn all(spec: Spec) -> Spec {
    Spec { traced: Some((1.0, Keep::default())), ..spec }
}

/// Depth first, the children of one span in the order of their beginning.
pub(super) fn tree(spans: &[Span]) -> String {
    let mut text = String::new();
    let known = |id| spans.iter().any(|span| Some(span.span_id) == id);
    for root in spans.iter().filter(|span| !known(span.parent)) {
        assert!(spans.iter().all(|span| span.trace_id == root.trace_id), "one trace: {spans:#?}");
        branch(spans, root, 0, &mut text);
    }
    text
}

fn branch(spans: &[Span], span: &Span, depth: usize, text: &mut String) {
    let (kind, status) = match span.kind {
        Kind::Client => ("client", &span.status),
        Kind::Server => ("server", &span.status),
        Kind::Internal => ("internal", &span.status),
    };
    let status = match status {
        Status::Unset | Status::Ok => String::new(),
        Status::Error(word) => format!(" error({word})"),
    };
    assert!(span.end_ns >= span.start_ns && span.start_ns > 1_700_000_000_000_000_000, "{span:?}");
    text.push_str(&format!("{}{} {kind}{status}:", "  ".repeat(depth), span.name));
    for (name, value) in span.attributes.iter() {
        let varies = name.starts_with("isthmus.time.") || name.starts_with("isthmus.tcp.") || name.ends_with(".port");
        let varies = varies || ["isthmus.decision.id", "tls.cipher", "tls.curve"].contains(&name);
        let value = if varies { "*".into() } else { value.to_text() };
        text.push_str(&format!(" {name}={value}"));
    }
    text.push('\n');
    let mut below: Vec<&Span> = spans.iter().filter(|other| other.parent == Some(span.span_id)).collect();
    below.sort_by_key(|span| span.start_ns);
    for other in below {
        branch(spans, other, depth + 1, text);
    }
}

/// What the link span of a try says that was answered with `status`.
fn link(status: u16) -> String {
    format!(
        "link internal: isthmus.hop=link network.peer.address=127.0.0.2 network.peer.port=* \
         isthmus.site.source=dc1 isthmus.site.destination=dc1 isthmus.peer.identity=spiffe://shop.example/ns/shop/sa/orders \
         tls.protocol.name=tls tls.protocol.version=1.3 tls.cipher=* tls.curve=* tls.established=true \
         isthmus.time.connect_us=* isthmus.time.link_us=* http.response.status_code={status}"
    )
}

pub(super) fn same(got: &str, expected: &[&str]) {
    let expected: String = expected.iter().map(|line| format!("{line}\n")).collect();
    assert!(got == expected, "got:\n{got}\nexpected:\n{expected}");
}

pub(super) async fn collected(world: &World, count: usize) -> String {
    let spans = world.spans(count).await;
    assert_eq!(spans.len(), count, "{}", tree(&spans));
    tree(&spans)
}

const OUT: &str = "isthmus.route=shop/orders:80 network.peer.address=127.0.0.2 network.peer.port=* isthmus.site.source=dc1 \
     isthmus.site.destination=dc1 isthmus.peer.identity=spiffe://shop.example/ns/shop/sa/orders isthmus.time.app_us=* \
     isthmus.time.link_us=* isthmus.time.inbound_us=* isthmus.time.outbound_us=* isthmus.time.connect_us=*";
const IN: &str = "client.address=127.0.0.1 network.peer.address=127.0.0.1";
const IN_MESH: &str = "server.port=* isthmus.peer.identity=spiffe://shop.example/ns/shop/sa/web isthmus.arrived=mesh \
     isthmus.site.destination=dc1";
const TIMES: &str = "isthmus.time.app_us=* isthmus.time.inbound_us=*";

#[tokio::test]
async fn a_request_of_http1() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(all(Spec::http(port))).await;
        let (web, _) = world.capture(VIP).await;
        let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        let answer = get(web, "/a?token=secret&x=1", parent).await.unwrap();
        assert!(answer.contains("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{answer}");
        let spans = world.spans(3).await;
        assert!(spans.iter().all(|span| span.trace_id.to_string() == "4bf92f3577b34da6a3ce929d0e0e4736"));
        let server = spans.iter().find(|span| span.kind == Kind::Server).unwrap();
        assert!(answer.contains(&format!("-{}-01\n", server.span_id)), "the app's spans are below: {answer}");
        let client = spans.iter().find(|span| span.name == "GET" && span.kind == Kind::Client).unwrap();
        assert_eq!(client.parent.unwrap().to_string(), "00f067aa0ba902b7", "the app's own span");
        let length = answer.split_once("\r\n\r\n").unwrap().1.len();
        let http = "http.request.method=GET network.protocol.version=1.1";
        same(
            &tree(&spans),
            &[
                &format!(
                    "GET client: isthmus.hop=outbound {http} url.full=http://orders.shop/a?token=-&x=1 \
                     server.address=orders.shop server.port=* {OUT} isthmus.decision=allowed \
                     http.response.status_code=200 http.response.body.size={length}"
                ),
                &format!("  {}", link(200)),
                &format!(
                    "    GET server: isthmus.hop=inbound {http} url.scheme=http url.path=/a url.query=token=-&x=1 \
                     server.address=orders.shop {IN} {IN_MESH} {TIMES} isthmus.decision=allowed \
                     http.response.status_code=200 http.response.body.size={length}"
                ),
            ],
        );
    }))
    .await;
}

/// An app in HTTP/2 that answers each request by `answer`.
pub(super) async fn http2_app<F: Future<Output = ()> + 'static>(
    answer: impl Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F + 'static,
) -> u16 {
    let answer = Rc::new(answer);
    let (port, _) = app(move |stream| {
        let answer = Rc::clone(&answer);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(answer(request, respond));
            }
        }
    })
    .await;
    port
}

pub(super) async fn client(world: &World) -> h2::client::SendRequest<Bytes> {
    let (captured, _) = world.capture(VIP).await;
    let stream = TcpStream::connect(captured).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::task::spawn_local(connection);
    sender.ready().await.unwrap()
}

fn http2(port: u16) -> Spec {
    all(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) })
}

#[tokio::test]
async fn a_grpc_stream_ends_with_its_trailers() {
    for (code, name, client_status, server_status) in [
        ("0", "OK", "", ""),
        ("5", "NOT_FOUND", " error(NOT_FOUND)", ""),
        ("13", "INTERNAL", " error(INTERNAL)", " error(INTERNAL)"),
    ] {
        on_worker(Box::pin(async move {
            let port = http2_app(move |_, mut respond| async move {
                let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut body = respond.send_response(response, false).unwrap();
                body.send_data("one".into(), false).unwrap();
                tokio::task::yield_now().await;
                body.send_data("two".into(), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", code.parse().unwrap());
                body.send_trailers(trailers).unwrap();
            })
            .await;
            let world = world(http2(port)).await;
            let request =
                Request::post("http://orders.shop/shop.Orders/Watch").header("content-type", "application/grpc");
            let sent = client(&world).await.send_request(request.body(()).unwrap(), true).unwrap().0;
            let mut body = sent.await.unwrap().into_body();
            while body.data().await.is_some() {}
            assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], code);
            let http = "http.request.method=POST rpc.system.name=grpc rpc.method=shop.Orders/Watch \
                        network.protocol.version=2";
            let failed = |status: &str| if status.is_empty() { String::new() } else { format!(" error.type={name}") };
            same(
                &collected(&world, 3).await,
                &[
                    &format!(
                        "shop.Orders/Watch client{client_status}: isthmus.hop=outbound {http} \
                         url.full=http://orders.shop/shop.Orders/Watch server.address=orders.shop server.port=* {OUT} \
                         isthmus.decision=allowed http.response.status_code=200 http.response.body.size=6 \
                         rpc.response.status_code={name}{}",
                        failed(client_status)
                    ),
                    &format!("  {}", link(200)),
                    &format!(
                        "    shop.Orders/Watch server{server_status}: isthmus.hop=inbound {http} url.scheme=http \
                         url.path=/shop.Orders/Watch server.address=orders.shop {IN} {IN_MESH} {TIMES} \
                         isthmus.decision=allowed http.response.status_code=200 http.response.body.size=6 \
                         rpc.response.status_code={name}{}",
                        failed(server_status)
                    ),
                ],
            );
        }))
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_the_app_resets() {
    on_worker(Box::pin(async {
        let port = http2_app(|_, mut respond| async move { respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM) }).await;
        let world = world(http2(port)).await;
        let request = Request::get("http://orders.shop/").body(()).unwrap();
        client(&world).await.send_request(request, true).unwrap().0.await.unwrap_err();
        let got = collected(&world, 3).await;
        let heads: Vec<&str> = got.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(
            heads,
            ["GET client error(reset)", "  link internal error(reset)", "    GET server error(reset)"],
            "{got}"
        );
        assert_eq!(got.matches("isthmus.reset=ENHANCE_YOUR_CALM").count(), 3, "{got}");
    }))
    .await;
}

#[tokio::test]
async fn a_request_that_is_denied() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(all(Spec { allow: Some(vec!["batch"]), ..Spec::http(port) })).await;
        let (web, _) = world.capture(VIP).await;
        assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 403"));
        let got = collected(&world, 3).await;
        let lines: Vec<&str> = got.lines().collect();
        let denied = "isthmus.decision=not-allowed isthmus.decision.id=* http.response.status_code=403 \
                      isthmus.reason=not-allowed";
        assert!(lines[0].starts_with("GET client error(not-allowed):"), "{got}");
        assert!(lines[0].contains(&format!("{denied} error.type=not-allowed")), "{got}");
        assert!(lines[1].starts_with("  link internal: "), "{got}");
        assert!(lines[2].starts_with("    GET server: ") && lines[2].contains(denied), "the caller's fault: {got}");
        assert!(!lines[2].contains("error.type"), "{got}");
    }))
    .await;
}

/// A policy in Audit, and a port that is only observed: the app answers, and metric, log, record and span say what it would
/// have been.
#[tokio::test]
async fn a_request_that_would_be_denied() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let audit = model::Rule {
            policy: "shop/audit".into(),
            index: 3,
            mode: model::RuleMode::Audit,
            until_ms: None,
            conditions: Ok(model::Conditions::default()),
        };
        let observe = Spec { allow: Some(vec!["batch"]), enforcement: Enforcement::Observe, ..Spec::http(port) };
        let audited = Spec { deny: vec![audit], ..Spec::http(port) };
        for (spec, word, because) in [
            (observe, "not-allowed", "ServicePolicy shop/orders denies what none allows"),
            (audited, "denied-by-rule", "ServicePolicy shop/audit refuses it in spec.deny[3]; it is in Audit"),
        ] {
            let world = world(all(spec)).await;
            let (web, _) = world.capture(VIP).await;
            assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
            let got = collected(&world, 3).await;
            let server = got.lines().find(|line| line.trim_start().starts_with("GET server")).unwrap_or(&got);
            let would = format!("isthmus.decision=allowed isthmus.would_refuse={word} isthmus.decision.id=* ");
            assert!(server.contains(&would) && !server.contains("error"), "{got}");
            assert_eq!(got.matches("would_refuse").count(), 1, "{got}");
            let records = world.decisions.recent();
            assert_eq!(records.len(), 1);
            assert!(!records[0].enforced && records[0].reason == word, "{records:?}");
            assert!(records[0].because.contains(because), "{records:?}");
            let counted = world.orders.metrics.render();
            let line = format!("isthmus_would_refuse_total{{direction=\"inbound\",reason=\"{word}\"}} 1");
            assert!(counted.contains(&line), "{counted}");
        }
    }))
    .await;
}

#[tokio::test]
async fn each_try_is_a_span_of_its_own() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(all(Spec::http(port))).await;
        let nobody = TcpListener::bind((OWN, 0)).await.unwrap().local_addr().unwrap().port();
        let ports = [Some(nobody), Some(world.mesh.port())];
        publish_endpoints(&world.web_state, &ports, &id("orders"), &world.spec);
        let (web, _) = world.capture(VIP).await;
        let mut retried = String::new();
        for _ in 0..2 {
            // Whose turn it is decides whether the first try fails.
            assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
            let mut spans = world.spans(3).await;
            tokio::task::yield_now().await;
            if spans.iter().filter(|span| span.name == "link").count() == 2 && spans.len() == 3 {
                spans.extend(world.spans(1).await);
            }
            let text = tree(&spans);
            if text.matches("link internal").count() == 2 {
                retried = text;
            }
        }
        let lines: Vec<&str> = retried.lines().collect();
        assert!(lines[0].starts_with("GET client: ") && lines[0].contains(" isthmus.retries=1 "), "{retried}");
        assert!(lines[1].starts_with("  link internal error(connect-failed): "), "{retried}");
        assert!(lines[1].ends_with(" error.type=connect-failed") && !lines[1].contains("resend_count"), "{retried}");
        assert!(
            lines[2].starts_with("  link internal: ")
                && lines[2].contains(" http.request.resend_count=1 isthmus.retry=1 ")
        );
        assert!(lines[3].starts_with("    GET server: "), "{retried}");
    }))
    .await;
}

#[tokio::test]
async fn a_request_that_nobody_answers_in_time() {
    on_worker(Box::pin(async {
        let (port, _) = app(|stream| async move {
            let _open = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let options = TrafficOptions { request_timeout: Some(Duration::from_secs(1)), ..TrafficOptions::default() };
        let world = world(all(Spec { options, ..Spec::http(port) })).await;
        let (web, _) = world.capture(VIP).await;
        assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 504"));
        let got = collected(&world, 3).await;
        let heads: Vec<&str> = got.lines().map(|line| line.split(':').next().unwrap()).collect();
        let expected = ["GET client error(timeout)", "  link internal", "    GET server error(timeout)"];
        assert_eq!(heads, expected, "{got}");
        let server = got.lines().nth(2).unwrap();
        assert!(server.contains(" isthmus.time.app_us=* "), "who was waited for: {got}");
    }))
    .await;
}

#[tokio::test]
async fn an_app_without_sidecar_is_told_of_the_span_above_it() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(all(Spec { transport: Transport::Permissive, ..Spec::http(port) })).await;
        publish_outbound(&world.web_state, None, &id("orders"), &world.spec);
        let (web, _) = world.capture(VIP).await;
        let answer = get(web, "/", "").await.unwrap();
        let spans = world.spans(1).await;
        let client = &spans[0];
        assert_eq!((client.kind, client.parent), (Kind::Client, None));
        let parent = format!("traceparent: 00-{}-{}-03", client.trace_id, client.span_id);
        assert!(answer.contains(&parent), "{parent} in {answer}");
    }))
    .await;
}

#[tokio::test]
async fn plain_callers_and_b3_for_those_who_ask() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let options = TrafficOptions { b3: Some(B3Headers::Multi), ..TrafficOptions::default() };
        let spec = Spec { transport: Transport::Permissive, options, ..Spec::http(port) };
        let world = world(all(spec)).await;
        let direct = world.capture_inbound((OWN, port).into()).await;
        let answer = get(direct, "/", "").await.unwrap();
        let spans = world.spans(1).await;
        let root = &spans[0];
        assert_eq!((root.kind, root.parent), (Kind::Server, None));
        for line in [
            format!("x-b3-traceid: {}", root.trace_id),
            format!("x-b3-spanid: {}", root.span_id),
            "x-b3-sampled: 1".to_owned(),
            format!("traceparent: 00-{}-{}-03", root.trace_id, root.span_id),
        ] {
            assert!(answer.contains(&line), "{line} in {answer}");
        }
        assert!(!answer.contains("x-b3-parentspanid"), "{answer}");
        assert!(tree(&spans).contains(" isthmus.arrived=plaintext "), "{}", tree(&spans));
    }))
    .await;
}
