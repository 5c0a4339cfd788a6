//! One worker's handles on the connections of one peer, and the choice among them. Everything here happens without
//! waiting and without allocating: it is what each request does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::Request;
use isthmus_certs::Negotiated;
use isthmus_http2::{Answering, SendRequest, SendStream, StreamError};

use super::peers::{Connection, Link, Peer};
use super::{Pool, dial};
use crate::tls::InCommon;

/// Another worker's connection costs a wake-up across threads per stream, as much as this many streams of waiting.
const BORROWED: usize = 8;
/// A worker with so many streams at once on a borrowed connection is not idle: it makes its own.
const OWN_FROM: usize = 4;
/// Streams at once from which a long link gets a second connection: there, one lost packet stops everything for long.
const STRIPE_FROM: usize = 8;
/// Below this many streams no peer is asked how many it takes.
const SURELY_ROOM: usize = 8;

/// One peer, as one worker sees it.
pub(super) struct Local {
    pub(super) peer: Arc<Peer>,
    /// Of the peer's list, when `lines` was made from it.
    version: Cell<u64>,
    lines: RefCell<Vec<Rc<Line>>>,
    /// Since [`super::warm`] looked last.
    pub(super) used: Cell<bool>,
    /// Whether an endpoint of the present snapshot leads here, as [`super::warm`] saw it.
    pub(super) wanted: Cell<bool>,
}

/// One connection, as one worker holds it.
struct Line {
    sender: SendRequest,
    link: Arc<Link>,
    own: bool,
    /// This worker's streams on it.
    mine: Cell<usize>,
}

impl Local {
    pub(super) fn new(peer: Arc<Peer>) -> Local {
        let (used, wanted) = (Cell::new(false), Cell::new(true));
        Local { peer, version: Cell::new(0), lines: RefCell::default(), used, wanted }
    }

    /// The least busy connection with room. `None`: one must be made first.
    pub(super) fn pick(&self, pool: &Rc<Pool>) -> Option<Slot> {
        self.refresh(pool);
        let line = self.least_busy()?;
        let busy = line.link.busy.load(Ordering::Relaxed);
        let may_add = self.lines.borrow().len() < pool.peers.limits.per_peer;
        if may_add {
            if busy >= SURELY_ROOM && busy >= line.sender.most_streams() {
                return None;
            }
            if line.wants_company(busy) {
                // Nobody waits for it; a failure is remembered there.
                let _ = dial::begin(pool, &self.peer);
            }
        }
        Some(self.slot(line))
    }

    /// The least busy connection, also a full one: the stream waits there until the peer takes it.
    pub(super) fn pick_full(&self, pool: &Rc<Pool>) -> Option<Slot> {
        self.refresh(pool);
        self.least_busy().map(|line| self.slot(line))
    }

    fn slot(&self, line: Rc<Line>) -> Slot {
        self.used.set(true);
        line.link.busy.fetch_add(1, Ordering::Relaxed);
        line.mine.set(line.mine.get() + 1);
        Slot { line }
    }

    fn least_busy(&self) -> Option<Rc<Line>> {
        loop {
            let lines = self.lines.borrow();
            let usable = lines.iter().filter(|line| !line.link.is_closed());
            let line = Rc::clone(usable.min_by_key(|line| line.weight())?);
            drop(lines);
            if line.is_alive() {
                return Some(line);
            }
            // Out of everybody's list: a GOAWAY came, or the connection broke and its task has not run yet.
            self.peer.remove(&line.link);
        }
    }

    /// Takes over what changed in the peer's list since this worker looked last.
    pub(super) fn refresh(&self, pool: &Pool) {
        if self.version.get() == self.peer.version() {
            return;
        }
        let state = self.peer.lock();
        self.version.set(self.peer.version());
        let connections: Vec<Connection> = state.connections.clone();
        drop(state);
        let before = self.lines.take();
        let lines = connections.into_iter().map(|connection| {
            let known = before.iter().find(|line| Arc::ptr_eq(&line.link, &connection.link));
            known.map_or_else(|| Rc::new(Line::new(connection, pool)), Rc::clone)
        });
        self.lines.replace(lines.collect());
    }

    /// This worker's streams, by connection.
    #[cfg(test)]
    pub(super) fn streams(&self) -> Vec<usize> {
        self.lines.borrow().iter().map(|line| line.mine.get()).collect()
    }

    /// Connections that GOAWAY or an error has closed take no more streams, of no worker.
    pub(super) fn forget_closed(&self) {
        let closed: Vec<Rc<Line>> = self.lines.borrow().iter().filter(|line| !line.is_alive()).map(Rc::clone).collect();
        for line in closed {
            self.peer.remove(&line.link);
        }
    }
}

impl Line {
    fn new(connection: Connection, pool: &Pool) -> Line {
        let own = connection.link.worker == pool.worker;
        if !own {
            pool.metrics.mesh_event("borrowed");
        }
        Line { sender: connection.sender, link: connection.link, own, mine: Cell::new(0) }
    }

    fn weight(&self) -> usize {
        self.link.busy.load(Ordering::Relaxed) + if self.own { 0 } else { BORROWED }
    }

    fn is_alive(&self) -> bool {
        self.sender.is_alive()
    }

    /// Whether another connection, not yet there, would be better for the streams to come.
    fn wants_company(&self, busy: usize) -> bool {
        let striped = self.link.is_long() && busy >= STRIPE_FROM;
        let borrowed = !self.own && self.mine.get() + 1 >= OWN_FROM;
        striped || borrowed
    }
}

/// The right to one stream on a mesh connection; counted as long as it lives. Best kept as long as the stream: while it
/// is, a silent peer is found within seconds, and others know how busy the connection is.
pub struct Slot {
    line: Rc<Line>,
}

impl Slot {
    /// Opens the stream. An error is about the connection: not a byte of the request was sent.
    pub fn send_request(
        &self,
        request: Request<()>,
        end_of_stream: bool,
    ) -> Result<(Answering, SendStream), StreamError> {
        self.line.sender.send_request(request, end_of_stream)
    }

    /// When the connection last gave bytes: just after an answer's head, when that came.
    pub fn last_read(&self) -> Instant {
        self.line.link.last_read.get()
    }

    /// The kernel's view of the connection, once it was asked for: see [`crate::telemetry::TcpView::read`].
    pub fn tcp(&self) -> Option<(u32, u32, u64)> {
        self.line.link.watched.as_ref()?.view.read()
    }

    /// What the connection's handshake agreed on.
    pub fn negotiated(&self) -> Negotiated {
        self.line.link.negotiated
    }

    /// What the peer's sidecar and this one know of the connection, and nobody else.
    pub fn in_common(&self) -> Option<InCommon> {
        self.line.link.in_common
    }

    /// Whether the peer takes requests, and not only tunnels (ALPN `h2`).
    pub fn takes_requests(&self) -> bool {
        self.line.link.takes_requests()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.line.link.busy.fetch_sub(1, Ordering::Relaxed);
        self.line.mine.set(self.line.mine.get() - 1);
    }
}
