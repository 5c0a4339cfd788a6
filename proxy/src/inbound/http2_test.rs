//! HTTP/2 apps through the pair: WebSockets (RFC 8441), apps that go away under load, and apps that hang.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use isthmus_proto::model::TrafficOptions;
use tokio::net::TcpStream;

use super::world_test::{OWN, Spec, VIP, World, app, get, id, on_worker, publish_endpoints, world};
use crate::http::abuse_test::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, frame};
use crate::state::{AppProtocol, Transport};

/// An app's own connection to the mesh, with prior knowledge.
async fn client(world: &World) -> SendRequest<Bytes> {
    let (captured, _) = world.capture(VIP).await;
    let stream = TcpStream::connect(captured).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::task::spawn_local(connection);
    sender
}

fn http2(port: u16) -> Spec {
    Spec { protocol: AppProtocol::Http2, ..Spec::http(port) }
}

async fn echo(mut from: RecvStream, mut to: SendStream<Bytes>) {
    while let Some(Ok(bytes)) = from.data().await {
        let _ = from.flow_control().release_capacity(bytes.len());
        let _ = to.send_data(bytes, false);
    }
    let _ = to.send_data(Bytes::new(), true);
}

#[tokio::test]
async fn a_websocket_of_an_http2_app_reaches_an_http2_app() {
    on_worker(Box::pin(async {
        let (port, _) = app(|stream| async move {
            let mut builder = h2::server::Builder::new();
            let mut connection = builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let protocol = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
                assert_eq!((request.method(), protocol.as_deref()), (&Method::CONNECT, Some("websocket")));
                assert_eq!(request.uri().path(), "/chat");
                assert_eq!(request.headers()["sec-websocket-version"], "13");
                let to = respond.send_response(Response::new(()), false).unwrap();
                tokio::task::spawn_local(echo(request.into_body(), to));
            }
        })
        .await;
        let world = world(http2(port)).await;
        let mut sender = client(&world).await.ready().await.unwrap();
        let mut request = Request::builder().method(Method::CONNECT).uri("http://orders.shop/chat");
        request = request.header("sec-websocket-version", "13").extension(Protocol::from_static("websocket"));
        let (response, mut send) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut received = response.into_body();
        for message in ["one", "two"] {
            send.send_data(message.into(), false).unwrap();
            assert_eq!(received.data().await.unwrap().unwrap(), message);
        }
        send.send_data(Bytes::new(), true).unwrap();
        // It may come as a frame of its own.
        let end = received.data().await.filter(|end| !end.as_ref().is_ok_and(Bytes::is_empty));
        assert!(end.is_none() && received.is_end_stream(), "the end arrives as an end: {end:?}");
    }))
    .await;
}

/// RFC 8441 §3: it may be asked only after its SETTINGS allowed it. An app that never heard of the form would see a plain
/// CONNECT to its own path.
#[tokio::test]
async fn an_http2_app_that_takes_no_websockets_is_never_asked_and_serves_on() {
    on_worker(Box::pin(async {
        let (port, _) = app(|stream| async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.method(), Method::GET);
                respond.send_response(Response::new(()), true).unwrap();
            }
        })
        .await;
        for sidecar in [true, false] {
            let world = world(Spec { transport: Transport::Permissive, ..http2(port) }).await;
            if !sidecar {
                publish_endpoints(&world.web_state, &[None], &id("orders"), &world.spec);
            }
            let mut sender = client(&world).await.ready().await.unwrap();
            for _ in 0..2 {
                let request = Request::builder().method(Method::CONNECT).uri("http://orders.shop/chat");
                let request = request.extension(Protocol::from_static("websocket")).body(()).unwrap();
                let (response, _send) = sender.send_request(request, false).unwrap();
                let response = response.await.unwrap();
                let word = response.headers()["isthmus-denied"].to_str().unwrap();
                assert_eq!((response.status().as_u16(), word), (501, "no-websockets"));
                let get = Request::get("http://orders.shop/").body(()).unwrap();
                assert_eq!(sender.send_request(get, true).unwrap().0.await.unwrap().status(), StatusCode::OK);
            }
        }
    }))
    .await;
}

