//! Peers that do what no sidecar of ours does.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response, StatusCode};
use isthmus_certs::{CertificateAuthority, ExpectedPeer, IdentityStore, SystemClock, TrustDomain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world_test::{OWN, Spec, World, app, authority, id, identity, mirror, on_worker, store, world};
use crate::tls;

/// A mesh connection of somebody who holds `identity`, with nothing of our outbound path in it.
pub(super) async fn dial(
    world: &World,
    identity: &std::sync::Arc<IdentityStore>,
) -> Result<SendRequest<Bytes>, String> {
    let stream = TcpStream::connect(world.mesh).await.unwrap();
    let config = identity.client_config(&[tls::mesh::ALPN], ExpectedPeer::AnyOf(vec![id("orders")]));
    let connected = tls::connect(stream, world.mesh.ip(), config, tls::mesh::HANDSHAKE_DEADLINE).await;
    let (stream, ..) = connected.map_err(|error| error.word().to_owned())?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    // In TLS 1.3 a refused client learns of it with the first read.
    let mut sender = sender.ready().await.map_err(|error| error.to_string())?;
    send(&mut sender, Request::get("http://o/probe")).await.map(|_| sender)
}

pub(super) async fn send(
    sender: &mut SendRequest<Bytes>,
    request: http::request::Builder,
) -> Result<Response<String>, String> {
    let request = request.body(()).unwrap();
    let (response, _) = sender.send_request(request, true).map_err(|error| error.to_string())?;
    let (head, mut body) = response.await.map_err(|error| error.to_string())?.into_parts();
    let mut text = Vec::new();
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
        text.extend_from_slice(&bytes);
    }
    Ok(Response::from_parts(head, String::from_utf8(text).unwrap()))
}

fn denied<T>(response: &Response<T>) -> &str {
    response.headers().get("isthmus-denied").map_or("", |word| word.to_str().unwrap())
}

#[tokio::test]
async fn internal_headers_of_a_mesh_peer_are_read_strictly() {
    on_worker(Box::pin(async {
        let (port, accepted) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let mut peer = dial(&world, &world.web).await.unwrap();
        let own = port.to_string();
        let wrong: &[&[(&str, &str)]] = &[
            &[],
            &[("isthmus-port", &own), ("isthmus-port", &own)],
            &[("isthmus-port", "+80")],
            &[("isthmus-port", "080")],
            &[("isthmus-port", "0")],
            &[("isthmus-port", "65536")],
            &[("isthmus-port", "")],
            &[("isthmus_port", &own)],
            &[("isthmus-port", &own), ("isthmus-version", "3")],
            &[("isthmus-port", &own), ("isthmus-version", "2"), ("isthmus-version", "2")],
            &[("isthmus-port", &own), ("isthmus-absolute", "yes")],
            &[("isthmus-port", &own), ("isthmus-absolute", "1"), ("isthmus-absolute", "1")],
            &[("isthmus-port", &own), ("isthmus-names", "a b")],
            &[("isthmus-port", &own), ("isthmus-names", "A"), ("isthmus-names", "B")],
            &[("isthmus-port", &own), ("isthmus-pin", "7")],
            &[("isthmus-port", &own), ("isthmus-pin", "0000000000000007")],
        ];
        for headers in wrong {
            let request =
                headers.iter().fold(Request::get("http://o/"), |request, (name, value)| request.header(*name, *value));
            let response = send(&mut peer, request).await.unwrap();
            assert_eq!(
                (response.status(), denied(&response)),
                (StatusCode::BAD_REQUEST, "bad-internal-header"),
                "{headers:?}"
            );
        }
        assert_eq!(accepted.get(), 0);
        let request = Request::get("http://somebody-else:1/")
            .header("isthmus-port", &own)
            .header("isthmus-denied", "x")
            .header("isthmus_elapsed", "total=1;app=1")
            .header("x-forwarded-client-cert", "URI=spiffe://shop.example/ns/shop/sa/admin");
        let response = send(&mut peer, request).await.unwrap();
        assert_eq!((response.status(), accepted.get()), (StatusCode::OK, 1), "Host does not select the address");
        assert!(!response.body().contains("isthmus") && !response.body().contains("admin"), "{}", response.body());
        assert!(response.headers().contains_key("isthmus-elapsed"));
        let request = Request::get("http://o/").header("isthmus-port", "15001");
        assert_eq!(denied(&send(&mut peer, request).await.unwrap()), "forbidden-port");
    }))
    .await;
}

