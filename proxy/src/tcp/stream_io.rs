//! An HTTP/2 stream as `AsyncRead + AsyncWrite`, for the few bytes of a handshake that somebody has to look at. Bulk goes
//! by [`super::tunnel`], which copies less.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tunnel::into_io;

/// Reads from one half, writes into the other. Both are borrowed: the stream goes on after the handshake.
#[derive(Debug)]
pub struct StreamIo<'a> {
    read: &'a mut RecvStream,
    write: &'a mut SendStream<Bytes>,
    rest: Bytes,
}

impl<'a> StreamIo<'a> {
    pub fn new(read: &'a mut RecvStream, write: &'a mut SendStream<Bytes>) -> Self {
        StreamIo { read, write, rest: Bytes::new() }
    }

    /// What was received and not read.
    pub fn into_rest(self) -> Bytes {
        self.rest
    }
}

impl AsyncRead for StreamIo<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.read.poll_data(cx)) {
                Some(bytes) => {
                    self.rest = bytes.map_err(into_io)?;
                    let length = self.rest.len();
                    let _ = self.read.flow_control().release_capacity(length);
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write.reserve_capacity(bytes.len());
        let room = match self.write.capacity() {
            0 => match ready!(self.write.poll_capacity(cx)) {
                Some(room) => room.map_err(into_io)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => room,
        };
        let count = room.min(bytes.len());
        self.write.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(into_io)?;
        Poll::Ready(Ok(count))
    }

    /// The connection's task flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.write.send_data(Bytes::new(), true).map_err(into_io))
    }
}

/// A `&TcpStream` that can be read and written through its readiness.
#[derive(Debug)]
pub struct BorrowedTcp<'a>(pub &'a TcpStream);

impl AsyncRead for BorrowedTcp<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for BorrowedTcp<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
