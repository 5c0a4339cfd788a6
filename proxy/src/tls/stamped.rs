//! A mesh connection's socket that remembers when it last gave bytes, and how many went each way. What is done with them
//! afterwards (decryption, frames, the wait for a task's turn) is the proxy's own time: without this it would be told as
//! the link's. The counts say whether a peer is alive and how full the link is. It is read ahead of what TLS asks for.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::ahead::Ahead;

/// Where times are counted from: an atomic holds a number, not an `Instant`.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When bytes last came, and how many so far. Clones show the same socket, also to other workers: streams of theirs may
/// run on this connection. One worker writes, so that plain stores are enough.
#[derive(Debug, Clone)]
pub struct LastRead(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Nanoseconds after [`START`].
    last_read: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl LastRead {
    fn new() -> LastRead {
        let counts = LastRead(Arc::default());
        counts.0.last_read.store(now(), Relaxed);
        counts
    }

    pub fn get(&self) -> Instant {
        *START + Duration::from_nanos(self.0.last_read.load(Relaxed))
    }

    /// Bytes that the socket gave so far.
    pub fn bytes_read(&self) -> u64 {
        self.0.read.load(Relaxed)
    }

    /// Bytes that the socket took so far. It takes more only when the peer's kernel acknowledged some.
    pub fn bytes_written(&self) -> u64 {
        self.0.written.load(Relaxed)
    }

    pub(crate) fn note_read(&self, count: usize) {
        self.0.last_read.store(now(), Relaxed);
        LastRead::add(&self.0.read, count);
    }

    pub(crate) fn note_written(&self, count: usize) {
        LastRead::add(&self.0.written, count);
    }

    fn add(counter: &AtomicU64, count: usize) {
        counter.store(counter.load(Relaxed).wrapping_add(count as u64), Relaxed);
    }
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The socket under a mesh connection's TLS.
#[derive(Debug)]
pub struct Stamped<S = TcpStream> {
    stream: S,
    last_read: LastRead,
    ahead: Ahead,
}

impl<S> Stamped<S> {
    pub fn new(stream: S) -> Stamped<S> {
        Stamped { stream, last_read: LastRead::new(), ahead: Ahead::default() }
    }

    pub fn last_read(&self) -> LastRead {
        self.last_read.clone()
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &written {
            self.last_read.note_written(*count);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stamped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stamped { stream, last_read, ahead } = self.get_mut();
        ahead.poll_read(buf, |room| {
            ready!(Pin::new(stream).poll_read(cx, room))?;
            if !room.filled().is_empty() {
                last_read.note_read(room.filled().len());
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stamped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written)
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
