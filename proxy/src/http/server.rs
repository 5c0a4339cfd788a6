//! The side that faces whoever calls: an app over HTTP/1 or HTTP/2 in plain. Each request goes to one async function;
//! each HTTP/2 stream runs as its own task on this worker.
//!
//! HTTP/1 framing is hyper's, which refuses (400) conflicting lengths, a transfer-encoding that does not end in
//! `chunked`, and obsolete line folding. `Transfer-Encoding` beside `Content-Length` is read as chunked, passed on as
//! HTTP/2 (which has only one framing) and ends the connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::body::{Body, pump};

/// What one HTTP/2 connection may ask of us.
#[derive(Debug, Clone, Copy)]
pub struct Http2Settings {
    pub max_streams: u32,
    pub max_header_bytes: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    pub max_frame: u32,
}

/// Request heads up to so many bytes; the 64 KiB that apps may send, and their request line.
pub const MAX_HEADER_BYTES: u32 = 80 * 1024;
/// More header fields than this are an attack on somebody's hash table.
const MAX_HEADERS: usize = 256;

impl Http2Settings {
    /// Towards apps: default frames, windows of a local connection.
    pub const APP: Http2Settings = Http2Settings {
        max_streams: 1_000,
        max_header_bytes: MAX_HEADER_BYTES,
        stream_window: 1 << 20,
        connection_window: 4 << 20,
        max_frame: 16 * 1024,
    };
    /// Between sidecars: one stream fills 1 Gbit/s at 30 ms; frames of 1 MiB cost a third less CPU than 16 KiB ones.
    pub const MESH: Http2Settings = Http2Settings {
        max_streams: 4_000,
        max_header_bytes: MAX_HEADER_BYTES,
        stream_window: 4 << 20,
        connection_window: 16 << 20,
        max_frame: 1 << 20,
    };

    pub fn server(self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.max_streams)
            .max_header_list_size(self.max_header_bytes)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame)
            .max_send_buffer_size(self.max_frame as usize);
        builder
    }

    pub fn client(self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            // Until the peer's SETTINGS are read; it allows more.
            .initial_max_send_streams(100)
            .max_header_list_size(self.max_header_bytes)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame)
            .max_send_buffer_size(self.max_frame as usize);
        builder
    }
}

/// Serves an app's HTTP/1 connection until it ends. With `stop`, finishes the request in flight and closes.
pub async fn serve_http1<S, H, F>(stream: S, mut stop: watch::Receiver<bool>, handle: H) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Request<Body>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = handle(request.map(|incoming| Body::http1(incoming, None)));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // The app's own `date` passes through; ours would be a second opinion. A client that half-closes still gets its
    // answer: the watch for its reset is on the write side.
    builder.auto_date_header(false).half_close(true).max_headers(MAX_HEADERS).max_buf_size(256 * 1024);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Serves an app's HTTP/2 connection until it ends. With `stop`, sends GOAWAY and finishes what is in flight.
pub async fn serve_http2<S, H, F>(stream: S, mut stop: watch::Receiver<bool>, handle: H) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Request<Body>) -> F + Clone + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let mut connection: h2::server::Connection<S, Bytes> =
        Http2Settings::APP.server().handshake(stream).await.map_err(io::Error::other)?;
    let mut stopping = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(accepted) = accepted else { return Ok(()) };
        let (request, respond) = accepted.map_err(io::Error::other)?;
        let handle = handle.clone();
        tokio::task::spawn_local(answer(request, respond, handle));
    }
}

/// Resolves when `stop` becomes true; never when its sender is gone without saying so.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One HTTP/2 stream: hands the request over, sends back what comes. A reset from the caller ends the work at once.
pub async fn answer<H, F>(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, handle: H)
where
    H: FnOnce(Request<Body>) -> F,
    F: Future<Output = Response<Body>>,
{
    let work = handle(request.map(Body::http2));
    let response = tokio::select! {
        biased;
        response = work => response,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let (mut head, body) = response.into_parts();
    head.version = http::Version::HTTP_2;
    let ends = body.is_empty();
    // An error here is a caller that went away, or a response h2 refuses to send: the stream is reset either way.
    match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(stream) if !ends => {
            let _ = pump(body, stream).await;
        }
        Ok(_) => {}
        Err(_) => respond.send_reset(h2::Reason::INTERNAL_ERROR),
    }
}
