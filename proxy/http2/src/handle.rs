//! What callers hold: the right to open streams, a stream's two directions, an answer that is awaited or to be given. They
//! may be used from any worker; the connection's task is woken when it has something to write.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};

use super::error::StreamError;
use super::frame::PING;
use super::state::{ASK, Asked, Shared, State};
use super::stream::Key;

/// One of those that hold a stream.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    key: Key,
    /// The one that reads: after it nobody does.
    reads: bool,
    /// All that is to be read had come when it began to: so many bytes.
    whole: Option<usize>,
}

impl Handle {
    fn new(shared: &Arc<Shared>, key: Key, reads: bool) -> Handle {
        Handle { shared: Arc::clone(shared), key, reads, whole: None }
    }

    /// Works on the state, and has the task write what came of it.
    fn act<T>(&self, act: impl FnOnce(&mut State, Key) -> T) -> T {
        act_on(&self.shared, |state| act(state, self.key))
    }
}

fn act_on<T>(shared: &Shared, act: impl FnOnce(&mut State) -> T) -> T {
    let mut state = shared.lock();
    let result = act(&mut state);
    if !state.out.is_empty() {
        state.wake();
    }
    result
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.act(|state, key| {
            if self.reads {
                state.deafen(key);
            }
            state.let_go(key);
        });
    }
}

/// Opens streams on a connection of ours. The connection ends when the last of these is gone, and its streams have ended.
#[derive(Debug)]
pub struct SendRequest {
    shared: Arc<Shared>,
}

impl SendRequest {
    pub(super) fn new(shared: &Arc<Shared>) -> SendRequest {
        shared.lock().senders += 1;
        SendRequest { shared: Arc::clone(shared) }
    }

    /// An error is about the connection: not a byte of the request was sent.
    pub fn send_request(&self, request: Request<()>, ends: bool) -> Result<(Answering, SendStream), StreamError> {
        let (key, id) = act_on(&self.shared, |state| {
            let key = state.open(request, ends)?;
            Ok::<_, StreamError>((key, state.streams.get(key).map_or(0, |stream| stream.id)))
        })?;
        let answering = Answering { handle: Some(Handle::new(&self.shared, key, true)), id };
        Ok((answering, SendStream { handle: Handle::new(&self.shared, key, false) }))
    }

    /// Whether it takes streams: no GOAWAY came, and nothing broke.
    pub fn is_alive(&self) -> bool {
        !self.shared.facts.closed.load(Ordering::Relaxed)
    }

    /// Streams that the peer takes at once; more wait.
    pub fn most_streams(&self) -> usize {
        self.shared.facts.most_streams.load(Ordering::Relaxed)
    }
}

impl Clone for SendRequest {
    fn clone(&self) -> Self {
        SendRequest::new(&self.shared)
    }
}

impl Drop for SendRequest {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        if state.senders == 0 {
            state.wake();
        }
    }
}

/// The answer to a request of ours.
#[derive(Debug)]
pub struct Answering {
    handle: Option<Handle>,
    id: u32,
}

impl Answering {
    /// The stream's number on its connection; zero, where it waited for its turn when it was asked for.
    pub fn stream_id(&self) -> u32 {
        self.id
    }

    /// Interim answers (1xx), as they come.
    pub fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, StreamError>> {
        let Some(handle) = &self.handle else { return Poll::Pending };
        let mut state = handle.shared.lock();
        let Some(stream) = state.streams.get_mut(handle.key) else { return Poll::Ready(Err(StreamError::ended())) };
        match stream.interim.pop_front() {
            Some(interim) => Poll::Ready(Ok(interim)),
            None => {
                stream.wait_to_read(cx);
                Poll::Pending
            }
        }
    }

    /// The head, whether interim ones came or not.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, StreamError>> {
        let Some(handle) = &self.handle else { return Poll::Ready(Err(StreamError::ended())) };
        let mut state = handle.shared.lock();
        let Some(stream) = state.streams.get_mut(handle.key) else { return Poll::Ready(Err(StreamError::ended())) };
        match (stream.head.take(), &stream.failed) {
            (Some(head), _) => {
                let whole = stream.remote_ended.then(|| stream.data.length());
                drop(state);
                let Some(mut handle) = self.handle.take() else { return Poll::Ready(Err(StreamError::ended())) };
                handle.whole = whole;
                Poll::Ready(Ok(head.map(|()| RecvStream { handle })))
            }
            (None, Some(error)) => Poll::Ready(Err(error.clone())),
            (None, None) => {
                stream.wait_to_read(cx);
                Poll::Pending
            }
        }
    }
}

impl Future for Answering {
    type Output = Result<Response<RecvStream>, StreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_head(cx)
    }
}

/// The answer to a request of the peer's.
#[derive(Debug)]
pub struct SendResponse {
    handle: Handle,
}

impl SendResponse {
    pub(super) fn new(shared: &Arc<Shared>, key: Key) -> SendResponse {
        SendResponse { handle: Handle::new(shared, key, false) }
    }

    pub fn send_informational(&mut self, response: Response<()>) -> Result<(), StreamError> {
        let (head, ()) = response.into_parts();
        self.handle.act(|state, key| state.respond(key, head.status, &head.headers, false))
    }

    pub fn send_response(&mut self, response: Response<()>, ends: bool) -> Result<SendStream, StreamError> {
        let (head, ()) = response.into_parts();
        self.handle.act(|state, key| {
            state.respond(key, head.status, &head.headers, ends)?;
            if let Some(stream) = state.streams.get_mut(key) {
                stream.handles += 1;
            }
            Ok::<_, StreamError>(())
        })?;
        Ok(SendStream { handle: Handle::new(&self.handle.shared, self.handle.key, false) })
    }