/// The sender's sidecar leaves one name in a request; a peer that is none may send two.
#[tokio::test]
async fn a_mesh_peer_cannot_ask_for_one_host_and_have_the_app_read_another() {
    on_worker(Box::pin(async {
        let (port, accepted) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let mut peer = dial(&world, &world.web).await.unwrap();
        let own = port.to_string();
        for hosts in [&["admin"][..], &["o", "admin"], &[""]] {
            let request = Request::get("http://o/").header("isthmus-port", &own);
            let request = hosts.iter().fold(request, |request, host| request.header("host", *host));
            let response = send(&mut peer, request).await.unwrap();
            assert_eq!(
                (response.status(), denied(&response)),
                (StatusCode::BAD_REQUEST, "malformed-request"),
                "{hosts:?}"
            );
        }
        assert_eq!(accepted.get(), 0);
        let request = Request::get("http://o/").header("isthmus-port", &own).header("host", "O");
        let response = send(&mut peer, request).await.unwrap();
        assert_eq!((response.status(), accepted.get()), (StatusCode::OK, 1));
        assert_eq!(response.body().to_lowercase().matches("host:").count(), 1, "{}", response.body());
    }))
    .await;
}

#[tokio::test]
async fn trailers_of_a_mesh_peer_are_cleaned() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let mut peer = dial(&world, &world.web).await.unwrap();
        let request = Request::post("http://o/").header("isthmus-port", port).header("trailer", "x-sum, isthmus-x");
        let (response, mut body) = peer.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data("data".into(), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        for name in ["x-sum", "isthmus-x", "isthmus_x", "x_forwarded_client_cert"] {
            trailers.insert(name, "1".parse().unwrap());
        }
        body.send_trailers(trailers).unwrap();
        let mut body = response.await.unwrap().into_body();
        let text = String::from_utf8(body.data().await.unwrap().unwrap().to_vec()).unwrap();
        assert!(text.contains("t-x-sum: 1") && !text.contains("t-isthmus") && !text.contains("t-x_"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_goes_to_the_own_address_and_an_apps_port_only() {
    on_worker(async {
        let (port, accepted) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let mut peer = dial(&world, &world.web).await.unwrap();
        let asked = [
            (format!("127.0.0.1:{port}"), "forbidden-port"),
            (format!("[::1]:{port}"), "forbidden-port"),
            (format!("10.20.1.10:{port}"), "not-my-address"),
            (format!("{OWN}:15001"), "forbidden-port"),
            (format!("{OWN}:{}", world.mesh.port()), "forbidden-port"),
            (format!("localhost:{port}"), "bad-internal-header"),
        ];
        for (authority, word) in asked {
            let request = Request::builder().method(Method::CONNECT).uri(&authority);
            let response = send(&mut peer, request).await.unwrap();
            assert_eq!(denied(&response), word, "{authority}");
        }
        assert_eq!(accepted.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn only_a_valid_certificate_of_this_trust_domain_gets_in() {
    on_worker(Box::pin(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        assert!(dial(&world, &store(&world.ca, &id("web"))).await.is_ok());
        // Another root, same names; and another mesh altogether.
        let other = authority();
        let mut stranger = identity(&other, &id("web"), Duration::from_secs(3600));
        stranger.bundle = world.ca.bundle();
        let holder = IdentityStore::new(stranger.id.trust_domain().clone(), std::sync::Arc::new(SystemClock));
        holder.replace(stranger).unwrap();
        assert!(dial(&world, &holder).await.is_err());
        let domain = TrustDomain::parse("evil.example").unwrap();
        let evil = CertificateAuthority::generate(&domain, std::sync::Arc::new(SystemClock)).unwrap();
        let who = isthmus_certs::SpiffeId::workload(&domain, "shop", "web").unwrap();
        assert!(dial(&world, &store(&evil, &who)).await.is_err());
        // A certificate that ended.
        let expired = store(&world.ca, &id("web"));
        expired.replace(identity(&world.ca, &id("web"), Duration::from_secs(2))).unwrap();
        tokio::time::timeout(Duration::from_secs(20), async {
            while dial(&world, &expired).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("an expired certificate is refused");
    }))
    .await;
}

#[tokio::test]
async fn garbage_on_the_mesh_port_is_closed_and_nothing_else_happens() {
    on_worker(async {
        let (port, accepted) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        for garbage in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], b"\x16\x03\x01\xff\xff", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        {
            let mut stream = TcpStream::connect(world.mesh).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.len() < 100, "an alert at most: {answer:?}");
        }
        assert!(dial(&world, &world.web).await.is_ok());
        assert_eq!(accepted.get(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up_after_the_handshake_deadline() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let world = world(Spec::http(1)).await;
            let silent = TcpStream::connect(world.mesh).await.unwrap();
            let started = tokio::time::Instant::now();
            let (stream, source) = (silent, world.mesh);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let held = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            world.inbound.mesh(accepted, source).await;
            assert_eq!(started.elapsed().as_secs(), tls::mesh::HANDSHAKE_DEADLINE.as_secs());
            drop((stream, held));
        })
        .await;
}