/// An app that answers so many requests of a connection, then says GOAWAY with the last of them, and does nothing about
/// those that cross it.
async fn goes_away_after(answers: u32, mut stream: TcpStream, served: Rc<Cell<u32>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut answered = 0;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        let id = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let mut out = match (head[3], head[4]) {
            (SETTINGS, 0) => frame(SETTINGS, 1, 0, &[]),
            (PING, 0) => frame(PING, 1, 0, &payload),
            // `:status 200`
            (HEADERS, _) if answered < answers => frame(HEADERS, END_STREAM | END_HEADERS, id, &[0x88]),
            _ => continue,
        };
        if head[3] == HEADERS {
            answered += 1;
            served.set(served.get() + 1);
            if answered == answers {
                let payload = [id.to_be_bytes(), [0; 4]].concat();
                out.extend(frame(GOAWAY, 0, 0, &payload));
            }
        }
        let _ = stream.write_all(&out).await;
    }
}

/// What gRPC servers do with `max_connection_age`.
#[tokio::test]
async fn no_call_is_lost_when_an_app_goes_away_under_load() {
    on_worker(Box::pin(async {
        let served = Rc::new(Cell::new(0));
        let counted = Rc::clone(&served);
        let (port, accepted) = app(move |stream| goes_away_after(20, stream, Rc::clone(&counted))).await;
        for sidecar in [true, false] {
            let world = world(Spec { transport: Transport::Permissive, ..http2(port) }).await;
            if !sidecar {
                publish_endpoints(&world.web_state, &[None], &id("orders"), &world.spec);
            }
            let sender = client(&world).await;
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..10 {
                let sender = sender.clone();
                calls.spawn_local(async move {
                    for _ in 0..50 {
                        let mut sender = sender.clone().ready().await.unwrap();
                        let mut tries = 0;
                        loop {
                            let request = Request::get("http://orders.shop/").body(()).unwrap();
                            match sender.send_request(request, true).unwrap().0.await {
                                Ok(response) => break assert_eq!(response.status(), StatusCode::OK),
                                // A client tries again by itself (as gRPC's do) where nothing was done. With a sidecar
                                // at the other end it does not have to.
                                Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) && !sidecar => {
                                    tries += 1
                                }
                                Err(error) => panic!("{error}"),
                            }
                            assert!(tries < 20);
                        }
                    }
                });
            }
            while let Some(done) = calls.join_next().await {
                done.unwrap();
            }
        }
        assert_eq!(served.get(), 1_000, "each call once");
        assert!((50..150).contains(&accepted.get()), "{} connections for 50 that went away", accepted.get());
    }))
    .await;
}

fn brief() -> TrafficOptions {
    TrafficOptions { request_timeout: Some(Duration::from_secs(1)), ..TrafficOptions::default() }
}

#[tokio::test]
async fn a_hung_app_is_waited_for_as_long_as_its_service_says() {
    on_worker(Box::pin(async {
        let (port, accepted) = app(|stream| async move {
            let _open = stream;
            std::future::pending::<()>().await;
        })
        .await;
        for mesh in [true, false] {
            let spec = Spec { options: brief(), transport: Transport::Permissive, ..Spec::http(port) };
            let world = world(spec).await;
            if !mesh {
                publish_endpoints(&world.web_state, &[None], &id("orders"), &world.spec);
            }
            let (captured, _) = world.capture(VIP).await;
            let answer = get(captured, "/", "").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 504") && answer.ends_with("timeout"), "{answer}");
        }
        assert_eq!(accepted.get(), 2, "and is not asked a second time");
    }))
    .await;
}

#[tokio::test]
async fn a_grpc_call_to_a_hung_app_ends_with_its_own_deadline() {
    on_worker(Box::pin(async {
        let (port, _) = app(|stream| async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut held = Vec::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                assert_eq!(request.headers()["grpc-timeout"], "300m", "the app is told its deadline");
                held.push(respond);
            }
        })
        .await;
        let world = world(http2(port)).await;
        let mut sender = client(&world).await.ready().await.unwrap();
        let request = Request::post("http://orders.shop/a.B/C").header("content-type", "application/grpc");
        let request = request.header("grpc-timeout", "300m").body(()).unwrap();
        let response = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "4", "DEADLINE_EXCEEDED");
        assert_eq!(response.headers()["grpc-message"], "timeout");
    }))
    .await;
}

