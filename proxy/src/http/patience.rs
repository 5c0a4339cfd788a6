//! How long an answer is waited for: a hung app must not hold a request for ever. The wait begins anew whenever the
//! request's body moves, so that an upload may take as long as it takes. No timer per request: one task per worker looks
//! at all waits once a second, and a request that is answered at once is not even among them.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::HeaderMap;
use isthmus_http2::{GRPC_TIMEOUT, grpc_timeout};
use slab::Slab;

/// For an app that nobody has said anything about. Long polls and quiet gRPC streams send no head for minutes; what is
/// silent for an hour is hung.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(3600);
/// Nothing is waited for longer, whoever asks for it.
const MOST: Duration = Duration::from_secs(24 * 3600);
/// How often the waits are looked at.
const TICK: Duration = Duration::from_secs(1);
/// A gRPC client ends its call at its deadline by itself; ours is for those that do not.
const GRPC_GRACE: Duration = Duration::from_secs(1);

/// The time that a request's answer has. `configured`: by the service's policy, which a caller can only shorten.
pub fn limit(configured: Option<Duration>, headers: &HeaderMap) -> Duration {
    let asked = headers.get(GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.as_bytes()));
    let asked = asked.map(|timeout| timeout.saturating_add(GRPC_GRACE).min(MOST));
    match (configured, asked) {
        (Some(configured), Some(asked)) => configured.min(asked),
        (Some(limit), None) | (None, Some(limit)) => limit,
        (None, None) => DEFAULT_LIMIT,
    }
}

/// The waits of one worker.
#[derive(Debug, Default)]
pub struct Waits {
    list: RefCell<Slab<Entry>>,
    /// Counts ticks, while there is something to wait for.
    now: Cell<u64>,
    ticking: Cell<bool>,
}

#[derive(Debug)]
struct Entry {
    until: u64,
    waker: Waker,
}

impl Waits {
    pub fn begin(self: &Rc<Self>, limit: Duration) -> Wait {
        // The first tick may come at once.
        let ticks = limit.as_millis().div_ceil(TICK.as_millis()) as u64 + 1;
        Wait { waits: Rc::clone(self), ticks, place: None, moved: 0 }
    }

    fn start_ticking(self: &Rc<Self>) {
        if !self.ticking.replace(true) {
            // Ends when nothing is waited for any more.
            tokio::task::spawn_local(tick(Rc::downgrade(self)));
        }
    }
}

async fn tick(waits: Weak<Waits>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(waits) = waits.upgrade() else { return };
        let now = waits.now.get() + 1;
        waits.now.set(now);
        let mut list = waits.list.borrow_mut();
        if list.is_empty() {
            // What a burst has taken is given back.
            list.shrink_to_fit();
            waits.ticking.set(false);
            return;
        }
        for (_, entry) in list.iter().filter(|(_, entry)| entry.until <= now) {
            entry.waker.wake_by_ref();
        }
    }
}

/// One answer that is waited for.
#[derive(Debug)]
pub struct Wait {
    waits: Rc<Waits>,
    ticks: u64,
    place: Option<usize>,
    /// How far the exchange was when it last moved.
    moved: u64,
}

impl Wait {
    /// Ready when nothing has moved for too long. `moved`: any count that grows when something does.
    pub fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<()> {
        let until = self.waits.now.get() + self.ticks;
        let mut list = self.waits.list.borrow_mut();
        let Some(entry) = self.place.and_then(|place| list.get_mut(place)) else {
            self.place = Some(list.insert(Entry { until, waker: cx.waker().clone() }));
            self.moved = moved;
            drop(list);
            self.waits.start_ticking();
            return Poll::Pending;
        };
        if moved != self.moved {
            self.moved = moved;
            entry.until = until;
        }
        if entry.until <= self.waits.now.get() {
            return Poll::Ready(());
        }
        entry.waker.clone_from(cx.waker());
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.waits.list.borrow_mut().remove(place);
        }
    }
}
