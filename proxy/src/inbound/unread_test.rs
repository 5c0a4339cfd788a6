//! What is refused before it is a request of either side: a span with the reason, where the trace is recorded or where what is
//! refused is kept.

use std::net::{IpAddr, Ipv4Addr};

use http::Request;
use isthmus_certs::ExpectedPeer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::hostile_test::{dial, send};
use super::spans_test::{same, tree};
use super::world_test::{OWN, Spec, VIP, World, app, exchange, get, id, mirror, on_worker, world};
use crate::http::abuse_test::{END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame};
use crate::state::{AppProtocol, Transport};
use crate::telemetry::{Keep, Span};
use crate::tls;

const DENIED: Keep = Keep { errors: false, denied: true, slower_than: None };
const ERRORS: Keep = Keep { errors: true, denied: false, slower_than: None };

fn keeping(keep: Keep, spec: Spec) -> Spec {
    Spec { traced: Some((0.0, keep)), ..spec }
}

/// What was recorded until now: all of it, before the answer was.
fn recorded(world: &World) -> Vec<Span> {
    world.spans.borrow_mut().iter_mut().flat_map(|queue| std::iter::from_fn(|| queue.take())).collect()
}

fn refused(status: u16, word: &str) -> String {
    format!("isthmus.decision={word} http.response.status_code={status} isthmus.reason={word}")
}

#[tokio::test]
async fn heads_that_cannot_be_read_on_either_side() {
    let large = format!("GET / HTTP/1.1\r\nHost: o\r\nX: {}\r\n\r\n", "x".repeat(128 * 1024));
    let cases: [(&[u8], u16, &str); 3] = [
        (
            b"POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "ambiguous-framing",
        ),
        (b"GET / HTTP/1.1\r\nHost : o\r\n\r\n", 400, "malformed-request"),
        (large.as_bytes(), 431, "headers-too-large"),
    ];
    on_worker(Box::pin(async move {
        let (port, accepted) = app(mirror).await;
        let http = "http.request.method=_OTHER";
        for (bytes, status, word) in cases {
            for (keep, kept) in [(Some(DENIED), " isthmus.kept=denied"), (Some(ERRORS), "-"), (None, "")] {
                let spec = Spec { transport: Transport::Permissive, ..Spec::http(port) };
                let world = world(match keep {
                    Some(keep) => keeping(keep, spec),
                    None => Spec { traced: Some((1.0, Keep::default())), ..spec },
                })
                .await;
                let (outbound, _) = world.capture(VIP).await;
                let inbound = world.capture_inbound((OWN, port).into()).await;
                let expected = [
                    (
                        outbound,
                        format!(
                            "HTTP client error({word}): isthmus.hop=outbound{kept} {http} server.address=10.96.0.1 \
                             server.port=* {} error.type={word}",
                            refused(status, word)
                        ),
                    ),
                    (
                        inbound,
                        format!(
                            "HTTP server: isthmus.hop=inbound{kept} {http} client.address=127.0.0.1 \
                             network.peer.address=127.0.0.1 server.address=127.0.0.2 server.port=* \
                             isthmus.arrived=plaintext isthmus.site.destination=dc1 {}",
                            refused(status, word)
                        ),
                    ),
                ];
                for (to, line) in expected {
                    // Reset, where bytes were left unread: the answer may be lost with them, the span is not.
                    if let Ok(answer) = exchange(to, bytes).await {
                        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                    }
                    match kept {
                        "-" => assert_eq!(recorded(&world), []),
                        _ => same(&tree(&recorded(&world)), &[&line]),
                    }
                }
            }
        }
        assert_eq!(accepted.get(), 0);
    }))
    .await;
}

