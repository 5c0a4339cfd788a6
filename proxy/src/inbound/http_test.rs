//! What HTTP is besides requests and answers: interim answers, changes of protocol, forward proxies, resets.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world_test::{Spec, VIP, World, app, exchange, mirror, on_worker, world};
use crate::state::AppProtocol;

/// Reads up to `end`, and not beyond what is there then.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut part = [0; 4096];
    while !text.contains(end) {
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "ended after {text:?}");
        text.push_str(std::str::from_utf8(&part[..count]).unwrap());
    }
    text
}

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.capture(VIP).await.0).await.unwrap()
}

#[tokio::test]
async fn the_apps_own_100_and_103_reach_the_caller_before_its_answer() {
    on_worker(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let head = read_to(&mut stream, "\r\n\r\n").await;
            assert!(head.contains("Expect: 100-continue"), "{head}");
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let body = read_to(&mut stream, "xyz").await;
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nIsthmus-Denied: x\r\n\r\n").await.unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let world = world(Spec::http(port)).await;
        let mut client = connect(&world).await;
        let head = "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_to(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"xyz").await.unwrap();
        let rest = read_to(&mut client, "xyz").await;
        assert!(rest.starts_with("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"), "{rest}");
    })
    .await;
}

#[tokio::test]
async fn a_refused_expectation_costs_no_body() {
    on_worker(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            read_to(&mut stream, "\r\n\r\n").await;
            let _ = stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.read(&mut [0; 16]).await;
        })
        .await;
        let world = world(Spec::http(port)).await;
        let mut client = connect(&world).await;
        let head = "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to(&mut client, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 417 Expectation Failed\r\n"), "{answer}");
    })
    .await;
}

/// Agrees to `websocket`, then sends back what comes until the caller ends its side; answers anything else with 200.
async fn upgrading(mut stream: TcpStream) {
    loop {
        let mut bytes = vec![0; 4096];
        let Ok(count @ 1..) = stream.read(&mut bytes).await else { return };
        let head = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if !head.contains("Upgrade: websocket") {
            let body = head.replace("\r\n", "\n");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            continue;
        }
        assert!(head.contains("Connection: Upgrade") && head.contains("Sec-Websocket-Key: abc"), "{head}");
        assert!(head.starts_with("GET /chat HTTP/1.1") || head.starts_with("POST /chat HTTP/1.1"), "{head}");
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: def\r\n\r\nfirst";
        stream.write_all(agreed.as_bytes()).await.unwrap();
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            stream.write_all(&bytes[..count]).await.unwrap();
        }
        stream.write_all(b"last").await.unwrap();
        return;
    }
}

#[tokio::test]
async fn a_websocket_crosses_the_mesh_and_each_direction_ends_for_itself() {
    on_worker(async {
        let (port, accepted) = app(upgrading).await;
        let world = world(Spec::http(port)).await;
        for method in ["GET", "POST"] {
            let mut client = connect(&world).await;
            let head = format!(
                "{method} /chat HTTP/1.1\r\nHost: o\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\nearly"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let answer = read_to(&mut client, "early").await;
            assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
            let lower = answer.to_lowercase();
            assert!(lower.contains("upgrade: websocket\r\n") && lower.contains("sec-websocket-accept: def"), "{answer}");
            assert!(!lower.contains("isthmus"), "{answer}");
            client.write_all(b"more").await.unwrap();
            assert_eq!(read_to(&mut client, "more").await, "more");
            client.shutdown().await.unwrap();
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "last");
        }
        assert_eq!(accepted.get(), 2, "a connection that changed its protocol is never used again");
    })
    .await;
}

