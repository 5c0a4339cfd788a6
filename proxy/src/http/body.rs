//! A message's body on its way through: from an HTTP/1 connection or an HTTP/2 stream, into either (see [`super::transfer`]).
//! Whoever reads pulls; nothing is read ahead beyond one read of a socket and the stream's window, so that a slow reader
//! stops the sender.
//!
//! Trailers lose internal headers here, whoever sent them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use isthmus_http2::StreamError;

use super::followed::{End, Follower};
use super::h1::chunked::BadChunk;
use super::h1::incoming::Incoming;
use super::headers::sanitize_trailers;
use crate::reason::Reason;

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    Data(Bytes),
    /// Nothing follows.
    Trailers(Box<HeaderMap>),
}

/// A body that is read once.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    /// Our own words.
    Word(Bytes),
    Http1(Incoming),
    /// From an app's HTTP/2 stream. `data_ended`: only trailers may follow.
    Http2 {
        stream: RecvStream,
        data_ended: bool,
    },
    /// From a mesh connection's stream.
    Mesh(isthmus_http2::RecvStream),
    /// Pieces that were sent in vain, then the rest.
    Again(Box<(VecDeque<Bytes>, Body)>),
    /// A body that breaks off when policy says so.
    Until(Box<(Body, Ending)>),
    /// A body that somebody looks at as it passes.
    Watched(Box<(Body, Watch)>),
    /// An answer's, which is followed to its end.
    Followed(Follower),
}

/// What a [`Watch`] sees.
#[derive(Debug)]
pub enum Seen<'a> {
    Bytes(usize),
    /// It went to its end.
    Whole(Option<&'a HeaderMap>),
    Broken(&'a BodyError),
}

/// Is told of each piece and of the end; dropped without an end where the receiver left before.
pub struct Watch(Box<dyn FnMut(Seen<'_>)>);

impl Watch {
    pub fn new(watch: impl FnMut(Seen<'_>) + 'static) -> Self {
        Watch(Box::new(watch))
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// Resolves when nothing more may be read.
pub struct Ending(Pin<Box<dyn Future<Output = Reason>>>);

impl Ending {
    pub fn new(ending: impl Future<Output = Reason> + 'static) -> Self {
        Ending(Box::pin(ending))
    }

    pub async fn wait(&mut self) -> Reason {
        (&mut self.0).await
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ending")
    }
}

/// A body that ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the sender's HTTP/1 connection broke inside the body: {0}")]
    Broken(io::Error),
    #[error(transparent)]
    Chunk(#[from] BadChunk),
    #[error("the sender's HTTP/2 stream broke inside the body: {0}")]
    Http2(#[from] StreamError),
    #[error("the body is not as long as its Content-Length")]
    Length,
    #[error("the receiver of the body went away")]
    ReceiverGone,
    #[error("the connection to the receiver of the body broke")]
    ReceiverLost,
    #[error("it is no longer allowed: {}", .0.word())]
    Refused(Reason),
}

impl BodyError {
    /// What an HTTP/2 receiver is told: the sender's own reason where it is one, so that CANCEL stays CANCEL.
    pub fn reset_reason(&self) -> h2::Reason {
        match self {
            BodyError::Http2(error) => error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR),
            BodyError::Chunk(_) | BodyError::Length => h2::Reason::PROTOCOL_ERROR,
            BodyError::Broken(_) | BodyError::ReceiverGone | BodyError::ReceiverLost | BodyError::Refused(_) => {
                h2::Reason::CANCEL
            }
        }
    }

    /// The word for a request whose body it was.
    pub fn reason(&self) -> Reason {
        match self {
            BodyError::Chunk(_) | BodyError::Length => Reason::MalformedRequest,
            BodyError::Broken(_) | BodyError::Http2(_) | BodyError::ReceiverGone | BodyError::ReceiverLost => {
                Reason::CallerGone
            }
            BodyError::Refused(reason) => *reason,
        }
    }

    /// The receiver's doing: the sender is well, and an answer may still come.
    pub fn is_receivers(&self) -> bool {
        matches!(self, BodyError::ReceiverGone | BodyError::ReceiverLost)
    }
}

impl Body {
    pub fn word(text: &'static str) -> Body {
        Body::Word(Bytes::from_static(text.as_bytes()))
    }

    pub fn http1(incoming: Option<Incoming>) -> Body {
        incoming.map_or(Body::Empty, Body::Http1)
    }

    pub fn http2(stream: RecvStream) -> Body {
        if stream.is_end_stream() { Body::Empty } else { Body::Http2 { stream, data_ended: false } }
    }

    pub fn mesh(stream: isthmus_http2::RecvStream) -> Body {
        if stream.is_end_stream() { Body::Empty } else { Body::Mesh(stream) }
    }

    /// Nothing to send: the message may be sent again as a whole.
    pub fn is_empty(&self) -> bool {
        matches!(self, Body::Empty)
    }

    /// Nothing follows, and that is known now.
    pub fn is_ended(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Word(word) => word.is_empty(),
            Body::Http1(incoming) => incoming.is_ended(),
            Body::Http2 { stream, .. } => stream.is_end_stream(),
            Body::Mesh(stream) => stream.is_end_stream(),
            Body::Again(again) => again.0.is_empty() && again.1.is_ended(),
            Body::Until(until) => until.0.is_ended(),
            Body::Watched(watched) => watched.0.is_ended(),
            Body::Followed(follower) => follower.is_ended(),
        }
    }

    /// How many bytes are to come, where all of them are here and nothing can break them off any more.
    pub fn here(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Word(word) => Some(word.len() as u64),
            Body::Http1(incoming) => incoming.here(),
            Body::Mesh(stream) => stream.here().map(|bytes| bytes as u64),
            Body::Http2 { .. } | Body::Again(_) | Body::Until(_) | Body::Watched(_) | Body::Followed(_) => None,
        }
    }

    /// Whoever was to receive it has not left: what lies between broke. Told to whoever follows it.
    pub fn receiver_lost(&mut self) {
        match self {
            Body::Followed(follower) => follower.end(End::Broken(&BodyError::ReceiverLost)),
            Body::Until(until) => until.0.receiver_lost(),
            Body::Watched(watched) => watched.0.receiver_lost(),
            Body::Empty | Body::Word(_) | Body::Http1(_) | Body::Http2 { .. } | Body::Mesh(_) | Body::Again(_) => {}
        }
    }

    /// How many bytes it has, where that is known without a `Content-Length`.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Word(word) => Some(word.len() as u64),
            Body::Http1(_) | Body::Http2 { .. } | Body::Mesh(_) | Body::Again(_) => None,
            Body::Until(until) => until.0.length(),
            Body::Watched(watched) => watched.0.length(),
            Body::Followed(follower) => follower.length(),
        }
    }

    /// The same body, which breaks off when `ending` resolves. One that is empty has nothing to break off.
    pub fn until(self, ending: Ending) -> Body {
        if self.is_empty() { self } else { Body::Until(Box::new((self, ending))) }
    }

    /// The same body, looked at as it passes. One that is empty has ended already: the watch is told so at once.
    pub fn watched(self, mut watch: Watch) -> Body {
        if self.is_empty() {
            (watch.0)(Seen::Whole(None));
            return self;
        }
        Body::Watched(Box::new((self, watch)))
    }

    /// `None`: the body's end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Word(word) if word.is_empty() => Poll::Ready(None),
            Body::Word(word) => Poll::Ready(Some(Ok(Frame::Data(std::mem::take(word))))),
            Body::Http1(incoming) => incoming.poll_frame(cx),
            Body::Http2 { stream, data_ended } => poll_http2(stream, data_ended, cx),
            Body::Mesh(stream) => poll_mesh(stream, cx),
            Body::Again(again) => match again.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::Data(piece)))),
                None => again.1.poll_frame(cx),
            },
            Body::Until(until) => match until.1.0.as_mut().poll(cx) {
                Poll::Ready(reason) => Poll::Ready(Some(Err(BodyError::Refused(reason)))),
                Poll::Pending => until.0.poll_frame(cx),
            },
            Body::Watched(watched) => poll_watched(watched, cx),
            Body::Followed(follower) => follower.poll_frame(cx),
        }
    }
}