#[tokio::test]
async fn requests_whose_host_can_be_read_in_more_than_one_way() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let spec = Spec { transport: Transport::Permissive, ..Spec::http(port) };
        let world = world(keeping(DENIED, spec)).await;
        let (outbound, _) = world.capture(VIP).await;
        let inbound = world.capture_inbound((OWN, port).into()).await;
        for (to, head) in [(outbound, "GET client error(malformed-request)"), (inbound, "GET server")] {
            let twice = b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n";
            assert!(exchange(to, twice).await.unwrap().starts_with("HTTP/1.1 400 "));
            let text = tree(&recorded(&world));
            assert!(text.starts_with(&format!("{head}:")) && text.lines().count() == 1, "{text}");
            assert!(text.contains(" isthmus.kept=denied ") && text.contains(" url.path=/a "), "{text}");
            assert!(text.contains(" isthmus.reason=malformed-request"), "{text}");
        }
    }))
    .await;
}

/// Nobody answers for it: the trace that the app began goes on all the same.
#[tokio::test]
async fn requests_and_bytes_to_an_address_that_nobody_has() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(keeping(ERRORS, Spec::http(port))).await;
        let (nowhere, _) = world.capture("10.96.0.1:81".parse().unwrap()).await;
        let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";
        assert!(get(nowhere, "/a", parent).await.unwrap().starts_with("HTTP/1.1 502 "));
        let spans = recorded(&world);
        assert_eq!(spans[0].trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let text = tree(&spans);
        assert!(
            text.starts_with("GET client error(destination-unknown): isthmus.hop=outbound isthmus.kept=error "),
            "{text}"
        );
        assert!(text.contains(" url.path=/a ") && text.lines().count() == 1, "{text}");
        let (sender, connection) = h2::client::handshake(TcpStream::connect(nowhere).await.unwrap()).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut sender: h2::client::SendRequest<bytes::Bytes> = sender.ready().await.unwrap();
        let request = Request::get("http://orders.shop/b").body(()).unwrap();
        assert_eq!(sender.send_request(request, true).unwrap().0.await.unwrap().status(), 502);
        let text = tree(&recorded(&world));
        assert!(text.starts_with("GET client error(destination-unknown):") && text.contains(" url.path=/b "), "{text}");
        let tunnel = exchange(nowhere, b"CONNECT o:81 HTTP/1.1\r\n\r\n").await;
        assert_eq!(tunnel.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        let text = tree(&recorded(&world));
        assert!(text.starts_with("TCP client error(destination-unknown):") && text.lines().count() == 1, "{text}");
    }))
    .await;
}

/// What the h2 crate ends a whole connection for. What it ends a stream for, it keeps to itself.
#[tokio::test]
async fn http2_that_breaks_its_own_rules() {
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    // A ping on a stream (RFC 9113 §6.7), and streams given up as fast as they begin (CVE-2023-44487).
    let ping = [preface.clone(), frame(PING, 0, 1, &[0; 8])].concat();
    let given_up = (0..200).flat_map(|number| {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &[0x82, 0x86, 0x84, 0x41, 1, b'o']);
        [head, frame(RST_STREAM, 0, number * 2 + 1, &8u32.to_be_bytes())].concat()
    });
    let flood = preface.into_iter().chain(given_up).collect::<Vec<u8>>();
    on_worker(Box::pin(async move {
        let (port, _) = app(mirror).await;
        let keep = Keep { errors: true, denied: true, slower_than: None };
        for (bytes, word, kept) in [(ping, "malformed-request", "denied"), (flood, "overloaded", "error")] {
            let spec = Spec { protocol: AppProtocol::Http2, transport: Transport::Permissive, ..Spec::http(port) };
            let world = world(keeping(keep, spec)).await;
            let (outbound, _) = world.capture(VIP).await;
            let inbound = world.capture_inbound((OWN, port).into()).await;
            for (to, metrics, hop) in
                [(outbound, &world.web_metrics, "outbound"), (inbound, &world.orders.metrics, "inbound")]
            {
                let mut stream = TcpStream::connect(to).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                // GOAWAY, and the end.
                let _ = stream.read_to_end(&mut Vec::new()).await;
                let line = format!("isthmus_refused_total{{direction=\"{hop}\",reason=\"{word}\"}} 1\n");
                while !metrics.render().contains(&line) {
                    tokio::task::yield_now().await;
                }
                let spans: Vec<Span> = recorded(&world).into_iter().filter(|span| span.name == "TCP").collect();
                let text = tree(&spans);
                let side = if hop == "outbound" { "client" } else { "server" };
                assert!(text.starts_with(&format!("TCP {side} error({word}): isthmus.hop={hop} ")), "{text}");
                assert!(text.contains(&format!(" isthmus.kept={kept} ")) && text.lines().count() == 1, "{text}");
            }
        }
    }))
    .await;
}

