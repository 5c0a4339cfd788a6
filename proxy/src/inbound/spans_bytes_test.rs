//! Spans of connections whose bytes nobody reads: TCP, and what a WebSocket becomes.

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
        let got = collected(&world, 6).await;
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
