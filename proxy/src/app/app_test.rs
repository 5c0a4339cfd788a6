//! A whole proxy without a mesh: what it does until a control plane is there, and how it ends.

use std::io::ErrorKind;
use std::net::SocketAddr;

use isthmus_certs::{JoinToken, RootFingerprint, TrustDomain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

struct Alone {
    listening: Listening,
    dir: tempfile::TempDir,
    secret: String,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

/// A token of a control plane that is not there.
async fn lonely_token() -> JoinToken {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let root = RootFingerprint::parse(&"ab".repeat(32)).unwrap();
    JoinToken::generate(&nobody.to_string(), &TrustDomain::parse("shop.example").unwrap(), root).unwrap()
}

fn config(dir: &std::path::Path) -> Config {
    let any = "\"127.0.0.1:0\"";
    let text = format!(
        "joinTokenFile: {0}/token\nworkers: 2\ncapture: {{ mode: none }}\nadmin: {{ socket: {0}/proxy.sock }}\n\
         listen: {{ outbound: {any}, inbound: {any}, mesh: {any}, metrics: {any}, readiness: {any}, drain: 1s }}",
        dir.display()
    );
    Config::parse(&text).unwrap()
}

async fn start() -> Alone {
    let dir = tempfile::tempdir().unwrap();
    let token = lonely_token().await;
    std::fs::write(dir.path().join("token"), &*token.format()).unwrap();
    let (tell, told) = oneshot::channel();
    let shutdown = CancellationToken::new();
    let on_listening = Box::new(move |listening| tell.send(listening).unwrap());
    let embedding = Embedding { on_listening: Some(on_listening), ..Embedding::default() };
    let running = tokio::spawn(run_embedded(config(dir.path()), shutdown.clone(), embedding));
    let listening = told.await.unwrap();
    Alone { listening, dir, secret: token.secret().to_string(), shutdown, running }
}

async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(TcpStream::connect(address).await.unwrap(), path).await
}

#[tokio::test]
async fn without_a_control_plane_it_is_up_and_not_ready_and_ends_when_told() {
    let alone = start().await;
    let answer = get(alone.listening.readiness, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("not-ready"), "{answer}");
    assert!(get(alone.listening.metrics, "/metrics").await.contains("isthmus_ready 0"));
    let socket = alone.dir.path().join("proxy.sock");
    let dump = ask(UnixStream::connect(&socket).await.unwrap(), "/config_dump").await;
    assert!(dump.contains("\"workers\": 2") && !dump.contains(&alone.secret), "{dump}");
    alone.shutdown.cancel();
    alone.running.await.unwrap().unwrap();
    assert!(!socket.exists());
    assert!(TcpStream::connect(alone.listening.outbound).await.is_err(), "its listeners are closed");
}

#[tokio::test]
async fn what_capture_did_not_redirect_is_reset_and_counted() {
    let alone = start().await;
    for (address, direction) in [(alone.listening.outbound, "outbound"), (alone.listening.inbound, "inbound")] {
        // The RST may be there before connect has returned.
        let read = async { TcpStream::connect(address).await?.read_u8().await };
        assert_eq!(read.await.unwrap_err().kind(), ErrorKind::ConnectionReset, "a refusal is RST, never FIN");
        let page = get(alone.listening.metrics, "/metrics").await;
        let line = format!("isthmus_refused_total{{direction=\"{direction}\",reason=\"not-redirected\"}} 1");
        assert!(page.contains(&line), "{page}");
    }
    alone.shutdown.cancel();
    alone.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_identity_and_token_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = run(config(dir.path()), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("isthmus token create"), "{error}");
    std::fs::write(dir.path().join("token"), "garbage").unwrap();
    let error = run(config(dir.path()), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, RunError::JoinToken { .. }), "{error}");
}