/// An upload takes as long as it takes: only silence ends it.
#[tokio::test]
async fn a_request_that_moves_is_not_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    on_worker(Box::pin(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut all = Vec::new();
            while !all.ends_with(b"0\r\n\r\n") {
                let mut part = [0; 256];
                let count = stream.read(&mut part).await.unwrap();
                all.extend_from_slice(&part[..count]);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        })
        .await;
        let world = world(Spec { options: brief(), ..Spec::http(port) }).await;
        let (captured, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(captured).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let mut pace = tokio::time::interval(Duration::from_millis(250));
        for _ in 0..20 {
            pace.tick().await;
            stream.write_all(b"1\r\nx\r\n").await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 204");
    }))
    .await;
}

/// Whoever picks a connection has to know what it still carries.
#[tokio::test]
async fn a_mesh_connection_is_busy_up_to_the_end_of_an_answer() {
    on_worker(Box::pin(async {
        let (port, _) = app(|stream| async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let to = respond.send_response(Response::new(()), false).unwrap();
                tokio::task::spawn_local(echo(request.into_body(), to));
            }
        })
        .await;
        let world = world(http2(port)).await;
        let mut sender = client(&world).await.ready().await.unwrap();
        let request = Request::post("http://orders.shop/").body(()).unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        let mut answer = response.await.unwrap().into_body();
        send.send_data("x".into(), false).unwrap();
        assert_eq!(answer.data().await.unwrap().unwrap(), "x");
        assert_eq!(world.outbound.mesh_streams(), 1, "the answer's head is there, and its body goes on");
        send.send_data(Bytes::new(), true).unwrap();
        while let Some(Ok(_)) = answer.data().await {}
        while world.outbound.mesh_streams() > 0 {
            tokio::task::yield_now().await;
        }
    }))
    .await;
}

/// Bytes that a side could get rid of before it was stopped.
async fn write_until_stuck(stream: &mut TcpStream) -> usize {
    use tokio::io::AsyncWriteExt;
    let piece = vec![b'x'; 64 * 1024];
    let mut written = 0;
    // Two seconds without room, on a loopback: nobody reads.
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(2), stream.write(&piece)).await {
        written += count;
        assert!(written < BODY, "all of it was taken, and nobody has read any");
    }
    written
}

const BODY: usize = 512 << 20;
/// The windows of a mesh stream that has not been measured yet, and the buffers of four sockets.
const UNDER_WAY: usize = 48 << 20;

#[tokio::test]
async fn a_slow_reader_stops_the_sender_on_either_side() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    on_worker(Box::pin(async {
        // An answer that the caller does not read.
        let (told, stuck) = tokio::sync::mpsc::channel(1);
        let (port, _) = app(move |mut stream: TcpStream| {
            let told = told.clone();
            async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let _ = told.send(write_until_stuck(&mut stream).await).await;
            }
        })
        .await;
        let mut stuck = stuck;
        let world_of_answers = world(Spec::http(port)).await;
        let (captured, _) = world_of_answers.capture(VIP).await;
        let mut caller = TcpStream::connect(captured).await.unwrap();
        caller.write_all(b"GET / HTTP/1.1\r\nHost: o\r\n\r\n").await.unwrap();
        let written = stuck.recv().await.unwrap();
        assert!(written < UNDER_WAY, "an answer of which {written} bytes were taken from the app");
        // A request that the callee does not read.
        let (port, _) = app(|stream| async move {
            let _open = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let world_of_requests = world(Spec::http(port)).await;
        let (captured, _) = world_of_requests.capture(VIP).await;
        let mut caller = TcpStream::connect(captured).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: {OWN}\r\nContent-Length: {BODY}\r\n\r\n");
        caller.write_all(head.as_bytes()).await.unwrap();
        let written = write_until_stuck(&mut caller).await;
        assert!(written < UNDER_WAY, "a request of which {written} bytes were taken from the app");
    }))
    .await;
}
