//! A small HTTP/1 server for pages that fit in memory.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Scrapers and probes of one host; the next one is closed at once.
const MOST_CONNECTIONS: usize = 16;
/// From the first byte to the last of the answer: a probe that needs longer has given up.
const CONNECTION: Duration = Duration::from_secs(10);
/// hyper's least is 8 KiB; a probe's head is far below.
const HEAD_BYTES: usize = 8 * 1024;
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// A page.
pub type Answer = Response<Full<Bytes>>;

/// Text with a status.
pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    page(status, "text/plain; charset=utf-8", body.into())
}

pub(super) fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}

/// GET and HEAD of one path, answered by `page`; nothing else.
pub(super) fn only(request: &Request<Incoming>, path: &str, page: impl FnOnce() -> Answer) -> Answer {
    if request.uri().path() != path {
        return text(StatusCode::NOT_FOUND, format!("there is only {path} here\n"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "read-only\n");
    }
    page()
}

/// Serves a TCP port until `stop`.
pub async fn serve_tcp<H>(listener: TcpListener, stop: CancellationToken, handle: H)
where
    H: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    serve(stop, handle, || async { listener.accept().await.map(|(stream, _)| stream) }).await;
}

/// Serves a unix socket until `stop`.
pub async fn serve_unix<H>(listener: UnixListener, stop: CancellationToken, handle: H)
where
    H: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    serve(stop, handle, || async { listener.accept().await.map(|(stream, _)| stream) }).await;
}

async fn serve<H, A, F, S>(stop: CancellationToken, handle: H, accept: A)
where
    H: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
    A: Fn() -> F,
    F: Future<Output = std::io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (handle, permits, tasks) = (Arc::new(handle), Arc::new(Semaphore::new(MOST_CONNECTIONS)), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept() => accepted,
        };
        let Ok(stream) = accepted else {
            sleep(PAUSE_AFTER_ERROR).await;
            continue;
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            continue;
        };
        let handle = handle.clone();
        tasks.spawn(async move {
            // What the peer does wrong is its own affair, and it is gone by now.
            let _ = timeout(CONNECTION, connection(stream, handle)).await;
            drop(permit);
        });
    }
    tasks.close();
    let _ = timeout(CONNECTION, tasks.wait()).await;
}

async fn connection<S, H>(stream: S, handle: Arc<H>) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = handle(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