#[tokio::test]
async fn a_declined_change_is_an_ordinary_answer_and_h2c_is_not_passed() {
    on_worker(async {
        let (port, _) = app(upgrading).await;
        let world = world(Spec::http(port)).await;
        let mut client = connect(&world).await;
        for token in ["unknown/1", "h2c"] {
            let head = format!(
                "GET /{token} HTTP/1.1\r\nHost: o\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {token}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let answer = read_to(&mut client, "\n\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("Settings"), "{answer}");
            assert_eq!(answer.contains("Upgrade: unknown/1"), token != "h2c", "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_app_that_speaks_to_a_forward_proxy_reaches_it_in_absolute_form() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let request = "GET http://outside.example:81/a?b HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
        let answer = exchange(web, request.as_bytes()).await.unwrap();
        assert!(answer.contains("GET http://outside.example:81/a?b\n"), "{answer}");
        assert!(answer.contains("host: outside.example:81\n") && !answer.contains("host: other"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn what_can_be_misread_is_refused_before_it_leaves_the_host() {
    on_worker(async {
        let (port, accepted) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let two = "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: o\r\n\r\n";
        let answer = exchange(web, two.as_bytes()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.ends_with("ambiguous-framing"), "{answer}");
        let chunk = "POST / HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n";
        let answer = exchange(web, chunk.as_bytes()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("malformed-request"), "{answer}");
        assert!(accepted.get() <= 1);
    })
    .await;
}

/// An HTTP/2 app that resets its first stream with `first`, and answers the others.
async fn resetting(stream: TcpStream, first: h2::Reason, seen: Rc<Cell<usize>>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        seen.set(seen.get() + 1);
        if seen.get() == 1 {
            respond.send_reset(first);
        } else {
            let _ = respond.send_response(http::Response::new(()), true);
        }
    }
}

async fn ask_http2(world: &World, body: &'static str) -> Result<http::StatusCode, h2::Error> {
    let (sender, connection) = h2::client::handshake(connect(world).await).await?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    let mut sender: h2::client::SendRequest<Bytes> = sender.ready().await?;
    let request = http::Request::post("http://orders.shop/a").body(()).unwrap();
    let (response, mut send) = sender.send_request(request, false)?;
    send.send_data(body.into(), true)?;
    response.await.map(|response| response.status())
}

#[tokio::test]
async fn a_reset_of_the_app_keeps_its_code_and_a_refused_stream_is_sent_again() {
    on_worker(async {
        for (reason, again) in [
            (h2::Reason::CANCEL, false),
            (h2::Reason::ENHANCE_YOUR_CALM, false),
            (h2::Reason::INTERNAL_ERROR, false),
            (h2::Reason::REFUSED_STREAM, true),
        ] {
            let seen = Rc::new(Cell::new(0));
            let counted = Rc::clone(&seen);
            let (port, _) = app(move |stream| resetting(stream, reason, Rc::clone(&counted))).await;
            let world = world(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) }).await;
            let answer = ask_http2(&world, "body").await;
            if again {
                assert_eq!(answer.unwrap(), 200);
                assert_eq!(seen.get(), 2);
            } else {
                assert_eq!(answer.unwrap_err().reason(), Some(reason));
                assert_eq!(seen.get(), 1);
            }
        }
    })
    .await;
}

/// What has gone and is not held any more cannot be sent again: least of all as nothing.
#[tokio::test]
async fn a_large_body_that_was_refused_after_its_end_is_never_sent_again_as_an_empty_one() {
    on_worker(async {
        let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
        let counted = Rc::clone(&seen);
        let (port, _) = app(move |stream| {
            let seen = Rc::clone(&counted);
            async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let seen = Rc::clone(&seen);
                    tokio::task::spawn_local(async move {
                        let (mut body, mut length) = (request.into_body(), 0);
                        while let Some(Ok(bytes)) = body.data().await {
                            let _ = body.flow_control().release_capacity(bytes.len());
                            length += bytes.len();
                        }
                        seen.borrow_mut().push(length);
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    });
                }
            }
        })
        .await;
        let world = world(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) }).await;
        static BODY: [u8; 200_000] = [b'x'; 200_000];
        let refused = ask_http2(&world, std::str::from_utf8(&BODY).unwrap()).await.unwrap_err();
        assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM), "the caller may send it again itself");
        assert_eq!(*seen.borrow(), [BODY.len()], "bytes of each request that the app saw");
        // What is held is sent again as it was, as often as there are attempts.
        seen.borrow_mut().clear();
        assert!(ask_http2(&world, "short").await.is_err());
        assert!(seen.borrow().len() > 1 && seen.borrow().iter().all(|length| *length == 5), "{seen:?}");
    })
    .await;
}

/// An app that takes a whole connection for the user who named himself on it, as servers with NTLM do. Says who it
/// believes to speak to.
async fn believing(mut stream: TcpStream) {
    let mut user = "nobody".to_owned();
    let mut bytes = vec![0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        let head = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(!head.to_lowercase().contains("isthmus"), "{head}");
        if let Some(name) = head.lines().find_map(|line| line.strip_prefix("Authorization: NTLM ")) {
            user = name.to_owned();
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user};", user.len() + 1);
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

async fn who(client: &mut TcpStream, field: &str) -> String {
    client.write_all(format!("GET / HTTP/1.1\r\nHost: o\r\n{field}\r\n").as_bytes()).await.unwrap();
    let answer = read_to(client, ";").await;
    answer[answer.find("\r\n\r\n").unwrap() + 4..answer.len() - 1].to_owned()
}

#[tokio::test]
async fn two_users_never_share_a_session_that_is_bound_to_a_connection() {
    on_worker(async {
        let (port, accepted) = app(believing).await;
        let world = world(Spec::http(port)).await;
        let (mut alice, mut bob, mut eve) = (connect(&world).await, connect(&world).await, connect(&world).await);
        assert_eq!(who(&mut alice, "").await, "nobody");
        assert_eq!(who(&mut alice, "Authorization: NTLM alice\r\n").await, "alice");
        assert_eq!(who(&mut bob, "Authorization: NTLM bob\r\n").await, "bob");
        for _ in 0..5 {
            assert_eq!(who(&mut alice, "").await, "alice", "the session goes on");
            assert_eq!(who(&mut eve, "").await, "nobody", "and is nobody else's");
            assert_eq!(who(&mut bob, "").await, "bob");
        }
        assert_eq!(accepted.get(), 3, "one shared, and one for each user");
        // When a user's connection ends, so does the app's: nobody gets it after him.
        drop((alice, bob));
        while world.inbound.app_connections() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(who(&mut eve, "").await, "nobody");
    })
    .await;
}

#[tokio::test]
async fn past_any_sidecar_a_session_is_its_connections_own_as_well() {
    on_worker(async {
        let (port, _) = app(believing).await;
        let spec = Spec { transport: crate::state::Transport::Permissive, ..Spec::http(port) };
        let world = world(spec).await;
        let to = world.capture_inbound(std::net::SocketAddr::new(super::world_test::OWN, port)).await;
        let (mut alice, mut eve) = (TcpStream::connect(to).await.unwrap(), TcpStream::connect(to).await.unwrap());
        assert_eq!(who(&mut alice, "Authorization: NTLM alice\r\n").await, "alice");
        assert_eq!(who(&mut eve, "").await, "nobody");
        assert_eq!(who(&mut alice, "").await, "alice");
        drop(alice);
        assert_eq!(who(&mut eve, "").await, "nobody");
    })
    .await;
}