fn poll_watched(watched: &mut (Body, Watch), cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
    let (body, Watch(watch)) = watched;
    let frame = ready!(body.poll_frame(cx));
    match &frame {
        Some(Ok(Frame::Data(bytes))) => {
            watch(Seen::Bytes(bytes.len()));
            // Whoever reads may not ask again.
            if body.is_ended() {
                watch(Seen::Whole(None));
            }
        }
        Some(Ok(Frame::Trailers(trailers))) => watch(Seen::Whole(Some(trailers))),
        Some(Err(error)) => watch(Seen::Broken(error)),
        None => watch(Seen::Whole(None)),
    }
    Poll::Ready(frame)
}

fn poll_http2(
    stream: &mut RecvStream,
    data_ended: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame, BodyError>>> {
    if !*data_ended {
        match ready!(stream.poll_data(cx)) {
            Some(Ok(bytes)) => {
                // The reader takes one frame at a time, when it has room: the window opens as it reads.
                let _ = stream.flow_control().release_capacity(bytes.len());
                return Poll::Ready(Some(Ok(Frame::Data(bytes))));
            }
            // An app that answered early and does not want the rest says NO_ERROR (RFC 9113 §8.1).
            Some(Err(error)) if error.is_reset() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(StreamError::from(error).into()))),
            None => *data_ended = true,
        }
    }
    match ready!(stream.poll_trailers(cx)) {
        Ok(Some(mut trailers)) => {
            sanitize_trailers(&mut trailers);
            Poll::Ready(Some(Ok(Frame::Trailers(Box::new(trailers)))))
        }
        Ok(None) => Poll::Ready(None),
        Err(error) => Poll::Ready(Some(Err(StreamError::from(error).into()))),
    }
}

fn poll_mesh(stream: &mut isthmus_http2::RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
    match ready!(stream.poll_taken(cx)) {
        Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::Data(bytes)))),
        // As above: early answers are whole ones.
        Some(Err(error)) if error.is_reset() && error.reason() == Some(h2::Reason::NO_ERROR) => {
            return Poll::Ready(None);
        }
        Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
        None => {}
    }
    match ready!(stream.poll_trailers(cx)) {
        Ok(Some(mut trailers)) => {
            sanitize_trailers(&mut trailers);
            Poll::Ready(Some(Ok(Frame::Trailers(Box::new(trailers)))))
        }
        Ok(None) => Poll::Ready(None),
        Err(error) => Poll::Ready(Some(Err(error.into()))),
    }
}
