//! A body as it comes from an HTTP/1 connection. It is pulled; nothing is read ahead beyond one read of the socket.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::chunked::{Decoded, Decoder};
use super::{Connection, Framing};
use crate::http::body::{BodyError, Frame};
use crate::http::headers::sanitize_trailers;

/// A body that is read once.
#[derive(Debug)]
pub struct Incoming {
    connection: Rc<Connection>,
    left: Left,
}

#[derive(Debug)]
enum Left {
    Length(u64),
    Chunks(Decoder),
    UntilClose,
    Ended,
}

impl Incoming {
    /// `None`: there is no body, and the message has ended.
    pub fn new(connection: &Rc<Connection>, framing: Framing) -> Option<Incoming> {
        let left = match framing {
            Framing::None => return None,
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunks(Decoder::default()),
            Framing::UntilClose => Left::UntilClose,
        };
        connection.begin_reading();
        Some(Incoming { connection: Rc::clone(connection), left })
    }

    /// Nothing more will come, and that is known now.
    pub fn is_ended(&self) -> bool {
        matches!(self.left, Left::Ended)
    }

    /// How much of it is left, where nothing more is to be read for that.
    pub fn here(&self) -> Option<u64> {
        match self.left {
            Left::Length(left) => self.connection.with_input(|input| input.len() as u64 >= left).then_some(left),
            Left::Chunks(_) | Left::UntilClose => None,
            Left::Ended => Some(0),
        }
    }

    /// `None`: the body's end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            if self.is_ended() {
                return Poll::Ready(None);
            }
            match self.take() {
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_ended() => return Poll::Ready(None),
                Ok(None) => {}
            }
            match ready!(self.connection.poll_fill(cx)) {
                Ok(0) if matches!(self.left, Left::UntilClose) => self.end(),
                Ok(0) => return Poll::Ready(Some(Err(BodyError::Broken(io::ErrorKind::UnexpectedEof.into())))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Broken(error)))),
            }
        }
    }

    /// What is there without reading.
    fn take(&mut self) -> Result<Option<Frame>, BodyError> {
        let left = &mut self.left;
        let taken = self.connection.with_input(|input| match left {
            Left::Length(length) => Ok(take_length(length, input).map(|data| (Some(Frame::Data(data)), *length == 0))),
            Left::UntilClose => Ok(take_all(input).map(|data| (Some(Frame::Data(data)), false))),
            Left::Chunks(decoder) => match decoder.decode(input)? {
                Decoded::Data(data) => {
                    let ended = decoder.take_plain_end(input);
                    Ok(Some((Some(Frame::Data(data)), ended)))
                }
                Decoded::End(trailers) => {
                    Ok(Some((trailers.map(|trailers| Frame::Trailers(Box::new(trailers))), true)))
                }
                Decoded::More => Ok(None),
            },
            Left::Ended => Ok(None),
        });
        let Some((mut frame, ended)) = taken.map_err(BodyError::Chunk)? else { return Ok(None) };
        if let Some(Frame::Trailers(trailers)) = &mut frame {
            sanitize_trailers(trailers);
        }
        if ended {
            self.end();
        }
        Ok(frame)
    }

    fn end(&mut self) {
        if matches!(self.left, Left::UntilClose) {
            self.connection.never_again();
        }
        self.left = Left::Ended;
        self.connection.end_reading();
    }
}

fn take_length(length: &mut u64, input: &mut BytesMut) -> Option<Bytes> {
    let count = usize::try_from(*length).unwrap_or(usize::MAX).min(input.len());
    *length -= count as u64;
    if count == input.len() { take_all(input) } else { (count > 0).then(|| input.split_to(count).freeze()) }
}

fn take_all(input: &mut BytesMut) -> Option<Bytes> {
    (!input.is_empty()).then(|| std::mem::take(input).freeze())
}
