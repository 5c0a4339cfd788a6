//! Apps of the two proxies' world, and callers of them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::world_test::OWN;

/// An app that runs `serve` per connection. Returns its port on [`OWN`], and how many connections it accepted.
pub(super) async fn app<F: Future<Output = ()> + 'static>(
    serve: impl Fn(TcpStream) -> F + 'static,
) -> (u16, Rc<Cell<usize>>) {
    let listener = TcpListener::bind((OWN, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Rc::new(Cell::new(0));
    let counted = Rc::clone(&accepted);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.set(counted.get() + 1);
            tokio::task::spawn_local(serve(stream));
        }
    });
    (port, accepted)
}

/// An HTTP/1 app that answers with the request it saw: its line, its headers sorted, its body; trailers as `t-` headers.
pub(super) async fn mirror(stream: TcpStream) {
    use http_body_util::{BodyExt, Full};
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
        let (head, body) = request.into_parts();
        let collected = body.collect().await?;
        let mut lines: Vec<String> =
            head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        for (name, value) in collected.trailers().into_iter().flatten() {
            lines.push(format!("t-{name}: {}", value.to_str().unwrap()));
        }
        lines.sort();
        let body = collected.to_bytes();
        let text = format!("{} {}\n{}\n\n{}", head.method, head.uri, lines.join("\n"), String::from_utf8_lossy(&body));
        let mut response = http::Response::new(Full::new(bytes::Bytes::from(text)));
        let forged = response.headers_mut();
        forged.insert("isthmus-elapsed", "total=1;app=1".parse().unwrap());
        forged.insert("isthmus-denied", "forged".parse().unwrap());
        forged.insert("isthmus_x", "forged".parse().unwrap());
        forged.insert("x-kept", "yes".parse().unwrap());
        Ok::<_, hyper::Error>(response)
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
        .await;
}

/// Sends bytes, reads the answer to its end.
pub(super) async fn exchange(to: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub(super) async fn get(to: SocketAddr, path: &str, headers: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: orders.shop\r\nConnection: close\r\n{headers}\r\n");
    exchange(to, request.as_bytes()).await
}
