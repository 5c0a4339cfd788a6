//! A message as it goes out on an HTTP/1 connection: its head waits for the first of its body, so that both leave in one
//! write; small pieces are gathered. A body that ends before its length says so breaks the connection.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;

use super::{Connection, chunked};
use crate::http::body::BodyError;

/// Pieces up to so many bytes are copied together; larger ones are written from where they are.
const SMALL: usize = 4 * 1024;
/// So much is gathered before it is written.
const GATHERED: usize = 16 * 1024;

/// How a body of ours is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimited {
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// One message's way onto the wire.
#[derive(Debug)]
pub struct Outgoing {
    connection: Rc<Connection>,
    delimited: Delimited,
    /// A piece too large to be gathered, and what follows it.
    data: Bytes,
    after: &'static [u8],
    ended: bool,
    done: bool,
}

impl Outgoing {
    /// `write_head` writes the whole head.
    pub fn new(connection: &Rc<Connection>, delimited: Delimited, write_head: impl FnOnce(&mut BytesMut)) -> Outgoing {
        connection.begin_writing();
        connection.with_output(write_head);
        let connection = Rc::clone(connection);
        Outgoing { connection, delimited, data: Bytes::new(), after: b"", ended: false, done: false }
    }

    pub fn has_room(&self) -> bool {
        self.data.is_empty() && self.connection.with_output(|output| output.len()) < GATHERED
    }

    /// Takes a piece of the body. Only while there is room.
    pub fn put(&mut self, piece: Bytes) -> Result<(), BodyError> {
        if piece.is_empty() {
            return Ok(());
        }
        if let Delimited::Length(left) = &mut self.delimited {
            *left = left.checked_sub(piece.len() as u64).ok_or(BodyError::Length)?;
        }
        let chunked = self.delimited == Delimited::Chunked;
        let small = piece.len() <= SMALL;
        self.connection.with_output(|output| {
            if chunked {
                chunked::write_size(piece.len(), output);
            }
            if small {
                output.extend_from_slice(&piece);
            }
            if small && chunked {
                output.extend_from_slice(b"\r\n");
            }
        });
        if !small {
            self.data = piece;
            self.after = if chunked { b"\r\n" } else { b"" };
        }
        Ok(())
    }

    /// The body's end. `trailers` go where chunks can carry them.
    pub fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), BodyError> {
        match self.delimited {
            Delimited::Length(1..) => return Err(BodyError::Length),
            // What follows a large piece goes with the end.
            Delimited::Chunked if self.data.is_empty() => {
                self.connection.with_output(|output| chunked::write_end(trailers, output));
            }
            Delimited::Chunked if trailers.is_none() => self.after = b"\r\n0\r\n\r\n",
            Delimited::Chunked | Delimited::Length(0) | Delimited::Close => {}
        }
        self.ended = true;
        Ok(())
    }

    /// Writes all that was put. After the end: gives the connection free.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let flushed = ready!(self.connection.poll_flush(&mut self.data, &mut self.after, cx));
        flushed.map_err(|_| BodyError::ReceiverGone)?;
        if self.ended && !self.done {
            self.done = true;
            if self.delimited == Delimited::Close {
                self.connection.end_output();
            }
            self.connection.end_writing();
        }
        Poll::Ready(Ok(()))
    }

    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.done {
            self.connection.broke_off();
        }
    }
}
