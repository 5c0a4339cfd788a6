//! One stream: what was said on it in both directions, and what is not read or not sent yet.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use http::{HeaderMap, Request, Response};

use super::error::StreamError;

/// A stream's place as long as somebody holds it.
pub(super) type Key = u32;

/// All streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Box<Stream>>>,
    free: Vec<Key>,
    /// Those that frames may still come for.
    ids: HashMap<u32, Key>,
}

impl Streams {
    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let key = match self.free.pop() {
            Some(key) => {
                self.slots[key as usize] = Some(Box::new(stream));
                key
            }
            None => {
                self.slots.push(Some(Box::new(stream)));
                self.slots.len() as Key - 1
            }
        };
        if id != 0 {
            self.ids.insert(id, key);
        }
        key
    }

    pub(super) fn get(&self, key: Key) -> Option<&Stream> {
        self.slots.get(key as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(key as usize)?.as_deref_mut()
    }

    pub(super) fn key_of(&self, id: u32) -> Option<Key> {
        self.ids.get(&id).copied()
    }

    /// A stream that waited has its id.
    pub(super) fn name(&mut self, key: Key, id: u32) {
        self.ids.insert(id, key);
        if let Some(stream) = self.get_mut(key) {
            stream.id = id;
        }
    }

    /// Frames that come for it from now on are late.
    pub(super) fn forget_id(&mut self, id: u32) {
        self.ids.remove(&id);
        if self.ids.is_empty() && self.ids.capacity() > 64 {
            self.ids.shrink_to_fit();
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        if let Some(stream) = self.slots.get_mut(key as usize).and_then(Option::take) {
            self.forget_id(stream.id);
            self.free.push(key);
        }
        if self.free.len() == self.slots.len() {
            (self.slots, self.free) = Default::default();
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        0..self.slots.len() as Key
    }
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Zero: it waits until the peer takes another.
    pub(super) id: u32,
    /// Who holds it.
    pub(super) handles: u32,
    /// Among those that the bound on open streams is about.
    pub(super) counted: bool,
    /// END_STREAM went out, came in.
    pub(super) local_ended: bool,
    pub(super) remote_ended: bool,
    pub(super) failed: Option<StreamError>,

    /// What the peer takes of it.
    pub(super) send_window: i64,
    pub(super) unsent: Option<Box<Unsent>>,
    /// Among those that wait for room on the connection.
    pub(super) waits: bool,
    pub(super) send_waker: Option<Waker>,

    /// What the peer may send of it, and what was read and is not offered anew yet.
    pub(super) recv_window: i64,
    pub(super) unannounced: i64,
    /// What came and was not released by its reader.
    pub(super) held: usize,
    /// What `Content-Length` promises beyond what came.
    pub(super) expected: Option<u64>,
    /// The request was HEAD: a length in its answer promises nothing.
    pub(super) bodiless: bool,
    /// Nobody reads it any more.
    pub(super) deaf: bool,
    /// Handed to whoever serves; streams of our own are from the beginning.
    pub(super) accepted: bool,
    pub(super) head_came: bool,
    pub(super) head: Option<Response<()>>,
    pub(super) interim: VecDeque<Response<()>>,
    pub(super) data: Pieces,
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) recv_waker: Option<Waker>,
}

/// What the peer does not take yet.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// Of a stream that waits to be opened.
    pub(super) head: Option<Request<()>>,
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) ends: bool,
}

/// What the pieces of one large frame are gathered in: the transport gives 16 KiB at a time, and a buffer for each costs
/// more than its copy.
const GATHERED: usize = 128 * 1024;
/// Pieces that wait for their reader are copied together up to this: a peer may send its window in frames of one byte, and
/// a buffer for each would be fifty times the window.
const TOGETHER: usize = 16 * 1024;

/// Mostly one.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    /// After all others.
    tail: BytesMut,
    /// Of the frame that the last piece belongs to.
    follows: usize,
}

impl Pieces {
    /// `follows`: so much of the same frame is to come.
    pub(super) fn take_in(&mut self, bytes: &[u8], follows: usize) {
        self.follows = follows;
        let whole = bytes.len() + follows;
        let together = self.tail.len() + whole <= TOGETHER && !self.is_empty();
        if together || self.tail.capacity() - self.tail.len() >= bytes.len() {
            return self.tail.extend_from_slice(bytes);
        }
        let tail = std::mem::take(&mut self.tail);
        if !tail.is_empty() {
            self.push(tail.freeze());
        }
        if follows == 0 && (self.is_empty() || whole > TOGETHER) {
            return self.push(Bytes::copy_from_slice(bytes));
        }
        self.tail = BytesMut::with_capacity(whole.min(GATHERED).max(bytes.len()));
        self.tail.extend_from_slice(bytes);
    }

    /// The frame has ended: where all of it was read, no room is kept for more.
    pub(super) fn seal(&mut self) {
        self.follows = 0;
        if self.tail.is_empty() {
            self.tail = BytesMut::new();
        }
    }

    fn push(&mut self, piece: Bytes) {
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.more.push_back(piece);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let Some(first) = self.first.take() else {
            let tail = if self.follows > 0 { self.tail.split() } else { std::mem::take(&mut self.tail) };
            return (!tail.is_empty()).then(|| tail.freeze());
        };
        self.first = self.more.pop_front();
        if self.first.is_none() {
            self.more = VecDeque::new();
        }
        Some(first)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.tail.is_empty()
    }

    pub(super) fn length(&self) -> usize {
        self.first.iter().chain(&self.more).map(Bytes::len).sum::<usize>() + self.tail.len()
    }
}

impl Stream {
    /// Nothing more goes or comes.
    pub(super) fn is_closed(&self) -> bool {
        self.failed.is_some() || (self.local_ended && self.remote_ended)
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.recv_waker.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.send_waker.take() {
            waker.wake();
        }
    }

    /// It ends here, for both directions. What came before may still be read.
    pub(super) fn fail(&mut self, error: StreamError) {
        if !self.is_closed() {
            self.failed = Some(error);
            self.unsent = None;
        }
        self.wake_reader();
        self.wake_writer();
    }

    pub(super) fn wait_to_read(&mut self, cx: &Context<'_>) {
        remember(&mut self.recv_waker, cx);
    }

    pub(super) fn wait_to_write(&mut self, cx: &Context<'_>) {
        remember(&mut self.send_waker, cx);
    }
}

pub(super) fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}
