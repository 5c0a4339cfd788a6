//! One body under way: from whoever sends it into a message that goes out. Polled by the task that waits for the answer as
//! well, so that both directions of an exchange move in one task. A body that breaks breaks its message: the receiver
//! never takes a part for the whole.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use isthmus_http2::StreamError;

use super::body::{Body, BodyError, Frame};
use super::h1::outgoing::Outgoing;
use super::stream::SendHalf;

/// So much of a body is kept until it is certain that it was taken.
const MAX_HELD: usize = 64 * 1024;

/// Where a body goes.
#[derive(Debug)]
pub enum Sink {
    Http1(Outgoing),
    Http2(ToStream),
}

/// The sending half of an HTTP/2 stream, and what its window does not take yet.
#[derive(Debug)]
pub struct ToStream {
    stream: SendHalf,
    rest: Bytes,
    /// `rest` is the body's last.
    last: bool,
}

/// A body and its sink.
#[derive(Debug)]
pub struct Transfer {
    from: Body,
    to: Sink,
    ended: bool,
    finished: bool,
    /// Bytes that it has passed on.
    moved: u64,
    /// What was sent, as long as it may have to be sent again.
    held: Option<Held>,
}

#[derive(Debug, Default)]
struct Held {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Transfer {
    pub fn new(from: Body, to: Sink) -> Transfer {
        Transfer { from, to, ended: false, finished: false, moved: 0, held: None }
    }

    pub fn into_stream(from: Body, stream: SendHalf) -> Transfer {
        Transfer::new(from, Sink::Http2(ToStream { stream, rest: Bytes::new(), last: false }))
    }

    /// Keeps what it sends, so that [`Transfer::rewind`] can give the whole body back.
    pub fn holding(mut self) -> Transfer {
        self.held = Some(Held::default());
        self
    }

    /// The body from its beginning, if all that was sent of it is still held.
    pub fn rewind(mut self) -> Option<Body> {
        let held = self.held.take()?;
        let from = std::mem::take(&mut self.from);
        Some(if held.pieces.is_empty() { from } else { Body::Again(Box::new((held.pieces, from))) })
    }

    /// The answer began: nothing is kept any more. `None`: nothing is left to send either.
    pub fn into_rest(mut self: Box<Self>) -> Option<Box<Transfer>> {
        self.held = None;
        (!self.finished).then_some(self)
    }

    pub fn moved(&self) -> u64 {
        self.moved
    }

    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    pub async fn run(mut self) -> Result<(), BodyError> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Ready when the body has ended and its last byte was taken, or when either side is broken.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let polled = self.poll_frames(cx);
        self.finished = polled.is_ready();
        match (&polled, &mut self.to) {
            (Poll::Ready(Err(BodyError::ReceiverLost)), _) => self.from.receiver_lost(),
            (Poll::Ready(Err(error)), Sink::Http2(to)) if !error.is_receivers() => {
                to.stream.send_reset(error.reset_reason());
            }
            _ => {}
        }
        polled
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            let mut waits = false;
            while !self.ended && self.to.has_room() {
                match self.from.poll_frame(cx) {
                    Poll::Ready(frame) => self.pass_on(frame)?,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            match self.to.poll_flush(cx)? {
                Poll::Pending => return self.to.poll_gone(cx),
                Poll::Ready(()) if self.ended => return Poll::Ready(Ok(())),
                Poll::Ready(()) if waits => return self.to.poll_gone(cx),
                Poll::Ready(()) => {}
            }
        }
    }

    fn pass_on(&mut self, frame: Option<Result<Frame, BodyError>>) -> Result<(), BodyError> {
        match frame.transpose()? {
            Some(Frame::Data(piece)) => {
                self.hold(&piece);
                self.moved += piece.len() as u64;
                let last = self.from.is_ended();
                self.to.put(piece, last)?;
                if last {
                    self.end(None)?;
                }
                Ok(())
            }
            Some(Frame::Trailers(trailers)) => self.end(Some(trailers)),
            None => self.end(None),
        }
    }

    fn end(&mut self, trailers: Option<Box<HeaderMap>>) -> Result<(), BodyError> {
        self.ended = true;
        self.to.end(trailers)
    }

    fn hold(&mut self, piece: &Bytes) {
        let Some(held) = &mut self.held else { return };
        held.length += piece.len();
        if held.length > MAX_HELD {
            self.held = None;
        } else {
            held.pieces.push_back(piece.clone());
        }
    }
}

impl Sink {
    fn has_room(&self) -> bool {
        match self {
            Sink::Http1(out) => out.has_room(),
            Sink::Http2(to) => to.rest.is_empty(),
        }
    }

    fn put(&mut self, piece: Bytes, last: bool) -> Result<(), BodyError> {
        match self {
            Sink::Http1(out) => out.put(piece),
            Sink::Http2(to) => {
                to.rest = piece;
                to.last = last;
                Ok(())
            }
        }
    }

    fn end(&mut self, trailers: Option<Box<HeaderMap>>) -> Result<(), BodyError> {
        match (self, trailers) {
            (Sink::Http1(out), trailers) => out.end(trailers.as_deref()),
            (Sink::Http2(to), Some(trailers)) => {
                to.stream.send_trailers(*trailers).map_err(|error| gone(&to.stream, &error))
            }
            // The last piece ends the stream by itself.
            (Sink::Http2(to), None) if to.last && !to.rest.is_empty() => Ok(()),
            (Sink::Http2(to), None) => {
                to.stream.send_data(Bytes::new(), true).map_err(|error| gone(&to.stream, &error))
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, BodyError> {
        match self {
            Sink::Http1(out) => match out.poll_flush(cx) {
                Poll::Ready(flushed) => flushed.map(Poll::Ready),
                Poll::Pending => Ok(Poll::Pending),
            },
            Sink::Http2(to) => match to.poll_flush(cx) {
                Poll::Ready(flushed) => flushed.map(Poll::Ready),
                Poll::Pending => Ok(Poll::Pending),
            },
        }
    }

    /// A receiver that wants no more of it says so while we wait.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Sink::Http2(to) = self else { return Poll::Pending };
        match ready!(to.stream.poll_reset(cx)) {
            // The receiver has all it wants.
            Ok(h2::Reason::NO_ERROR) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Ready(Err(BodyError::ReceiverGone)),
            Err(error) => Poll::Ready(Err(gone(&to.stream, &error))),
        }
    }
}

impl ToStream {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while !self.rest.is_empty() {
            let room = ready!(self.stream.poll_room(self.rest.len(), cx));
            let room = room.map_err(|error| gone(&self.stream, &error))?;
            let part = self.rest.split_to(room.min(self.rest.len()));
            let ends = self.last && self.rest.is_empty();
            self.stream.send_data(part, ends).map_err(|error| gone(&self.stream, &error))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// What ends a mesh connection is not the doing of the one whose stream this was.
fn gone(stream: &SendHalf, error: &StreamError) -> BodyError {
    match stream {
        SendHalf::Mesh(_) if !error.is_reset() => BodyError::ReceiverLost,
        SendHalf::Mesh(_) | SendHalf::App(_) => BodyError::ReceiverGone,
    }
}
