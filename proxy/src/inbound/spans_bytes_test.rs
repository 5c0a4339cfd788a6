//! Spans of connections whose bytes nobody reads: TCP, and what a WebSocket becomes.

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::spans_test::{all, collected, same};
use super::world_test::{Spec, VIP, app, on_worker, world};
use crate::state::AppProtocol;

const TCP: &str = "network.transport=tcp network.type=ipv4";

#[tokio::test]
async fn bytes_one_side_of_which_ends_first() {
    on_worker(Box::pin(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            // The caller has ended its side; the answer comes after.
            stream.write_all(&heard.repeat(2)).await.unwrap();
        })
        .await;
        let world = world(all(Spec { protocol: AppProtocol::Tcp, ..Spec::http(port) })).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"hellohello");
        let bytes = "isthmus.bytes.to_server=5 isthmus.bytes.to_client=10 isthmus.end=closed";
        same(
            &collected(&world, 2).await,
            &[
                &format!(
                    "TCP client: isthmus.hop=outbound {TCP} server.address=10.96.0.1 server.port=* \
                     isthmus.route=shop/orders:80 network.peer.address=127.0.0.2 network.peer.port=* \
                     isthmus.site.source=dc1 isthmus.site.destination=dc1 \
                     isthmus.peer.identity=spiffe://shop.example/ns/shop/sa/orders {bytes}"
                ),
                &format!(
                    "  TCP server: isthmus.hop=inbound {TCP} client.address=127.0.0.1 network.peer.address=127.0.0.1 \
                     network.peer.port=* server.address=127.0.0.2 server.port=* \
                     isthmus.peer.identity=spiffe://shop.example/ns/shop/sa/web isthmus.arrived=mesh \
                     isthmus.site.destination=dc1 {bytes}"
                ),
            ],
        );
    }))
    .await;
}

#[tokio::test]
async fn bytes_that_are_reset_and_bytes_that_are_denied() {
    on_worker(Box::pin(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
            crate::tcp::reset(stream);
        })
        .await;
        for (allow, word) in [(None, "reset"), (Some(vec!["batch"]), "not-allowed")] {
            let spec = Spec { protocol: AppProtocol::Tcp, allow, ..Spec::http(port) };
            let world = world(all(spec)).await;
            let (web, _) = world.capture(VIP).await;
            let mut stream = TcpStream::connect(web).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap_err();
            let got = collected(&world, 2).await;
            let heads: Vec<&str> = got.lines().map(|line| line.split(':').next().unwrap()).collect();
            assert!(heads[1].starts_with("  TCP server error("), "{got}");
            assert!(heads[0].starts_with("TCP client error("), "{got}");
            if word == "not-allowed" {
                assert_eq!(got.matches("isthmus.reason=not-allowed").count(), 2, "{got}");
                assert_eq!(got.matches("isthmus.decision.id=*").count(), 2, "{got}");
            }
        }
    }))
    .await;
}

#[tokio::test]
async fn a_websocket_is_a_connection_below_its_request() {
    on_worker(Box::pin(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await
                .unwrap();
            let mut said = [0; 4];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(b"and back").await.unwrap();
            assert_eq!(stream.read(&mut said).await.unwrap(), 0);
        })
        .await;
        let world = world(all(Spec::http(port))).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream
            .write_all(b"GET /chat HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 8];
        stream.read_exact(&mut back).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let got = collected(&world, 5).await;
        let heads: Vec<&str> = got.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(heads.iter().filter(|head| head.trim() == "WebSocket client").count(), 1, "{got}");
        assert_eq!(heads.iter().filter(|head| head.trim() == "WebSocket server").count(), 1, "{got}");
        assert!(heads.contains(&"  WebSocket client") && heads.contains(&"      WebSocket server"), "{got}");
        let bytes = "isthmus.bytes.to_server=4 isthmus.bytes.to_client=8 isthmus.end=closed";
        assert_eq!(got.matches(bytes).count(), 2, "{got}");
        assert_eq!(got.matches("network.protocol.name=websocket").count(), 2, "{got}");
    }))
    .await;
}

/// RFC 8441: an app in HTTP/2 has no 101. Its request's span ends with the agreement, and the connection's with both directions.
#[tokio::test]
async fn a_websocket_of_an_http2_app_is_one_too() {
    on_worker(Box::pin(async {
        let (port, _) = app(http2_websockets).await;
        let world = world(all(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) })).await;
        let (captured, _) = world.capture(VIP).await;
        let stream = TcpStream::connect(captured).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = |path: &str| {
            let request = Request::builder().method(Method::CONNECT).uri(format!("http://orders.shop{path}"));
            request.extension(Protocol::from_static("websocket")).body(()).unwrap()
        };
        let (response, mut send) = sender.send_request(request("/chat"), false).unwrap();
        let mut received = response.await.unwrap().into_body();
        send.send_data("ping".into(), false).unwrap();
        let mut back = 0;
        while back < 8 {
            let bytes = received.data().await.unwrap().unwrap();
            received.flow_control().release_capacity(bytes.len()).unwrap();
            back += bytes.len();
        }
        send.send_data(Bytes::new(), true).unwrap();
        while received.data().await.is_some() {}
        let got = collected(&world, 5).await;
        let heads: Vec<&str> = got.lines().map(|line| line.split(':').next().unwrap()).collect();
        // Begun before the request left, so that its beginning is no order among siblings.
        for head in
            ["CONNECT client", "  link internal", "    CONNECT server", "  WebSocket client", "      WebSocket server"]
        {
            assert_eq!(heads.iter().filter(|have| **have == head).count(), 1, "{head} in {got}");
        }
        assert_eq!(heads[0], "CONNECT client", "{got}");
        let bytes = "isthmus.bytes.to_server=4 isthmus.bytes.to_client=8 isthmus.end=closed";
        assert_eq!(got.matches(bytes).count(), 2, "{got}");
        assert_eq!(got.matches("network.protocol.name=websocket").count(), 2, "{got}");
        // What the app does not agree to leaves a request and no connection.
        let (response, _send) = sender.send_request(request("/no"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 404);
        let got = collected(&world, 3).await;
        assert!(!got.contains("WebSocket"), "{got}");
    }))
    .await;
}

/// Agrees to all but `/no`; answers four bytes with eight, and ends when its caller does.
async fn http2_websockets(stream: TcpStream) {
    let mut builder = h2::server::Builder::new();
    let mut connection = builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if request.uri().path() == "/no" {
            let no = Response::builder().status(404).body(()).unwrap();
            respond.send_response(no, true).unwrap();
            continue;
        }
        let mut to = respond.send_response(Response::new(()), false).unwrap();
        tokio::task::spawn_local(async move {
            let mut from = request.into_body();
            let said = from.data().await.unwrap().unwrap();
            assert_eq!(said, "ping");
            to.send_data("and back".into(), false).unwrap();
            while from.data().await.is_some() {}
            to.send_data(Bytes::new(), true).unwrap();
        });
    }
}