    pub fn send_reset(&mut self, reason: Reason) {
        self.handle.act(|state, key| state.reset(key, reason));
    }

    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, StreamError>> {
        poll_reset(&self.handle, cx)
    }

    /// The stream's number on its connection.
    pub fn stream_id(&self) -> u32 {
        self.handle.shared.lock().streams.get(self.handle.key).map_or(0, |stream| stream.id)
    }
}

/// Ready when the stream ended before it was done.
fn poll_reset(handle: &Handle, cx: &Context<'_>) -> Poll<Result<Reason, StreamError>> {
    let mut state = handle.shared.lock();
    let Some(stream) = state.streams.get_mut(handle.key) else { return Poll::Ready(Err(StreamError::ended())) };
    match &stream.failed {
        Some(StreamError::Reset { reason, .. }) => Poll::Ready(Ok(*reason)),
        Some(error) => Poll::Ready(Err(error.clone())),
        None => {
            stream.wait_to_write(cx);
            Poll::Pending
        }
    }
}

/// A stream's direction out.
#[derive(Debug)]
pub struct SendStream {
    handle: Handle,
}

impl SendStream {
    /// How much would leave now; waits until there is room for something.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, StreamError>> {
        let mut state = self.handle.shared.lock();
        let room = state.room(self.handle.key);
        if room.as_ref().is_ok_and(|room| *room == 0) {
            state.wait_for_room(self.handle.key);
            if let Some(stream) = state.streams.get_mut(self.handle.key) {
                stream.wait_to_write(cx);
            }
            return Poll::Pending;
        }
        Poll::Ready(room)
    }

    /// Beyond the room it is kept until there is more: without bound, but for what the caller does.
    pub fn send_data(&mut self, piece: Bytes, ends: bool) -> Result<(), StreamError> {
        self.handle.act(|state, key| state.send(key, piece, ends))
    }

    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), StreamError> {
        self.handle.act(|state, key| state.send_trailers(key, trailers))
    }

    pub fn send_reset(&mut self, reason: Reason) {
        self.handle.act(|state, key| state.reset(key, reason));
    }

    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, StreamError>> {
        poll_reset(&self.handle, cx)
    }
}

/// A stream's direction in.
#[derive(Debug)]
pub struct RecvStream {
    handle: Handle,
}

impl RecvStream {
    pub(super) fn new(shared: &Arc<Shared>, key: Key) -> RecvStream {
        RecvStream { handle: Handle::new(shared, key, true) }
    }

    /// Nothing follows, and that is known now.
    pub fn is_end_stream(&self) -> bool {
        let state = self.handle.shared.lock();
        let ended =
            |stream: &super::stream::Stream| stream.remote_ended && stream.data.is_empty() && stream.trailers.is_none();
        state.streams.get(self.handle.key).is_none_or(ended)
    }

    /// How long the body of an answer is, where all of it was here with the head.
    pub fn here(&self) -> Option<usize> {
        self.handle.whole
    }

    /// The next piece; `None`: only trailers may follow. What is taken is to be released.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let mut state = self.handle.shared.lock();
        let Some(stream) = state.streams.get_mut(self.handle.key) else { return Poll::Ready(None) };
        if let Some(piece) = stream.data.pop() {
            return Poll::Ready(Some(Ok(piece)));
        }
        match &stream.failed {
            _ if stream.remote_ended || stream.trailers.is_some() => Poll::Ready(None),
            Some(error) => Poll::Ready(Some(Err(error.clone()))),
            None => {
                stream.wait_to_read(cx);
                Poll::Pending
            }
        }
    }

    pub async fn data(&mut self) -> Option<Result<Bytes, StreamError>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// After all data.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, StreamError>> {
        let mut state = self.handle.shared.lock();
        let Some(stream) = state.streams.get_mut(self.handle.key) else { return Poll::Ready(Ok(None)) };
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Ok(Some(*trailers)));
        }
        match &stream.failed {
            _ if stream.remote_ended => Poll::Ready(Ok(None)),
            Some(error) => Poll::Ready(Err(error.clone())),
            None => {
                stream.wait_to_read(cx);
                Poll::Pending
            }
        }
    }

    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>, StreamError> {
        poll_fn(|cx| self.poll_trailers(cx)).await
    }

    /// The peer may send so much more.
    pub fn release(&mut self, count: usize) {
        self.handle.act(|state, key| state.release_read(key, count));
    }

    /// The next piece, released at once: for readers that take one at a time.
    pub fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let piece = ready!(self.poll_data(cx));
        if let Some(Ok(bytes)) = &piece {
            self.release(bytes.len());
        }
        Poll::Ready(piece)
    }
}

/// Asks the peer whether it is there.
#[derive(Debug)]
pub struct Pings {
    shared: Arc<Shared>,
}

impl Pings {
    pub(super) fn new(shared: &Arc<Shared>) -> Pings {
        Pings { shared: Arc::clone(shared) }
    }

    /// False: one is under way, or the connection has ended.
    pub fn send(&self) -> bool {
        act_on(&self.shared, |state| {
            let may = state.asked == Asked::No && state.dead.is_none();
            if may {
                state.asked = Asked::Yes;
                state.out.frame(PING, 0, 0, &ASK);
            }
            may
        })
    }

    /// Whether the answer came; true once.
    pub fn take_answer(&self) -> bool {
        let mut state = self.shared.lock();
        let answered = state.asked == Asked::Answered;
        if answered {
            state.asked = Asked::No;
        }
        answered
    }
}
