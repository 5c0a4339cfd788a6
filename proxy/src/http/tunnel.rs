//! Copies between a TCP connection and one HTTP/2 stream, which is how opaque bytes travel between two sidecars.
//! FIN is END_STREAM, RST is RST_STREAM, in both directions; flow control holds both ways, so that a slow reader at one
//! end stops the writer at the other.
//!
//! Both directions are one state machine of a few words, polled together: an idle tunnel holds no buffer, no timer and
//! no second task.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use isthmus_http2::{RecvStream, SendStream, StreamError};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::tcp::copy::{Copied, TURN};
use crate::tcp::mark_reset;

/// Reads grow from the first to the second while the connection fills them, so that many small connections stay small.
const SMALL_READ: usize = 4 * 1024;
const LARGE_READ: usize = 256 * 1024;
/// DATA frames that one writev takes at most, and their bytes.
const FRAMES: usize = 32;
const GATHERED: usize = 1024 * 1024;

/// Copies both ways until both directions ended. An error of either side becomes RST on the TCP side and RST_STREAM on
/// the other. `copied.sent` counts what went from TCP into the stream.
pub async fn copy_tunnel(
    tcp: &mut TcpStream,
    to_stream: &mut SendStream,
    mut from_stream: RecvStream,
    copied: &Copied,
) -> io::Result<()> {
    let result = {
        let (read, write) = tcp.split();
        let mut up = Up { tcp: read, stream: to_stream, unsent: Bytes::new(), size: SMALL_READ, ended: false };
        let mut down = Down { tcp: write, frames: VecDeque::new(), gathered: 0, ended: Ended::No };
        poll_fn(|cx| {
            let down = down.poll(&mut from_stream, &copied.received, cx)?;
            let up = up.poll(&copied.sent, down.is_ready(), cx)?;
            if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    };
    if result.is_err() {
        mark_reset(tcp);
        to_stream.send_reset(h2::Reason::CANCEL);
    }
    result
}

/// From TCP into the stream.
struct Up<'a> {
    tcp: ReadHalf<'a>,
    stream: &'a mut SendStream,
    /// What was read and has no room in the peer's windows yet.
    unsent: Bytes,
    /// Of the next read.
    size: usize,
    ended: bool,
}

impl Up<'_> {
    fn poll(&mut self, count: &Cell<u64>, deaf: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carried = 0;
        loop {
            ready!(poll_send(self.stream, &mut self.unsent, cx))?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if carried >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(bytes) = self.poll_read(cx)? else {
                // Where nothing is awaited from the stream itself, its RST_STREAM has to be looked for.
                if deaf && let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                    return Poll::Ready(Err(
                        reset.map_or_else(Into::into, |reason| StreamError::Reset { reason, remote: true }.into())
                    ));
                }
                return Poll::Pending;
            };
            carried += bytes.len();
            count.set(count.get() + bytes.len() as u64);
            if bytes.is_empty() {
                self.stream.send_data(bytes, true)?;
                self.ended = true;
            } else {
                self.unsent = bytes;
            }
        }
    }

    /// Empty at the end. A buffer exists only once there is something to read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        ready!(self.tcp.as_ref().poll_read_ready(cx))?;
        let mut buffer = BytesMut::with_capacity(self.size);
        let read = ready!(pin!(self.tcp.read_buf(&mut buffer)).poll(cx))?;
        self.size = if read >= self.size {
            (self.size * 4).min(LARGE_READ)
        } else {
            read.next_power_of_two().clamp(SMALL_READ, LARGE_READ)
        };
        Poll::Ready(Ok(buffer.freeze()))
    }
}

/// From the stream to TCP.
struct Down<'a> {
    tcp: WriteHalf<'a>,
    /// Received and not written; the peer's window is given back only after.
    frames: VecDeque<Bytes>,
    gathered: usize,
    ended: Ended,
}

#[derive(PartialEq)]
enum Ended {
    No,
    /// The stream has; what it gave is not written yet.
    Stream,
    Both,
}

impl Down<'_> {
    fn poll(&mut self, stream: &mut RecvStream, count: &Cell<u64>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carried = 0;
        loop {
            let more = self.gather(stream, cx)?;
            if self.frames.is_empty() {
                match self.ended {
                    Ended::Both => return Poll::Ready(Ok(())),
                    Ended::Stream => {
                        ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
                        self.ended = Ended::Both;
                    }
                    Ended::No => {
                        // Nothing is kept while idle.
                        self.frames = VecDeque::new();
                        return Poll::Pending;
                    }
                }
                continue;
            }
            let wrote = ready!(self.poll_write(cx))?;
            self.consume(wrote);
            // What waits here is bounded by the stream's window: only now may the peer send more.
            stream.release(wrote);
            count.set(count.get() + wrote as u64);
            carried += wrote;
            if more && carried >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Takes what the stream has. `true`: there may be more at once.
    fn gather(&mut self, stream: &mut RecvStream, cx: &mut Context<'_>) -> io::Result<bool> {
        while self.ended == Ended::No {
            if self.frames.len() >= FRAMES || self.gathered >= GATHERED {
                return Ok(true);
            }
            match stream.poll_data(cx) {
                Poll::Ready(Some(bytes)) => {
                    let bytes = bytes?;
                    if !bytes.is_empty() {
                        self.gathered += bytes.len();
                        self.frames.push_back(bytes);
                    }
                }
                Poll::Ready(None) => self.ended = Ended::Stream,
                Poll::Pending => return Ok(false),
            }
        }
        Ok(false)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.frames.len() == 1 {
            return Pin::new(&mut self.tcp).poll_write(cx, &self.frames[0]);
        }
        let mut slices = [io::IoSlice::new(&[]); FRAMES];
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = io::IoSlice::new(frame);
        }
        let filled = self.frames.len().min(FRAMES);
        Pin::new(&mut self.tcp).poll_write_vectored(cx, &slices[..filled])
    }

    fn consume(&mut self, mut wrote: usize) {
        self.gathered -= wrote;
        while let Some(frame) = self.frames.front_mut() {
            if wrote < frame.len() {
                frame.advance(wrote);
                return;
            }
            wrote -= frame.len();
            self.frames.pop_front();
        }
    }
}

/// Sends as the peer's windows allow: the stream would keep the rest without bound.
fn poll_send(stream: &mut SendStream, bytes: &mut Bytes, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
    while !bytes.is_empty() {
        let room = ready!(stream.poll_room(cx))?;
        let part = bytes.split_to(room.min(bytes.len()));
        stream.send_data(part, false)?;
    }
    Poll::Ready(Ok(()))
}

pub(crate) async fn send_all(stream: &mut SendStream, mut bytes: Bytes) -> Result<(), StreamError> {
    poll_fn(|cx| poll_send(stream, &mut bytes, cx)).await
}
