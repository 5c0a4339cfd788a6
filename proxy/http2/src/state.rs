//! What a connection's task and all who hold its streams share. A lock that is held for the time of one frame: the task
//! never waits inside, and never encrypts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use h2::Reason;
use http::Request;

use super::error::StreamError;
use super::frame::{
    FIRST_WINDOW, GOAWAY, LEAST_FRAME, MAX_ID, PING, PREFACE, RST_STREAM, SETTINGS, Setting, WINDOW_UPDATE,
};
use super::hpack::{Decoder, Encoder, encode};
use super::output::Output;
use super::receive::Reading;
use super::stream::{Key, Streams, remember};
use crate::settings::Http2Settings;

/// Streams of ours that a peer takes before its SETTINGS are there; it allows more.
const FIRST_STREAMS: usize = 100;
/// What our own peers may remember of our heads.
const TABLE: usize = encode::MOST;

/// Payloads of pings, to tell their answers apart.
pub(super) const ASK: [u8; 8] = *b"isthmus?";
pub(super) const LAST_CALL: [u8; 8] = *b"isthmus.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) facts: Arc<Facts>,
}

/// What is asked often and from everywhere.
#[derive(Debug)]
pub(super) struct Facts {
    /// No new stream of ours.
    pub(super) closed: AtomicBool,
    pub(super) most_streams: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) role: Role,
    pub(super) settings: Http2Settings,
    pub(super) facts: Arc<Facts>,
    pub(super) streams: Streams,
    /// Of the initiator's streams, those that count.
    pub(super) open: usize,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    pub(super) reading: Reading,
    pub(super) out: Output,
    /// Bytes that the connection's task has taken and not written.
    pub(super) writing: usize,
    /// Bytes of answers to the peer's own frames since all was written last.
    pub(super) replies: usize,
    waker: Option<Waker>,
    awake: bool,

    /// What the peer takes, of all streams together and of a new one.
    pub(super) send_window: i64,
    pub(super) peer_window: i64,
    pub(super) peer_frame: usize,
    /// What the peer may send.
    pub(super) recv_window: i64,
    pub(super) unannounced: i64,
    pub(super) target: i64,
    pub(super) own_window: i64,
    /// Said and not acknowledged yet.
    pub(super) new_window: Option<i64>,

    /// Streams that wait: for room, and (a client's) to be opened.
    pub(super) waiting: VecDeque<Key>,
    pub(super) opening: VecDeque<Key>,
    pub(super) next_id: u32,
    /// Of the peer's streams.
    pub(super) last_id: u32,
    /// Requests that nobody has taken yet.
    pub(super) accepted: VecDeque<(Key, Request<()>)>,
    pub(super) pending_resets: usize,
    /// Malformed messages and offences so far.
    pub(super) faults: usize,
    /// Changes of the peer's window for all streams.
    pub(super) window_changes: usize,
    /// DATA frames without data and without an end, since one that had either.
    pub(super) empty: usize,

    pub(super) asked: Asked,
    /// What we told: streams beyond it are not taken.
    pub(super) goaway: Option<u32>,
    pub(super) peer_goaway: bool,
    /// The connection is no more.
    pub(super) dead: Option<StreamError>,
    /// Handles that may open streams.
    pub(super) senders: usize,
}

/// A ping of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    No,
    Yes,
    Answered,
}

impl Shared {
    /// What both sides say first is in `out` already.
    pub(super) fn new(role: Role, settings: Http2Settings) -> Arc<Shared> {
        let facts = Arc::new(Facts { closed: AtomicBool::new(false), most_streams: AtomicUsize::new(FIRST_STREAMS) });
        let mut state = State::new(role, settings, Arc::clone(&facts));
        state.greet();
        Arc::new(Shared { state: Mutex::new(state), facts })
    }

