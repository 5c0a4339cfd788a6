//! The ends of an HTTP/2 stream, whoever carries it: the h2 crate towards apps, [`isthmus_http2`] between sidecars.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Response};
use isthmus_http2::StreamError;

use super::body::Body;

/// The direction out.
#[derive(Debug)]
pub enum SendHalf {
    App(h2::SendStream<Bytes>),
    Mesh(isthmus_http2::SendStream),
}

impl SendHalf {
    /// How much of `wanted` may be sent now; waits until it is something.
    pub fn poll_room(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        match self {
            SendHalf::Mesh(stream) => stream.poll_room(cx),
            SendHalf::App(stream) => {
                stream.reserve_capacity(wanted);
                match stream.capacity() {
                    0 => match ready!(stream.poll_capacity(cx)) {
                        Some(room) => Poll::Ready(room.map_err(Into::into)),
                        // It was closed under us.
                        None => Poll::Ready(Err(h2::Error::from(Reason::CANCEL).into())),
                    },
                    room => Poll::Ready(Ok(room)),
                }
            }
        }
    }

    pub fn send_data(&mut self, piece: Bytes, ends: bool) -> Result<(), StreamError> {
        match self {
            SendHalf::Mesh(stream) => stream.send_data(piece, ends),
            SendHalf::App(stream) => stream.send_data(piece, ends).map_err(Into::into),
        }
    }

    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), StreamError> {
        match self {
            SendHalf::Mesh(stream) => stream.send_trailers(trailers),
            SendHalf::App(stream) => stream.send_trailers(trailers).map_err(Into::into),
        }
    }

    pub fn send_reset(&mut self, reason: Reason) {
        match self {
            SendHalf::Mesh(stream) => stream.send_reset(reason),
            SendHalf::App(stream) => stream.send_reset(reason),
        }
    }

    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, StreamError>> {
        match self {
            SendHalf::Mesh(stream) => stream.poll_reset(cx),
            SendHalf::App(stream) => stream.poll_reset(cx).map_err(Into::into),
        }
    }
}

/// Whoever asked, and waits.
#[derive(Debug)]
pub enum Respond {
    App(h2::server::SendResponse<Bytes>),
    Mesh(isthmus_http2::SendResponse),
}

impl Respond {
    /// A caller that went away needs no interim answer.
    pub fn send_informational(&mut self, response: Response<()>) {
        let _ = match self {
            Respond::Mesh(respond) => respond.send_informational(response),
            Respond::App(respond) => respond.send_informational(response).map_err(Into::into),
        };
    }

    pub fn send_response(&mut self, response: Response<()>, ends: bool) -> Result<SendHalf, StreamError> {
        match self {
            Respond::Mesh(respond) => respond.send_response(response, ends).map(SendHalf::Mesh),
            Respond::App(respond) => respond.send_response(response, ends).map(SendHalf::App).map_err(Into::into),
        }
    }

    pub fn send_reset(&mut self, reason: Reason) {
        match self {
            Respond::Mesh(respond) => respond.send_reset(reason),
            Respond::App(respond) => respond.send_reset(reason),
        }
    }

    /// Zero of an app's.
    pub fn stream_id(&self) -> u32 {
        match self {
            Respond::Mesh(respond) => respond.stream_id(),
            Respond::App(_) => 0,
        }
    }

    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, StreamError>> {
        match self {
            Respond::Mesh(respond) => respond.poll_reset(cx),
            Respond::App(respond) => respond.poll_reset(cx).map_err(Into::into),
        }
    }
}

/// An answer that is awaited.
#[derive(Debug)]
pub enum Awaited {
    App(h2::client::ResponseFuture),
    Mesh(isthmus_http2::Answering),
}

impl Awaited {
    /// Interim answers (1xx), as they come.
    pub fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, StreamError>> {
        match self {
            Awaited::Mesh(answer) => answer.poll_interim(cx),
            Awaited::App(answer) => match ready!(answer.poll_informational(cx)) {
                Some(interim) => Poll::Ready(interim.map_err(Into::into)),
                None => Poll::Pending,
            },
        }
    }

    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, StreamError>> {
        match self {
            Awaited::Mesh(answer) => answer.poll_head(cx).map_ok(|response| response.map(Body::mesh)),
            Awaited::App(answer) => {
                Pin::new(answer).poll(cx).map_ok(|response| response.map(Body::http2)).map_err(Into::into)
            }
        }
    }
}
