//! An app that calls over HTTP/1: one request after the other, each answered in full before the next is read. Requests that
//! were sent ahead (pipelined) wait in the socket.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use h2::ext::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::head::{self, HeadError, RequestHead};
use super::incoming::Incoming;
use super::outgoing::{Delimited, Outgoing};
use super::{Connection, Framing, write};
use crate::http::body::Body;
use crate::http::exchange::{Answer, Asked, Caller, Upload};
use crate::http::respond;
use crate::http::server::stopped;
use crate::http::transfer::{Sink, Transfer};
use crate::reason::Reason;

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    Closed,
    /// The app wants a tunnel (CONNECT): from here on it is bytes, beginning with these.
    Tunnel(TcpStream, BytesMut),
}

/// Serves an app's connection until it ends. With `stop`, finishes the request in flight and closes. `refused` is told of
/// each request that was refused before it was one.
#[expect(clippy::manual_async_fn, reason = "it would keep its arguments twice for as long as the connection idles")]
pub fn serve<H>(
    connection: Rc<Connection>,
    mut stop: watch::Receiver<bool>,
    refused: impl Fn(Reason, &HeadError),
    handle: H,
) -> impl Future<Output = io::Result<Ended>>
where
    H: AsyncFn(Asked<'_>) -> Answer,
{
    async move {
        let stopped = stopped(&mut stop);
        tokio::pin!(stopped);
        let raw = loop {
            let head = tokio::select! {
                biased;
                head = connection.read_head() => head,
                () = &mut stopped => return Ok(Ended::Closed),
            };
            match next(&connection, head, stopped.as_mut(), &handle) {
                Next::Exchange(exchange) => {
                    if !exchange.await? {
                        return Ok(Ended::Closed);
                    }
                }
                Next::Refused(error) => return Box::pin(refuse(&connection, error, &refused)).await,
                Next::Tunnel(raw) => break raw,
                Next::Closed => return Ok(Ended::Closed),
            }
        };
        Ok(tunnel(connection, &raw))
    }
}

/// What a head asks for.
enum Next<E> {
    /// On the heap: an idle connection shall not hold the room that a request needs.
    Exchange(Pin<Box<E>>),
    Refused(HeadError),
    Tunnel(Bytes),
    Closed,
}

fn next<'a, H>(
    connection: &'a Rc<Connection>,
    head: Result<Option<Bytes>, HeadError>,
    stopped: Pin<&'a mut impl Future<Output = ()>>,
    handle: &'a H,
) -> Next<impl Future<Output = io::Result<bool>>>
where
    H: AsyncFn(Asked<'_>) -> Answer,
{
    let raw = match head {
        Ok(Some(raw)) => raw,
        Ok(None) => return Next::Closed,
        Err(error) => return Next::Refused(error),
    };
    if raw.starts_with(b"CONNECT ") {
        return Next::Tunnel(raw);
    }
    match head::parse_request(&raw) {
        Ok(head) => Next::Exchange(Box::pin(exchange(connection, head, raw, stopped, handle))),
        Err(error) => Next::Refused(error),
    }
}

/// The bytes as they came, the head's included.
fn tunnel(connection: Rc<Connection>, raw: &[u8]) -> Ended {
    let parts = connection.into_parts();
    parts.map_or(Ended::Closed, |(stream, input)| {
        let mut bytes = BytesMut::from(raw);
        bytes.extend_from_slice(&input);
        Ended::Tunnel(stream, bytes)
    })
}

/// One request and its answer. Returns whether another may follow.
async fn exchange<H>(
    connection: &Rc<Connection>,
    head: RequestHead,
    raw: Bytes,
    stopped: Pin<&mut impl Future<Output = ()>>,
    handle: &H,
) -> io::Result<bool>
where
    H: AsyncFn(Asked<'_>) -> Answer,
{
    let (method, version) = (head.request.method().clone(), head.request.version());
    let asked = Exchange { method, version, keep_alive: head.keep_alive, upgrade: head.upgrade.clone() };
    let framing = if head.upgrade.is_some() { Framing::UntilClose } else { head.framing };
    let body = Body::http1(Incoming::new(connection, framing));
    let caller = Caller::Http1((version == Version::HTTP_11).then_some(connection));
    let answer = tokio::select! {
        biased;
        answer = handle(Asked { request: head.request.map(|()| body), raw: Some(raw), upgrade: head.upgrade, caller }) => answer,
        () = connection.gone() => return Ok(false),
    };
    let stopping = is_ready(stopped).await;
    answer_with(connection, &asked, answer, stopping).await
}

/// Whether a future is ready now.
async fn is_ready(mut future: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

/// What of a request decides how it is answered.
struct Exchange {
    method: Method,
    version: Version,
    keep_alive: bool,
    upgrade: Option<Protocol>,
}

/// Writes an answer while the rest of the request is still read. Returns whether the connection can carry another request.
async fn answer_with(
    connection: &Rc<Connection>,
    asked: &Exchange,
    answer: Answer,
    stopping: bool,
) -> io::Result<bool> {
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        change_protocol(connection, asked, answer).await?;
        return Ok(false);
    }
    if asked.upgrade.is_some() {
        // Declined, and nothing after the head was read: it is the next request.
        connection.end_reading();
    }
    let _held = answer.held;
    let mut upload = Upload(answer.upload);
    // A request that is not read to its end, and that nobody reads on, leaves its rest in the way of the next.
    let unread = connection.is_reading() && upload.0.is_none();
    let (head, body) = answer.response.into_parts();
    let mut headers = head.headers;
    let bodiless = asked.method == Method::HEAD || is_bodiless(head.status);
    let delimited = delimit(asked, head.status, &mut headers, &body, bodiless);
    let keep = asked.keep_alive && !stopping && !unread && answer.reset.is_none() && delimited != Delimited::Close;
    say_connection(&mut headers, asked.version, keep);
    let out = Outgoing::new(connection, delimited, |out| {
        write::response(head.status, &headers, head.extensions.get(), out);
        if delimited == Delimited::Chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        out.extend_from_slice(b"\r\n");
    });
    let mut download = Transfer::new(if bodiless { Body::Empty } else { body }, Sink::Http1(out));
    // The answer decides; an upload that breaks meanwhile shows in it, or in the next read.
    poll_fn(|cx| {
        if upload.poll(cx).is_err() {
            upload.0 = None;
        }
        download.poll(cx)
    })
    .await
    .map_err(io::Error::other)?;
    drop(download);
    if keep && upload.0.is_some() {
        tokio::select! {
            sent = upload.run() => sent.map_err(io::Error::other)?,
            () = connection.gone() => return Ok(false),
        }
    }
    let keep = keep && !connection.is_reading();
    if !keep {
        connection.close().await;
    }
    Ok(keep)
}

/// 101, then bytes both ways until both have ended.
async fn change_protocol(connection: &Rc<Connection>, asked: &Exchange, answer: Answer) -> io::Result<()> {
    let Some(protocol) = &asked.upgrade else {
        return Err(io::Error::other("a change of protocol that nobody asked for"));
    };
    let (head, body) = answer.response.into_parts();
    let out = Outgoing::new(connection, Delimited::Close, |out| {
        write::response(head.status, &head.headers, head.extensions.get(), out);
        write::upgrade(protocol.as_str(), out);
        out.extend_from_slice(b"\r\n");
    });
    let mut upload = Upload(answer.upload);
    let mut download = Transfer::new(body, Sink::Http1(out));
    let both = async {
        poll_fn(|cx| {
            if let Err(error) = upload.poll(cx) {
                return Poll::Ready(Err(error));
            }
            download.poll(cx)
        })
        .await?;
        upload.run().await
    };
    tokio::select! {
        ended = both => ended.map_err(io::Error::other),
        () = connection.gone() => Ok(()),
    }
}

fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

fn delimit(asked: &Exchange, status: StatusCode, headers: &mut HeaderMap, body: &Body, bodiless: bool) -> Delimited {
    if bodiless {
        if status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        return Delimited::Length(0);
    }
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| isthmus_http2::head::digits(value.as_bytes()));
    match declared.or_else(|| body.length()) {
        Some(length) => {
            if declared.is_none() {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Delimited::Length(length)
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            if write::knows_chunks(asked.version) { Delimited::Chunked } else { Delimited::Close }
        }
    }
}

fn say_connection(headers: &mut HeaderMap, version: Version, keep: bool) {
    if !keep {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    } else if version == Version::HTTP_10 {
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
}

/// A request that is none: answered once, and the connection ends. What follows it could be anything.
async fn refuse(
    connection: &Rc<Connection>,
    error: HeadError,
    refused: &impl Fn(Reason, &HeadError),
) -> io::Result<Ended> {
    let Some(reason) = error.reason() else {
        return Ok(Ended::Closed);
    };
    refused(reason, &error);
    let asked = Exchange { method: Method::GET, version: Version::HTTP_11, keep_alive: false, upgrade: None };
    let response: Response<Body> = respond::refusal(reason, None, false);
    answer_with(connection, &asked, response.into(), true).await?;
    Ok(Ended::Closed)
}

/// An interim answer, at once.
pub fn write_interim(connection: &Connection, status: StatusCode, headers: &HeaderMap) {
    connection.with_output(|out| {
        write::response(status, headers, None, out);
        out.extend_from_slice(b"\r\n");
    });
    connection.flush_now();
}
