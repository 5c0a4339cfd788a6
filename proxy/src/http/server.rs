//! The side that faces whoever calls over HTTP/2: an app in plain, a sidecar over mesh TLS. Each stream is one async
//! function in a task of its own on this worker. For HTTP/1 see [`super::h1::server`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::body::Body;
use super::exchange::{Answer, Asked, Caller, Upload};
use super::stream::{Respond, SendHalf};
use super::transfer::Transfer;

/// What one HTTP/2 connection may ask of us.
#[derive(Debug, Clone, Copy)]
pub struct Http2Settings {
    pub max_streams: u32,
    pub max_header_bytes: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    pub max_frame: u32,
    /// Streams that the caller reset before we looked at them; more at once is abuse (CVE-2023-44487) and ends the
    /// connection.
    pub pending_resets: usize,
}

/// What an HTTP/1 head may hold ([`super::h1::MAX_HEAD`]), counted as HTTP/2 does (32 bytes more per field), and what
/// sidecars add.
pub const MAX_HEADER_BYTES: u32 = 96 * 1024;

impl Http2Settings {
    /// Towards apps: default frames, windows of a local connection.
    pub const APP: Http2Settings = Http2Settings {
        max_streams: 1_000,
        max_header_bytes: MAX_HEADER_BYTES,
        stream_window: 1 << 20,
        connection_window: 4 << 20,
        max_frame: 16 * 1024,
        pending_resets: 20,
    };
    /// Between sidecars: one stream fills 1 Gbit/s at 30 ms; frames of 1 MiB cost a third less CPU than 16 KiB ones.
    pub const MESH: Http2Settings = Http2Settings {
        // Two connections carry as many idle tunnels as a process usually has descriptors for (20,000).
        max_streams: 10_000,
        max_header_bytes: MAX_HEADER_BYTES,
        stream_window: 4 << 20,
        connection_window: 16 << 20,
        max_frame: 1 << 20,
        // Many apps share the connection: that one gives up many calls at once must not end it for all.
        pending_resets: 2_000,
    };

    pub fn server(self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.max_streams)
            .max_pending_accept_reset_streams(self.pending_resets)
            .max_header_list_size(self.max_header_bytes)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame)
            .max_send_buffer_size(self.max_frame as usize)
            // WebSockets (RFC 8441).
            .enable_connect_protocol();
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

/// Serves an app's HTTP/2 connection until it ends. With `stop`, sends GOAWAY and finishes what is in flight.
pub async fn serve_http2<S, H>(stream: S, mut stop: watch::Receiver<bool>, handle: H) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: AsyncFn(Asked<'_>) -> Answer + Clone + 'static,
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
        let request = request.map(Body::http2);
        tokio::task::spawn_local(async move { answer(request, Respond::App(respond), handle).await });
    }
}

/// Resolves when `stop` becomes true; never when its sender is gone without saying so.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One HTTP/2 stream: hands the request over, sends back what comes. A reset from the caller ends the work at once.
pub async fn answer<H>(request: Request<Body>, respond: Respond, handle: H)
where
    H: AsyncFnOnce(Asked<'_>) -> Answer,
{
    let respond = RefCell::new(respond);
    let caller = Caller::Http2(&respond);
    let answer = tokio::select! {
        biased;
        answer = handle(Asked { request, raw: None, upgrade: None, caller }) => answer,
        _ = poll_fn(|cx| respond.borrow_mut().poll_reset(cx)) => return,
    };
    let mut respond = respond.into_inner();
    if let Some(reason) = answer.reset {
        return respond.send_reset(reason);
    }
    let _held = answer.held;
    let mut upload = Upload(answer.upload);
    let (mut head, body) = answer.response.into_parts();
    head.version = http::Version::HTTP_2;
    let ends = body.is_empty();
    // An error here is a caller that went away, or a response h2 refuses to send: the stream is reset either way.
    let stream = match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(stream) => stream,
        Err(_) => return respond.send_reset(h2::Reason::INTERNAL_ERROR),
    };
    if !ends && !send_body(body, stream, &mut upload).await {
        return;
    }
    if upload.0.is_some() {
        tokio::select! {
            biased;
            _ = upload.run() => {}
            _ = poll_fn(|cx| respond.poll_reset(cx)) => {}
        }
    }
}

/// Sends an answer's body while the request's is still read. Returns whether it went to its end.
async fn send_body(body: Body, stream: SendHalf, upload: &mut Upload) -> bool {
    let mut download = Transfer::into_stream(body, stream);
    poll_fn(|cx| {
        // The answer decides; an upload that breaks meanwhile shows in it.
        if upload.poll(cx).is_err() {
            upload.0 = None;
        }
        download.poll(cx)
    })
    .await
    .is_ok()
}
