//! Opaque bytes and the app's own TLS through the pair, and what comes past it.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world_test::{
    OWN, Spec, VIP, app, exchange, get, id, mirror, on_worker, publish_inbound, publish_outbound, world,
};
use crate::detect::hello_bytes::{client_hello, server_hello};
use crate::state::{AppProtocol, TlsVersion, Transport};

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

fn tcp(port: u16) -> Spec {
    Spec { protocol: AppProtocol::Tcp, ..Spec::http(port) }
}

#[tokio::test]
async fn opaque_bytes_come_back_exact_and_half_close_is_kept() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let world = world(tcp(port)).await;
        let (web, _) = world.capture(VIP).await;
        let sent: Vec<u8> = (0..5_000_000u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
        let (mut read, mut write) = TcpStream::connect(web).await.unwrap().into_split();
        let mut back = Vec::new();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        // The echo ends its side only after it saw our end: with FIN lost this would never finish.
        let (_, read) = tokio::join!(writing, read.read_to_end(&mut back));
        read.unwrap();
        assert!(back == sent, "{} of {} bytes came back", back.len(), sent.len());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_waited_for() {
    on_worker(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let _ = stream.write_all(b"220 ready\r\n").await;
        })
        .await;
        let world = world(Spec { protocol: AppProtocol::ServerFirst, ..Spec::http(port) }).await;
        let (web, _) = world.capture(VIP).await;
        assert_eq!(exchange(web, b"").await.unwrap(), "220 ready\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_refused_stream_ends_with_rst_and_never_with_fin() {
    on_worker(async {
        let (port, accepted) = app(echo).await;
        let world = world(Spec { allow: Some(vec!["batch"]), ..tcp(port) }).await;
        let (web, _) = world.capture(VIP).await;
        assert_eq!(exchange(web, b"hello").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(accepted.get(), 0);
        publish_inbound(&world.orders.state, 2, &tcp(port));
        let mut allowed = TcpStream::connect(web).await.unwrap();
        allowed.write_all(b"hello").await.unwrap();
        allowed.read_exact(&mut [0; 5]).await.unwrap();
        // A policy that no longer allows it closes what is open.
        publish_inbound(&world.orders.state, 3, &Spec { allow: Some(vec!["batch"]), ..tcp(port) });
        assert_eq!(allowed.read(&mut [0; 5]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn an_app_that_is_not_there_is_a_reset_and_a_502() {
    on_worker(async {
        let closed = tokio::net::TcpListener::bind((OWN, 0)).await.unwrap().local_addr().unwrap().port();
        let pair = world(tcp(closed)).await;
        let (web, _) = pair.capture(VIP).await;
        assert_eq!(exchange(web, b"hello").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let pair = world(Spec::http(closed)).await;
        let (web, _) = pair.capture(VIP).await;
        let answer = get(web, "/", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("app-unreachable"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn plain_bytes_past_the_sidecar_are_refused_where_the_transport_says_so() {
    on_worker(async {
        let (port, accepted) = app(mirror).await;
        let world = world(Spec { transport: Transport::HttpsOnly, ..Spec::http(port) }).await;
        let past = world.capture_inbound(SocketAddr::new(OWN, port)).await;
        let answer = get(past, "/", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("plaintext"), "{answer}");
        let garbage = exchange(past, b"\x00\x01\x02\x03").await.unwrap();
        assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
        assert_eq!(accepted.get(), 0);
        publish_inbound(&world.orders.state, 2, &Spec { transport: Transport::Permissive, ..world.spec.clone() });
        let forged = "x-forwarded-client-cert: URI=spiffe://shop.example/ns/shop/sa/web\r\n";
        let answer = get(past, "/", forged).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("spiffe"), "{answer}");
        assert!(!answer.contains("elapsed"), "{answer}");
        assert_eq!(accepted.get(), 1);
        let other = world.capture_inbound("127.0.0.3:80".parse().unwrap()).await;
        assert_eq!(exchange(other, b"GET / HTTP/1.1\r\n\r\n").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    })
    .await;
}

/// An app that reads a ClientHello, answers with a ServerHello of `version`, then echoes.
async fn tls_app(mut stream: TcpStream, version: u16) {
    let mut hello = vec![0; client_hello(&[0x0304], 0x0303, None).len()];
    if stream.read_exact(&mut hello).await.is_ok() {
        let _ = stream.write_all(&server_hello(version, false)).await;
        echo(stream).await;
    }
}

#[tokio::test]
async fn app_tls_passes_the_gate_only_with_a_version_that_both_sides_hold() {
    on_worker(async {
        for (offered, chosen, passes) in [(0x0304, 0x0304, true), (0x0302, 0x0302, false), (0x0304, 0x0302, false)] {
            let (port, _) = app(move |stream| tls_app(stream, chosen)).await;
            let spec = Spec { protocol: AppProtocol::Tls, transport: Transport::HttpsOnly, ..Spec::http(port) };
            let world = world(spec).await;
            let (web, _) = world.capture(VIP).await;
            let past = world.capture_inbound(SocketAddr::new(OWN, port)).await;
            for way in [web, past] {
                let mut client = TcpStream::connect(way).await.unwrap();
                let mut flight = client_hello(&[offered], 0x0303.min(offered), None);
                flight.extend_from_slice(b"early");
                client.write_all(&flight).await.unwrap();
                let mut answer = vec![0; server_hello(chosen, false).len() + 5];
                let got = client.read_exact(&mut answer).await;
                assert_eq!(got.is_ok(), passes, "offered {offered:#x}, chosen {chosen:#x}: {got:?}");
                assert!(!passes || answer.ends_with(b"early"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn app_tls_on_a_port_that_is_not_declared_is_refused() {
    on_worker(async {
        let (port, accepted) = app(|stream| tls_app(stream, 0x0304)).await;
        let spec = Spec { protocol: AppProtocol::Detect, transport: Transport::HttpsOnly, ..Spec::http(port) };
        let world = world(spec).await;
        let past = world.capture_inbound(SocketAddr::new(OWN, port)).await;
        let refused = exchange(past, &client_hello(&[0x0304], 0x0303, None)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!((accepted.get(), world.decisions.recent()[0].reason), (0, "tls-not-declared"));
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_without_sidecar_gets_only_what_its_transport_takes() {
    on_worker(async {
        let (port, accepted) = app(mirror).await;
        let world = world(Spec { min_tls: TlsVersion::V1_2, ..Spec::http(port) }).await;
        publish_outbound(&world.web_state, None, &id("orders"), &world.spec);
        let (web, _) = world.capture(VIP).await;
        let answer = get(web, "/", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("plaintext"), "{answer}");
        assert_eq!(accepted.get(), 0);
        let open = Spec { transport: Transport::Permissive, ..world.spec.clone() };
        publish_outbound(&world.web_state, None, &id("orders"), &open);
        assert!(get(web, "/", "").await.unwrap().starts_with("HTTP/1.1 200"));
    })
    .await;
}
