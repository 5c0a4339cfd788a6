//! A mesh connection's socket that remembers when it last gave bytes. What is done with them afterwards (decryption,
//! frames, the wait for a task's turn) is the proxy's own time: without this it would be told as the link's.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// When bytes last came. Clones show the same socket.
#[derive(Debug, Clone)]
pub struct LastRead(Rc<Cell<Instant>>);

impl LastRead {
    pub fn get(&self) -> Instant {
        self.0.get()
    }
}

/// The socket under a mesh connection's TLS.
#[derive(Debug)]
pub struct Stamped {
    stream: TcpStream,
    last_read: LastRead,
}

impl Stamped {
    pub fn new(stream: TcpStream) -> Stamped {
        Stamped { stream, last_read: LastRead(Rc::new(Cell::new(Instant::now()))) }
    }

    pub fn last_read(&self) -> LastRead {
        self.last_read.clone()
    }
}

impl AsyncRead for Stamped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.last_read.0.set(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