    /// Whoever panicked left a state that is whole: nobody waits inside.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(role: Role, settings: Http2Settings, facts: Arc<Facts>) -> State {
        State {
            role,
            settings,
            facts,
            streams: Streams::default(),
            open: 0,
            encoder: if settings.frugal { Encoder::forgetful() } else { Encoder::default() },
            decoder: Decoder::new(TABLE),
            reading: Reading::default(),
            out: Output::default(),
            writing: 0,
            replies: 0,
            waker: None,
            awake: true,
            send_window: i64::from(FIRST_WINDOW),
            peer_window: i64::from(FIRST_WINDOW),
            peer_frame: LEAST_FRAME,
            recv_window: i64::from(FIRST_WINDOW),
            unannounced: 0,
            target: i64::from(settings.connection_window),
            // What the peer may send before it has read our SETTINGS is less than that.
            own_window: i64::from(settings.stream_window.max(FIRST_WINDOW)),
            new_window: None,
            waiting: VecDeque::new(),
            opening: VecDeque::new(),
            next_id: 1,
            last_id: 0,
            accepted: VecDeque::new(),
            pending_resets: 0,
            faults: 0,
            window_changes: 0,
            empty: 0,
            asked: Asked::No,
            goaway: None,
            peer_goaway: false,
            dead: None,
            senders: 0,
        }
    }

    fn greet(&mut self) {
        let settings = self.settings;
        let mut all = vec![
            Setting::TableSize(TABLE as u32),
            Setting::StreamWindow(settings.stream_window.max(FIRST_WINDOW)),
            Setting::MaxFrame(settings.max_frame),
            Setting::MaxHeaders(settings.max_header_bytes),
        ];
        match self.role {
            Role::Client => {
                self.out.bytes().extend_from_slice(PREFACE);
                all.push(Setting::EnablePush(false));
            }
            // WebSockets (RFC 8441).
            Role::Server => all.extend([Setting::MaxStreams(settings.max_streams), Setting::ConnectProtocol(true)]),
        }
        let payload: Vec<u8> = all.into_iter().flat_map(Setting::bytes).collect();
        self.out.frame(SETTINGS, 0, 0, &payload);
        self.widen(i64::from(settings.connection_window));
    }

    /// The connection's task goes to sleep; whoever has something to send wakes it.
    pub(super) fn sleep(&mut self, cx: &Context<'_>) {
        remember(&mut self.waker, cx);
        self.awake = false;
        if self.settings.frugal && self.accepted.is_empty() {
            self.accepted = VecDeque::new();
        }
    }

    pub(super) fn wake(&mut self) {
        if !self.awake
            && let Some(waker) = &self.waker
        {
            self.awake = true;
            waker.wake_by_ref();
        }
    }

    /// Tells the peer how much it may send on the whole connection.
    fn widen(&mut self, target: i64) {
        let more = target - self.recv_window - self.unannounced;
        self.target = target;
        self.announce(more);
    }

    fn announce(&mut self, more: i64) {
        if let Ok(more @ 1..=MAX_ID) = u32::try_from(more) {
            self.recv_window += i64::from(more);
            self.out.frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }

    /// Windows as the link turned out to be. Only ever larger.
    pub(super) fn grow(&mut self, stream: u32, connection: u32) {
        if i64::from(connection) > self.target {
            self.widen(i64::from(connection));
        }
        // One change at a time: each is acknowledged, and counts from then on.
        if self.new_window.is_none() && i64::from(stream) > self.own_window {
            self.new_window = Some(i64::from(stream));
            self.out.frame(SETTINGS, 0, 0, &Setting::StreamWindow(stream).bytes());
        }
    }

    /// Bytes that came were read, or will never be: the peer may send as many anew.
    pub(super) fn release(&mut self, key: Option<Key>, count: usize) {
        if self.dead.is_some() {
            return;
        }
        let count = count as i64;
        self.unannounced += count;
        if self.unannounced >= self.target / 2 {
            let more = std::mem::take(&mut self.unannounced);
            self.announce(more);
        }
        let Some(stream) = key.and_then(|key| self.streams.get_mut(key)) else { return };
        stream.unannounced += count;
        if stream.unannounced >= self.own_window / 2 && !stream.remote_ended && stream.failed.is_none() {
            let more = std::mem::take(&mut stream.unannounced);
            stream.recv_window += more;
            self.out.frame(WINDOW_UPDATE, 0, stream.id, &(more as u32).to_be_bytes());
        }
    }

    /// What a reader has taken.
    pub(super) fn release_read(&mut self, key: Key, count: usize) {
        if let Some(stream) = self.streams.get_mut(key) {
            let count = count.min(stream.held);
            stream.held -= count;
            self.release(Some(key), count);
        }
    }

    /// Nobody reads this stream any more.
    pub(super) fn deafen(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.deaf = true;
        stream.data = Default::default();
        stream.trailers = None;
        let held = std::mem::take(&mut stream.held);
        // Its own window stays shut: what nobody wants shall not be sent.
        self.release(None, held);
    }

    /// One that held the stream lets go of it. The last one ends what has not ended.
    pub(super) fn let_go(&mut self, key: Key) {
        let server = self.role == Role::Server;
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        // An answer was given in full: the rest of the question is of no use (RFC 9113 §8.1).
        let done = server && stream.local_ended;
        self.reset(key, if done { Reason::NO_ERROR } else { Reason::CANCEL });
        self.deafen(key);
        if self.streams.get(key).is_some_and(|stream| stream.waits) {
            self.waiting.retain(|waiting| *waiting != key);
        }
        self.streams.remove(key);
    }

    /// Ends a stream from this side.
    pub(super) fn reset(&mut self, key: Key, reason: Reason) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.is_closed() {
            return;
        }
        let id = stream.id;
        stream.fail(StreamError::Reset { reason, remote: false });
        if id == 0 {
            self.opening.retain(|waiting| *waiting != key);
        } else if self.dead.is_none() {
            self.out.frame(RST_STREAM, 0, id, &u32::from(reason).to_be_bytes());
        }
        self.settle(key);
    }

    /// To be called when a stream may have ended: it makes room for another.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if !stream.is_closed() {
            return;
        }
        let id = stream.id;
        let counted = std::mem::take(&mut stream.counted);
        self.streams.forget_id(id);
        if counted {
            self.open -= 1;
            self.open_waiting();
        }
    }

    pub(super) fn goaway(&mut self, last: u32, reason: Reason) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        payload[4..].copy_from_slice(&u32::from(reason).to_be_bytes());
        self.goaway = Some(last);
        self.out.frame(GOAWAY, 0, 0, &payload);
    }

    /// GOAWAY, a ping, then the last GOAWAY: streams that cross it on the wire are still taken.
    pub(super) fn drain(&mut self) {
        if self.goaway.is_none() && self.dead.is_none() {
            self.goaway(MAX_ID, Reason::NO_ERROR);
            self.out.frame(PING, 0, 0, &LAST_CALL);
        }
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_finished(&self) -> bool {
        let quiet = self.open == 0 && self.opening.is_empty() && self.accepted.is_empty();
        quiet
            && match self.role {
                Role::Client => self.peer_goaway || self.senders == 0,
                Role::Server => self.peer_goaway || self.goaway.is_some_and(|last| last != MAX_ID),
            }
    }

    /// The connection ends, and everything on it.
    pub(super) fn die(&mut self, error: StreamError) {
        if self.dead.is_some() {
            return;
        }
        self.facts.closed.store(true, Ordering::Relaxed);
        self.opening.clear();
        self.waiting.clear();
        for key in self.streams.keys() {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.fail(error.clone());
            if std::mem::take(&mut stream.counted) {
                self.open -= 1;
            }
        }
        self.dead = Some(error);
        while let Some((key, _)) = self.accepted.pop_front() {
            self.let_go(key);
        }
    }
}
