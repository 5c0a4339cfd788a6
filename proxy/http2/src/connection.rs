//! The task's side of a connection: reads what is there and lets the state take it, then writes what all streams have said
//! meanwhile, in one go. It runs when the transport has something, and when somebody has something to send.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use http::Request;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite};

use super::error::StreamError;
use super::frame::PREFACE;
use super::handle::{Pings, RecvStream, SendRequest, SendResponse};
use super::output::Output;
use super::state::{Role, Shared};
use crate::settings::Http2Settings;

/// A connection that has read so much in one turn lets others have theirs.
const TURN: usize = 1 << 20;
/// So many bytes of answers to its own frames are kept for a peer that does not read.
const REPLIES: usize = 64 * 1024;

/// One connection, driven by whoever polls it. Dropping it ends its streams.
#[derive(Debug)]
pub struct Connection<S> {
    io: S,
    shared: Arc<Shared>,
    writing: Output,
    unflushed: bool,
    traffic: Traffic,
}

/// Bytes that a connection has moved so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub read: u64,
    pub written: u64,
}

/// A connection that we made. Nothing is waited for: the first requests leave with the greeting.
pub fn connect<S: AsyncBufRead + AsyncWrite + Unpin>(io: S, settings: Http2Settings) -> (SendRequest, Connection<S>) {
    let connection = Connection::new(io, Role::Client, settings);
    (SendRequest::new(&connection.shared), connection)
}

