//! Calls to a sidecar that is not ours: it takes tunnels (CONNECT over HTTP/2 and mTLS, ALPN `h2`) and nothing else.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use isthmus_certs::ClientAuth;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::world_test::{OWN, Spec, World, app, get, id, mirror, on_worker, publish_endpoints, store, world};
use crate::state::AppProtocol;
use crate::tls;

/// What it was asked for: methods and authorities of its streams, with the names of their headers.
type Asked = Rc<RefCell<Vec<String>>>;

/// Listens beside the sidecar of `orders`, under the same identity.
async fn hbone_peer(world: &World) -> (SocketAddr, Asked) {
    let listener = tokio::net::TcpListener::bind((OWN, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = store(&world.ca, &id("orders")).server_config(&[tls::mesh::ALPN_HBONE], ClientAuth::Required);
    let asked = Asked::default();
    let seen = Rc::clone(&asked);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, seen) = (config.clone(), Rc::clone(&seen));
            tokio::task::spawn_local(async move {
                let Ok((stream, ..)) = tls::accept(stream, config).await else { return };
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
                    seen.borrow_mut().push(format!("{} {} {names:?}", request.method(), request.uri()));
                    tokio::task::spawn_local(tunnel(request, respond));
                }
            });
        }
    });
    (address, asked)
}

async fn tunnel(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut response = Response::new(());
    if request.method() != Method::CONNECT {
        *response.status_mut() = StatusCode::NOT_FOUND;
        let _ = respond.send_response(response, true);
        return;
    }
    let app = TcpStream::connect(request.uri().authority().unwrap().as_str()).await.unwrap();
    let to_peer = respond.send_response(response, false).unwrap();
    let (from_app, mut to_app) = app.into_split();
    tokio::task::spawn_local(back(from_app, to_peer));
    let mut from_peer = request.into_body();
    while let Some(Ok(bytes)) = from_peer.data().await {
        let _ = from_peer.flow_control().release_capacity(bytes.len());
        to_app.write_all(&bytes).await.unwrap();
    }
}

async fn back(mut from_app: OwnedReadHalf, mut to_peer: SendStream<Bytes>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from_app.read(&mut buffer).await {
        let _ = to_peer.send_data(Bytes::copy_from_slice(&buffer[..count]), false);
    }
    let _ = to_peer.send_data(Bytes::new(), true);
}

async fn world_with_hbone_peer(app_port: u16, protocol: AppProtocol) -> (World, SocketAddr, Asked) {
    let spec = Spec { protocol, ..Spec::http(app_port) };
    let world = world(spec).await;
    let (peer, asked) = hbone_peer(&world).await;
    publish_endpoints(&world.web_state, &[Some(peer.port())], &id("orders"), &world.spec);
    (world, peer, asked)
}

#[tokio::test]
async fn http1_to_a_peer_that_takes_tunnels_only_goes_as_bytes() {
    for protocol in [AppProtocol::Http, AppProtocol::Detect] {
        on_worker(Box::pin(async {
            let (port, accepted) = app(mirror).await;
            let (world, _, asked) = world_with_hbone_peer(port, protocol).await;
            let (captured, _) = world.capture(super::world_test::VIP).await;
            let answer = get(captured, "/one", "x-mine: kept\r\n").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("GET /one"), "{answer}");
            assert!(
                answer.contains("x-mine: kept") && !answer.contains("traceparent"),
                "the bytes as they were: {answer}"
            );
            let again = get(captured, "/two", "").await.unwrap();
            assert!(again.contains("GET /two"), "{again}");
            assert_eq!(accepted.get(), 2, "a connection of the app is one of the callee's app");
            let tunnels: Vec<String> = asked.borrow().clone();
            let expected = format!("CONNECT {OWN}:{port} []");
            assert_eq!(tunnels, [expected.clone(), expected], "no header of ours");
        }))
        .await;
    }
}

#[tokio::test]
async fn http2_to_a_peer_that_takes_tunnels_only_goes_as_bytes() {
    on_worker(Box::pin(async {
        let answered = Rc::new(Cell::new(0));
        let counted = Rc::clone(&answered);
        let (port, _) = app(move |stream| {
            let counted = Rc::clone(&counted);
            async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert!(!request.headers().keys().any(|name| name.as_str().starts_with("isthmus")));
                    counted.set(counted.get() + 1);
                    let _ = respond.send_response(Response::new(()), true);
                }
            }
        })
        .await;
        let (world, _, asked) = world_with_hbone_peer(port, AppProtocol::Http2).await;
        let (captured, _) = world.capture(super::world_test::VIP).await;
        let stream = TcpStream::connect(captured).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        for _ in 0..3 {
            sender = sender.ready().await.unwrap();
            let request = Request::get("http://orders.shop/").body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!((answered.get(), asked.borrow().len()), (3, 1), "three requests in one tunnel");
    }))
    .await;
}

/// Both kinds behind one service, as while one is replaced by the other.
#[tokio::test]
async fn a_service_may_have_sidecars_of_both_kinds() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let (world, peer, asked) = world_with_hbone_peer(port, AppProtocol::Http).await;
        let both = [Some(peer.port()), Some(world.mesh.port())];
        publish_endpoints(&world.web_state, &both, &id("orders"), &world.spec);
        let (captured, _) = world.capture(super::world_test::VIP).await;
        for _ in 0..4 {
            let two = "GET /a HTTP/1.1\r\nHost: o\r\n\r\nGET /b HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n";
            let answer = super::world_test::exchange(captured, two.as_bytes()).await.unwrap();
            assert!(answer.contains("GET /a") && answer.contains("GET /b"), "{answer}");
        }
        assert!(
            !asked.borrow().is_empty() && asked.borrow().iter().all(|line| line.starts_with("CONNECT")),
            "{asked:?}"
        );
    }))
    .await;
}
