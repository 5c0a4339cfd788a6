//! The side that faces whoever calls over HTTP/2: an app in plain, a sidecar over mesh TLS. Each stream is one async
//! function in a task of its own on this worker. For HTTP/1 see [`super::h1::server`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use http::{Request, Response};
use isthmus_http2::Http2Settings;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::body::Body;
use super::exchange::{Answer, Asked, Caller, Upload};
use super::stream::{Respond, SendHalf};
use super::transfer::Transfer;
use crate::reason::Reason;

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

/// Why we ended a connection that [`serve_http2`] served, where its caller broke the protocol or a bound of it. What is wrong
/// with one stream alone ends that one, and the h2 crate says nothing of it.
pub fn refused(error: &io::Error) -> Option<Reason> {
    let error = error.get_ref()?.downcast_ref::<h2::Error>().filter(|error| error.is_library())?;
    match error.reason()? {
        h2::Reason::NO_ERROR => None,
        h2::Reason::ENHANCE_YOUR_CALM => Some(Reason::Overloaded),
        _ => Some(Reason::MalformedRequest),
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
