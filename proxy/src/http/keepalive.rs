//! Watches one mesh connection from either end: a peer that is gone is found within seconds, idle firewalls see traffic
//! in time, and windows grow towards the link's bandwidth-delay product.
//!
//! One timer per connection, no clock and no timer per stream. While streams are open and nothing comes, a ping is sent;
//! the peer is dead when neither the pong nor any other byte comes, and the socket takes none either, for [`SILENCE`].

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use isthmus_http2::{Http2Settings, Pings};
use tokio::time::{Instant, Sleep, sleep};

use crate::tls::LastRead;

/// How often a connection with traffic is looked at, and one without.
const BUSY_LOOK: Duration = Duration::from_secs(1);
const IDLE_LOOK: Duration = Duration::from_secs(3);
/// With open streams, a connection that was quiet for so long is asked whether it lives.
const QUIET: Duration = Duration::from_secs(2);
/// Without streams that are known of: a caller's side counts those whose answer is awaited, and a body may take hours.
/// Idle firewalls cut at 240 s (Azure's default), some at 60 s.
const IDLE_PING: Duration = Duration::from_secs(20);
/// Without a byte in either direction for so long after a ping, the peer is dead.
const SILENCE: Duration = Duration::from_secs(5);
/// A stream's window grows up to this: 10 Gbit/s at 13 ms, 1 Gbit/s at 130 ms.
const MOST_STREAM: u32 = 16 << 20;
const MOST_CONNECTION: u32 = 32 << 20;
/// All connections together may grow by so much, in MiB: a window is a promise to hold what a slow reader leaves.
const MOST_GROWTH_MIB: u32 = 512;

/// What the connection's task has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Nobody is there any more.
    Dead,
    /// A ping was answered. So many bytes went one way meanwhile, or came: what the link holds, where it is full.
    Pong { held: u64 },
    /// The link holds more than the windows allow.
    Grow(Window),
}

/// What a peer may send before it is read, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub stream: u32,
    pub connection: u32,
}

/// The watch over one connection.
pub struct Keepalive {
    pings: Pings,
    traffic: LastRead,
    timer: Pin<Box<Sleep>>,
    /// Bytes read and written when it was looked at last.
    seen: (u64, u64),
    heard: Instant,
    ping: Option<Sent>,
    window: Window,
    growth: Growth,
}

/// A ping under way.
struct Sent {
    /// Bytes read and written when it was sent.
    seen: (u64, u64),
    /// The last time that anything moved.
    moved: Instant,
}

impl Keepalive {
    pub fn new(pings: Pings, traffic: LastRead) -> Keepalive {
        let window =
            Window { stream: Http2Settings::MESH.stream_window, connection: Http2Settings::MESH.connection_window };
        let (timer, heard) = (Box::pin(sleep(BUSY_LOOK)), Instant::now());
        Keepalive { pings, traffic, timer, seen: (0, 0), heard, ping: None, window, growth: Growth::default() }
    }

    /// Ready when the connection's task has something to do. To be called whenever that task runs.
    pub fn poll(&mut self, cx: &mut Context<'_>, streams_open: impl Fn() -> bool) -> Poll<Event> {
        loop {
            if self.ping.is_some()
                && self.pings.take_answer()
                && let Some(ping) = self.ping.take()
            {
                self.look_again(BUSY_LOOK);
                let (came, went) = since(self.counts(), ping.seen);
                let event = self.grown(came).map_or(Event::Pong { held: came.max(went) }, Event::Grow);
                return Poll::Ready(event);
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.look(&streams_open) {
                return Poll::Ready(Event::Dead);
            }
        }
    }

    /// The timer fired. True: the peer is dead.
    fn look(&mut self, streams_open: impl Fn() -> bool) -> bool {
        let now = Instant::now();
        let seen = self.counts();
        let (came, went) = since(seen, self.seen);
        let moved = came + went > 0;
        self.seen = seen;
        if came > 0 {
            self.heard = now;
        }
        if let Some(ping) = &mut self.ping {
            if moved {
                ping.moved = now;
            }
            let dead = now.duration_since(ping.moved) >= SILENCE;
            self.look_again(BUSY_LOOK);
            return dead;
        }
        // A stream's window each eight seconds: enough that it may be what limits the stream.
        let much = came.max(went) >= u64::from(self.window.stream / 8);
        let quiet = now.duration_since(self.heard);
        let open = quiet < IDLE_PING && streams_open();
        if much || quiet >= IDLE_PING || (quiet >= QUIET && open) {
            self.send_ping(now);
        }
        self.look_again(if moved || open || self.ping.is_some() { BUSY_LOOK } else { IDLE_LOOK });
        false
    }

    fn counts(&self) -> (u64, u64) {
        (self.traffic.bytes_read(), self.traffic.bytes_written())
    }

    fn send_ping(&mut self, now: Instant) {
        if self.pings.send() {
            self.ping = Some(Sent { seen: self.counts(), moved: now });
        }
    }

    fn look_again(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
    }

    /// What came between ping and pong is what the link holds, as far as the window let it. Where that is most of a
    /// window, the window is the limit.
    fn grown(&mut self, read: u64) -> Option<Window> {
        let stream = self.window.stream;
        if read < u64::from(stream / 3 * 2) || stream >= MOST_STREAM || !self.growth.take(stream >> 20) {
            return None;
        }
        self.window.stream = (stream * 2).min(MOST_STREAM);
        self.window.connection = (self.window.connection * 2).min(MOST_CONNECTION);
        Some(self.window)
    }
}

fn since(now: (u64, u64), before: (u64, u64)) -> (u64, u64) {
    (now.0.wrapping_sub(before.0), now.1.wrapping_sub(before.1))
}

/// By how many MiB the windows of all connections have grown.
static GROWN_MIB: AtomicU32 = AtomicU32::new(0);

/// One connection's part of [`GROWN_MIB`]; given back with the connection.
#[derive(Debug, Default)]
struct Growth(u32);

impl Growth {
    fn take(&mut self, mib: u32) -> bool {
        let before = GROWN_MIB.fetch_add(mib, Ordering::Relaxed);
        if before + mib > MOST_GROWTH_MIB {
            GROWN_MIB.fetch_sub(mib, Ordering::Relaxed);
            return false;
        }
        self.0 += mib;
        true
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        GROWN_MIB.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "keepalive_test.rs"]
mod keepalive_test;