/// A connection that was made to us; resolves when the peer has said that it speaks HTTP/2.
pub async fn accept<S>(mut io: S, settings: Http2Settings) -> Result<Connection<S>, StreamError>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let mut expected = &PREFACE[..];
    while !expected.is_empty() {
        let bytes = io.fill_buf().await?;
        let count = bytes.len().min(expected.len());
        if count == 0 || bytes[..count] != expected[..count] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP/2").into());
        }
        io.consume(count);
        expected = &expected[count..];
    }
    Ok(Connection::new(io, Role::Server, settings))
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Connection<S> {
    fn new(io: S, role: Role, settings: Http2Settings) -> Connection<S> {
        Connection {
            io,
            shared: Shared::new(role, settings),
            writing: Output::default(),
            unflushed: false,
            traffic: Traffic::default(),
        }
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    pub fn pings(&self) -> Pings {
        Pings::new(&self.shared)
    }

    /// Windows as the link turned out to be.
    pub fn grow(&mut self, stream: u32, connection: u32) {
        let mut state = self.shared.lock();
        state.grow(stream, connection);
        state.wake();
    }

    pub fn has_streams(&self) -> bool {
        self.shared.lock().open > 0
    }

    /// No new streams; those under way finish.
    pub fn drain(&mut self) {
        let mut state = self.shared.lock();
        state.drain();
        state.wake();
    }

    pub async fn accept(&mut self) -> Option<Result<(Request<RecvStream>, SendResponse), StreamError>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The peer's next stream; `None` at the connection's end in order.
    #[expect(clippy::type_complexity, reason = "a stream, an error, or the end")]
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(Request<RecvStream>, SendResponse), StreamError>>> {
        loop {
            if let Some(stream) = self.next_accepted() {
                return Poll::Ready(Some(Ok(stream)));
            }
            let polled = self.poll(cx);
            let came = !self.shared.lock().accepted.is_empty();
            match polled {
                _ if came => {}
                Poll::Ready(Ok(())) => return Poll::Ready(None),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// One of the peer's streams that is here already; reads nothing.
    pub fn next_accepted(&mut self) -> Option<(Request<RecvStream>, SendResponse)> {
        let mut state = self.shared.lock();
        loop {
            let (key, request) = state.accepted.pop_front()?;
            let stream = state.streams.get_mut(key)?;
            if stream.failed.is_some() {
                // Given up before anybody looked at it.
                state.pending_resets = state.pending_resets.saturating_sub(1);
                state.let_go(key);
                continue;
            }
            stream.accepted = true;
            stream.handles = 2;
            drop(state);
            let body = RecvStream::new(&self.shared, key);
            return Some((request.map(|()| body), SendResponse::new(&self.shared, key)));
        }
    }

    /// Reads and writes; ready at the connection's end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            if self.shared.lock().dead.is_some() {
                return self.poll_end(cx);
            }
            let more = self.poll_read(cx);
            let wrote = match self.poll_flush(cx) {
                Poll::Ready(Err(error)) => {
                    self.shared.lock().die(error.into());
                    continue;
                }
                other => other.is_ready(),
            };
            let mut state = self.shared.lock();
            if state.dead.is_some() {
                continue;
            }
            if state.is_finished() {
                let over = StreamError::GoAway { reason: Reason::NO_ERROR, remote: state.peer_goaway };
                if state.goaway.is_none() {
                    let last = state.last_id;
                    state.goaway(last, Reason::NO_ERROR);
                }
                state.die(over);
                continue;
            }
            match more {
                // What was written may have made room for what the peer waits to say.
                Read::Held if wrote => continue,
                Read::Turn => cx.waker().wake_by_ref(),
                Read::Held | Read::Pending => {}
            }
            if wrote && !state.out.is_empty() {
                continue;
            }
            state.sleep(cx);
            return Poll::Pending;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Read {
        let mut left = TURN;
        loop {
            let (count, failed) = match Pin::new(&mut self.io).poll_fill_buf(cx) {
                Poll::Pending => return Read::Pending,
                Poll::Ready(Err(error)) => {
                    self.shared.lock().die(error.into());
                    return Read::Pending;
                }
                Poll::Ready(Ok([])) => {
                    let mut state = self.shared.lock();
                    // Of what was under way nobody knows how far it came, whatever a GOAWAY has said before.
                    let error = match state.open == 0 && state.opening.is_empty() {
                        true => StreamError::GoAway { reason: Reason::NO_ERROR, remote: true },
                        false => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                    };
                    state.die(error);
                    return Read::Pending;
                }
                Poll::Ready(Ok(bytes)) => {
                    let mut state = self.shared.lock();
                    let failed = state.receive(bytes).err();
                    let held = state.replies > REPLIES;
                    (bytes.len(), failed.map(Err).or(held.then_some(Ok(()))))
                }
            };
            Pin::new(&mut self.io).consume(count);
            self.traffic.read += count as u64;
            left = left.saturating_sub(count);
            match failed {
                Some(Err(reason)) => {
                    let mut state = self.shared.lock();
                    let last = state.goaway.unwrap_or(u32::MAX).min(state.last_id);
                    state.goaway(last, reason);
                    state.die(StreamError::GoAway { reason, remote: false });
                    return Read::Pending;
                }
                Some(Ok(())) => return Read::Held,
                None if left == 0 => return Read::Turn,
                None => {}
            }
        }
    }

    /// Ready when all that was said is written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.writing.is_empty() {
                let mut state = self.shared.lock();
                if state.out.is_empty() {
                    state.replies = 0;
                    break;
                }
                self.writing = std::mem::take(&mut state.out);
                state.writing = self.writing.len();
            }
            while !self.writing.is_empty() {
                let wrote = ready!(self.writing.poll_write(&mut self.io, cx))?;
                if wrote == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.unflushed = true;
                self.traffic.written += wrote as u64;
                let mut state = self.shared.lock();
                state.writing = self.writing.len();
                state.serve_waiting();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// What is left to say, and then the transport's end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let said = ready!(self.poll_flush(cx));
        if said.is_ok() {
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        }
        Poll::Ready(match self.shared.lock().dead.clone() {
            Some(StreamError::GoAway { reason: Reason::NO_ERROR, .. }) | None => Ok(()),
            Some(error) => Err(error),
        })
    }
}

/// How reading ended for now.
enum Read {
    Pending,
    /// There is more, and it is somebody else's turn.
    Turn,
    /// The peer does not read our answers.
    Held,
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.shared.lock().die(io::Error::from(io::ErrorKind::ConnectionAborted).into());
    }
}
