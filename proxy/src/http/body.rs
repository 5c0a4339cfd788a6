//! A message's body on its way through: from hyper's HTTP/1 or from an HTTP/2 stream, into either. Whoever reads pulls;
//! nothing is read ahead beyond one frame and the stream's window, so that a slow reader stops the sender.
//!
//! Trailers lose internal headers here, whoever sent them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::client::Lease;
use super::headers::sanitize_trailers;

/// A body that is read once.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    /// Our own words.
    Word(Option<Bytes>),
    /// From an HTTP/1 connection; its connection goes back to the pool when the body ended.
    Http1(Incoming, Option<Lease>),
    /// From an HTTP/2 stream. `data_ended`: only trailers may follow.
    Http2 { stream: RecvStream, data_ended: bool },
}

/// A body that ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the sender's HTTP/1 connection broke inside the body")]
    Http1(#[from] hyper::Error),
    #[error("the sender's HTTP/2 stream broke inside the body: {0}")]
    Http2(#[from] h2::Error),
    #[error("the receiver of the body went away")]
    ReceiverGone,
}

impl BodyError {
    /// What an HTTP/2 receiver is told: the sender's own reason where it is one, so that CANCEL stays CANCEL.
    fn reset_reason(&self) -> h2::Reason {
        match self {
            BodyError::Http2(error) => error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR),
            BodyError::Http1(_) | BodyError::ReceiverGone => h2::Reason::CANCEL,
        }
    }
}

impl Body {
    pub fn word(text: &'static str) -> Body {
        Body::Word(Some(Bytes::from_static(text.as_bytes())))
    }

    pub fn http1(incoming: Incoming, lease: Option<Lease>) -> Body {
        if incoming.is_end_stream() {
            if let Some(lease) = lease {
                lease.give_back();
            }
            return Body::Empty;
        }
        Body::Http1(incoming, lease)
    }

    pub fn http2(stream: RecvStream) -> Body {
        if stream.is_end_stream() { Body::Empty } else { Body::Http2 { stream, data_ended: false } }
    }

    /// Nothing to send: the message may be sent again as a whole.
    pub fn is_empty(&self) -> bool {
        matches!(self, Body::Empty)
    }
}

type NextFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> NextFrame {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Word(word) => Poll::Ready(word.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Http1(incoming, lease) => poll_http1(incoming, lease, cx),
            Body::Http2 { stream, data_ended } => poll_http2(stream, data_ended, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Word(word) => word.is_none(),
            Body::Http1(incoming, _) => incoming.is_end_stream(),
            Body::Http2 { stream, .. } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Word(word) => SizeHint::with_exact(word.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Http1(incoming, _) => incoming.size_hint(),
            // `content-length` passes as a header; without one the length is not known.
            Body::Http2 { .. } => SizeHint::default(),
        }
    }
}

fn poll_http1(incoming: &mut Incoming, lease: &mut Option<Lease>, cx: &mut Context<'_>) -> NextFrame {
    let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
    let ended = frame.is_none() || incoming.is_end_stream();
    if ended && let Some(lease) = lease.take() {
        lease.give_back();
    }
    Poll::Ready(match frame {
        Some(Ok(mut frame)) => {
            if let Some(trailers) = frame.trailers_mut() {
                sanitize_trailers(trailers);
            }
            Some(Ok(frame))
        }
        Some(Err(error)) => Some(Err(error.into())),
        None => None,
    })
}

fn poll_http2(stream: &mut RecvStream, data_ended: &mut bool, cx: &mut Context<'_>) -> NextFrame {
    if !*data_ended {
        match ready!(stream.poll_data(cx)) {
            Some(Ok(bytes)) => {
                // The reader takes one frame at a time, when it has room: the window opens as it reads.
                let _ = stream.flow_control().release_capacity(bytes.len());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            // An app that answered early and does not want the rest says NO_ERROR (RFC 9113 §8.1).
            Some(Err(error)) if error.is_reset() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => *data_ended = true,
        }
    }
    match ready!(stream.poll_trailers(cx)) {
        Ok(Some(mut trailers)) => {
            sanitize_trailers(&mut trailers);
            Poll::Ready(Some(Ok(Frame::trailers(trailers))))
        }
        Ok(None) => Poll::Ready(None),
        Err(error) => Poll::Ready(Some(Err(error.into()))),
    }
}

/// Sends a body into an HTTP/2 stream, trailers included, as the peer's windows allow. A body that breaks resets the
/// stream: the receiver never takes a part for the whole. Returns how many bytes of data went.
pub async fn pump(mut body: Body, mut to: SendStream<Bytes>) -> Result<u64, BodyError> {
    let result = pump_frames(&mut body, &mut to).await;
    if let Err(error) = &result {
        to.send_reset(error.reset_reason());
    }
    result
}

async fn pump_frames(body: &mut Body, to: &mut SendStream<Bytes>) -> Result<u64, BodyError> {
    let mut sent = 0;
    loop {
        let frame = tokio::select! {
            biased;
            frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)) => frame,
            reset = poll_fn(|cx| to.poll_reset(cx)) => match reset {
                // The receiver has all it wants.
                Ok(h2::Reason::NO_ERROR) => return Ok(sent),
                Ok(_) | Err(_) => return Err(BodyError::ReceiverGone),
            },
        };
        let Some(frame) = frame else {
            to.send_data(Bytes::new(), true)?;
            return Ok(sent);
        };
        match frame?.into_data() {
            Ok(bytes) => {
                sent += bytes.len() as u64;
                if send_data(to, bytes, body.is_end_stream()).await? {
                    return Ok(sent);
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    to.send_trailers(trailers)?;
                    return Ok(sent);
                }
            }
        }
    }
}

/// Sends one piece; with `last`, its final frame ends the stream, which saves an empty one. Returns whether it did.
async fn send_data(to: &mut SendStream<Bytes>, mut bytes: Bytes, last: bool) -> Result<bool, BodyError> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let room = match to.capacity() {
            0 => match poll_fn(|cx| to.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(BodyError::ReceiverGone),
            },
            room => room,
        };
        let part = bytes.split_to(room.min(bytes.len()));
        let ends = last && bytes.is_empty();
        to.send_data(part, ends)?;
        if ends {
            return Ok(true);
        }
    }
    Ok(false)
}
