//! Reads the first bytes of a connection without taking them from whoever reads next.
//!
//! Detection waits for the client's first bytes only so long: a protocol in which the server speaks first would wait
//! for ever. Callers that know from the port that the server speaks first do not call this at all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{Protocol, Verdict, classify};

/// How long a silent client is waited for before it is taken for opaque. A last resort: a declared port never gets here.
pub const DETECTION_LIMIT: Duration = Duration::from_millis(200);
/// First read: an app's first flight fits, and a parked connection holds no more than this.
const FIRST_READ: usize = 4096;

/// What was seen, and the bytes that were read to see it.
#[derive(Debug)]
pub struct Peeked {
    pub protocol: Protocol,
    pub bytes: BytesMut,
    /// The client closed its side before it said enough.
    pub ended: bool,
}

/// Why a peek ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// There is a verdict.
    Spoken(Protocol),
    /// The client closed its side before it said enough.
    Ended,
    /// It said nothing, or too little, for so long.
    Silent,
}

/// Reads until there is a verdict, the client ends, or `limit` is over (then: opaque).
pub async fn peek<R: AsyncRead + Unpin>(reader: &mut R, limit: Duration) -> io::Result<Peeked> {
    let mut bytes = BytesMut::new();
    let (protocol, ended) = match peek_into(reader, &mut bytes, limit).await? {
        Seen::Spoken(protocol) => (protocol, false),
        Seen::Ended => (Protocol::Opaque, true),
        Seen::Silent => (Protocol::Opaque, false),
    };
    Ok(Peeked { protocol, bytes, ended })
}

/// Goes on with what was read before. Cancel safe: what was read is in `bytes`.
pub async fn peek_into<R: AsyncRead + Unpin>(
    reader: &mut R,
    bytes: &mut BytesMut,
    limit: Duration,
) -> io::Result<Seen> {
    tokio::time::timeout(limit, read_verdict(reader, bytes)).await.unwrap_or(Ok(Seen::Silent))
}

async fn read_verdict<R: AsyncRead + Unpin>(reader: &mut R, bytes: &mut BytesMut) -> io::Result<Seen> {
    loop {
        if bytes.is_empty() {
            bytes.reserve(FIRST_READ);
        }
        if reader.read_buf(bytes).await? == 0 {
            return Ok(Seen::Ended);
        }
        if let Verdict::Known(protocol) = classify(bytes) {
            return Ok(Seen::Spoken(protocol));
        }
    }
}

/// A stream whose first bytes were read already: they are read again first.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

impl<S> Prefixed<S> {
    pub fn new(prefix: BytesMut, stream: S) -> Self {
        Prefixed { prefix, stream }
    }

    /// The bytes not read again yet, and the stream.
    pub fn into_parts(self) -> (BytesMut, S) {
        (self.prefix, self.stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let count = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            if self.prefix.is_empty() {
                self.prefix = BytesMut::new(); // gives the buffer back: the connection may live for days
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
}