#[tokio::test]
async fn requests_of_mesh_peers_that_are_none() {
    on_worker(Box::pin(async {
        let (port, accepted) = app(mirror).await;
        let world = world(keeping(DENIED, Spec::http(port))).await;
        let mut peer = dial(&world, &world.web).await.unwrap();
        recorded(&world);
        for (header, word) in [("+80", "bad-internal-header"), ("15001", "forbidden-port")] {
            let request = Request::get("http://o/a").header("isthmus-port", header);
            assert!(send(&mut peer, request).await.unwrap().status().is_client_error());
            let text = tree(&recorded(&world));
            assert!(text.starts_with("GET server: isthmus.hop=inbound isthmus.kept=denied "), "{text}");
            assert!(text.contains(" isthmus.peer.identity=spiffe://shop.example/ns/shop/sa/web "), "{text}");
            assert!(text.contains(&format!(" isthmus.reason={word}")) && text.lines().count() == 1, "{text}");
        }
        // Where a peer may send tunnels only, nothing of a request is read.
        let stream = TcpStream::connect(world.mesh).await.unwrap();
        let config = world.web.client_config(&[tls::mesh::ALPN_HBONE], ExpectedPeer::AnyOf(vec![id("orders")]));
        let connected = tls::connect(stream, world.mesh.ip(), config, tls::mesh::HANDSHAKE_DEADLINE).await;
        let (sender, connection) = h2::client::handshake(connected.unwrap().0).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = Request::get("http://o/secret").header("isthmus-port", port);
        assert_eq!(send(&mut sender, request).await.unwrap().status(), 400);
        let text = tree(&recorded(&world));
        assert!(text.starts_with("HTTP server: isthmus.hop=inbound isthmus.kept=denied "), "{text}");
        assert!(text.contains(" isthmus.reason=bad-internal-header") && !text.contains("secret"), "{text}");
        assert_eq!(accepted.get(), 0);
        // A caller without a place in the mesh's counts: no port, no edge.
        assert!(!world.orders.metrics.render().contains("port=\"0\""), "no edge of a port that was not named");
    }))
    .await;
}

#[tokio::test]
async fn connections_that_end_before_they_are_looked_into() {
    on_worker(Box::pin(async {
        let (port, accepted) = app(mirror).await;
        let spec = Spec { protocol: AppProtocol::Postgres, ..Spec::http(port) };
        let world = world(keeping(DENIED, spec)).await;
        let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
        let not_ours = world.capture_inbound((elsewhere, port).into()).await;
        let postgres = world.capture_inbound((OWN, port).into()).await;
        let ssl_request = [0, 0, 0, 8, 4, 210, 22, 47];
        let with_more = [&ssl_request[..], b"more"].concat();
        for (to, bytes, word) in [(not_ours, &b"x"[..], "not-my-address"), (postgres, &with_more, "malformed-request")]
        {
            let mut stream = TcpStream::connect(to).await.unwrap();
            let _ = stream.write_all(bytes).await;
            assert!(stream.read_to_end(&mut Vec::new()).await.is_err(), "{word}: a reset");
            let text = tree(&recorded(&world));
            assert!(text.starts_with(&format!("TCP server error({word}): isthmus.hop=inbound ")), "{text}");
            assert!(text.contains(" isthmus.kept=denied ") && text.contains(" isthmus.end=refused"), "{text}");
        }
        assert_eq!(accepted.get(), 0);
    }))
    .await;
}
