//! The codec and another implementation of RFC 9113, which shares no code with it or with the h2 crate: nghttp2's own
//! client and server. What they use and we never say: Huffman's code, PRIORITY, windows of 65,535, small frames.

use std::env;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::{Connection, RecvStream, SendRequest, SendResponse, SendStream, accept, connect};
use crate::Http2Settings;

const DEADLINE: Duration = Duration::from_secs(60);
const REQUESTS: usize = 300;

/// A program, or `None` where it is missing: then the test proves nothing, and says so.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|path| path.is_file());
    if found.is_none() {
        assert!(env::var_os("CI").is_none_or(|value| value.is_empty()), "{name} is not installed, and CI is set");
        eprintln!("SKIPPED: HTTP/2 with nghttp2: not installed: {name}");
    }
    found
}

async fn on_worker<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, tokio::task::LocalSet::new().run_until(test)).await.expect("within the deadline")
}

async fn send(stream: &mut SendStream, mut bytes: Bytes) {
    while !bytes.is_empty() {
        let room = poll_fn(|cx| stream.poll_room(cx)).await.unwrap();
        stream.send_data(bytes.split_to(room.min(bytes.len())), false).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
}

async fn read(mut stream: RecvStream) -> (Vec<u8>, RecvStream) {
    let mut all = Vec::new();
    while let Some(piece) = poll_fn(|cx| stream.poll_taken(cx)).await {
        all.extend_from_slice(&piece.unwrap());
    }
    (all, stream)
}

/// Sends back what came.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse) {
    assert_eq!(request.headers().get("x-told").map(HeaderValue::as_bytes), Some(&b"what h2load was told"[..]));
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    let (body, _) = read(request.into_body()).await;
    send(&mut stream, body.into()).await;
}

async fn serve(mut connection: Connection<BufReader<TcpStream>>) {
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::task::spawn_local(echo(request, respond));
    }
}

#[tokio::test]
async fn nghttp2s_client_gets_all_its_bodies_back() {
    let Some(h2load) = program("h2load") else { return };
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    if let Ok(connection) = accept(BufReader::new(stream), Http2Settings::MESH).await {
                        serve(connection).await;
                    }
                });
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let body = directory.path().join("body");
        std::fs::write(&body, vec![b'b'; 100_000]).unwrap();
        let mut command = Command::new(h2load);
        command.args(["-n", &REQUESTS.to_string(), "-c", "3", "-m", "20", "-H", "x-told: what h2load was told", "-d"]);
        let ended = command.arg(&body).arg(format!("http://{at}/echo")).kill_on_drop(true).output().await.unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(said.contains("300 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(said.contains("(30000000) data"), "{said}");
    })
    .await;
}

async fn nghttpd(program: &PathBuf, directory: &std::path::Path) -> Option<(Child, SocketAddr)> {
    // It takes no port 0. Somebody else may take this one before it does.
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut command = Command::new(program);
    command.args(["--no-tls", "--echo-upload", "--trailer", "x-end: all of it", "--address", "127.0.0.1", "--htdocs"]);
    command.arg(directory).arg(at.port().to_string()).stdout(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if TcpStream::connect(at).await.is_ok() {
            return Some((child, at));
        }
        tokio::task::yield_now().await;
    }
}

async fn ask(sender: Rc<SendRequest>, number: usize) {
    // None, a few bytes, and far more than its windows.
    let body = format!("{number} and so on; ").into_bytes().repeat(number * number % 20_000);
    let request = Request::builder().method(Method::POST).uri("http://nghttpd/echo");
    let request = request.header("x-number", number).header("x-same", "in each").body(()).unwrap();
    let (answering, mut stream) = sender.send_request(request, false).unwrap();
    let sent = Bytes::from(body.clone());
    let sending = tokio::task::spawn_local(async move { send(&mut stream, sent).await });
    let response = answering.await.unwrap();
    assert_eq!(response.status(), 200);
    let (back, mut stream) = read(response.into_body()).await;
    assert!(back == body, "{number}: {} bytes went out, {} came back", body.len(), back.len());
    let trailers = stream.trailers().await.unwrap().unwrap();
    assert_eq!(trailers.get("x-end").map(HeaderValue::as_bytes), Some(&b"all of it"[..]));
    sending.await.unwrap();
}

#[tokio::test]
async fn nghttp2s_server_gives_all_bodies_and_trailers_back() {
    let Some(program) = program("nghttpd") else { return };
    on_worker(async {
        let directory = tempfile::tempdir().unwrap();
        let mut started = None;
        for _ in 0..3 {
            started = nghttpd(&program, directory.path()).await;
            if started.is_some() {
                break;
            }
        }
        let (_child, at) = started.expect("nghttpd starts");
        let stream = TcpStream::connect(at).await.unwrap();
        let (sender, mut connection) = connect(BufReader::new(stream), Http2Settings::MESH);
        let driving = tokio::task::spawn_local(async move { poll_fn(|cx| connection.poll(cx)).await });
        let sender = Rc::new(sender);
        // All at once: it allows 100 streams, and the others wait for their turn.
        let asked: Vec<_> = (0..REQUESTS).map(|n| tokio::task::spawn_local(ask(Rc::clone(&sender), n))).collect();
        for one in asked {
            one.await.unwrap();
        }
        drop(sender);
        driving.await.unwrap().unwrap();
    })
    .await;
}
