use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{IdentityStore, SystemClock, TrustDomain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::flows::Decisions;
use crate::state::State;
use crate::telemetry::Metrics;

async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn identities() -> Arc<IdentityStore> {
    IdentityStore::new(TrustDomain::parse("shop.example").unwrap(), Arc::new(SystemClock))
}

async fn serve_page(
    page: impl Fn(&http::Request<hyper::body::Incoming>) -> Answer + Send + Sync + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_tcp(listener, CancellationToken::new(), page));
    address
}

async fn get(address: std::net::SocketAddr, request: &str) -> String {
    ask(TcpStream::connect(address).await.unwrap(), request).await
}

#[tokio::test]
async fn the_metrics_port_has_metrics_and_nothing_else() {
    let metrics = Metrics::new(1);
    let address = serve_page(move |request| metrics_page(request, &metrics)).await;
    assert!(get(address, "GET /metrics").await.contains("# TYPE isthmus_requests_total counter"));
    assert!(get(address, "GET /config_dump").await.starts_with("HTTP/1.1 404"));
    assert!(get(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
    let long = format!("GET /{}", "x".repeat(20_000));
    assert!(!get(address, &long).await.contains("isthmus_"));
}

#[tokio::test]
async fn readiness_says_why_not() {
    let (state, _demands) = State::new();
    let readiness = Readiness::new(state, identities(), Arc::default());
    let shown = readiness.clone();
    let address = serve_page(move |request| readiness_page(request, &shown)).await;
    let answer = get(address, "GET /ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("not-ready: no certificate"), "{answer}");
    readiness.stop();
    assert!(get(address, "GET /ready").await.contains("shutting-down"));
    assert!(get(address, "GET /metrics").await.starts_with("HTTP/1.1 404"));
}

fn admin(set_log_level: Option<SetLogLevel>) -> Admin {
    let config = Config::parse("joinTokenFile: /etc/isthmus/join-token").unwrap();
    let (state, _demands) = State::new();
    Admin {
        config,
        state,
        identities: identities(),
        renew_now: Arc::default(),
        standing: Arc::default(),
        readiness: Readiness::new(State::new().0, identities(), Arc::default()),
        decisions: Decisions::new(),
        set_log_level,
    }
}

#[tokio::test]
async fn the_admin_socket_is_its_owners_and_answers_from_its_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.sock");
    let (file, listener) = AdminSocket::bind(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let set: SetLogLevel = Arc::new(|level| if level == "debug" { Ok(()) } else { Err("no such level".to_owned()) });
    let admin = admin(Some(set));
    let renew_now = Arc::clone(&admin.renew_now);
    let stop = CancellationToken::new();
    let serving =
        tokio::spawn(serve_unix(listener, stop.clone(), move |request| admin.answer(request, Some("nftables"))));
    for (request, status, text) in [
        ("GET /config_dump", 200, "\"mode\": \"auto\""),
        ("GET /certs", 200, "not enrolled yet"),
        ("GET /status", 200, "\"status\": \"not-ready\""),
        ("GET /status", 200, "\"inForce\": \"nftables\""),
        ("GET /decisions", 200, "\"newestFirst\": []"),
        ("GET /decisions/none", 404, "no such decision"),
        ("GET /etc/passwd", 404, "there are /config_dump"),
        ("DELETE /config_dump", 405, "GET"),
        ("PUT /log?level=debug", 200, "debug"),
        ("PUT /log?level=loud", 400, "no such level"),
        ("PUT /log", 400, "/log?level=debug"),
        ("PUT /renew", 202, "/certs"),
        ("GET /renew", 404, "there are /config_dump"),
    ] {
        let answer = ask(UnixStream::connect(&path).await.unwrap(), request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{request}: {answer}");
    }
    tokio::time::timeout(Duration::from_secs(5), renew_now.notified()).await.expect("a renewal was asked for");
    stop.cancel();
    serving.await.unwrap();
    drop(file);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_cleared_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _living = AdminSocket::bind(&path).unwrap();
    let refused = AdminSocket::bind(&path).unwrap_err().to_string();
    assert!(refused.contains("another proxy answers there"), "{refused}");
    let other = dir.path().join("a-file");
    std::fs::write(&other, "precious").unwrap();
    assert!(AdminSocket::bind(&other).is_err());
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
}

#[tokio::test]
async fn idle_connections_beyond_the_few_are_closed_at_once() {
    let metrics = Metrics::new(1);
    let address = serve_page(move |request| metrics_page(request, &metrics)).await;
    let mut idle = Vec::new();
    for _ in 0..16 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut refused = TcpStream::connect(address).await.unwrap();
    let mut nothing = Vec::new();
    // Closed with nothing read, or reset: either way nothing was served.
    let _ = refused.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());
}
