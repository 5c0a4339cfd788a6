//! Tries of requests that nobody has decided to record, in a ring of the worker's: should the request turn out to be worth
//! keeping, its earlier tries are still here. A record has a fixed size and owns nothing but a count on its endpoint; the
//! ring is made with the first one, and what is full forgets what is oldest.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_certs::Negotiated;

use crate::reason::Reason;
use crate::state::Endpoint;

/// Records of one worker: some 50 KiB. A request leaves one for each of its tries, which are four at most.
const KEPT: usize = 256;

/// One try, as it is told.
#[derive(Debug, Clone)]
pub(super) struct Try {
    /// Of this worker.
    pub(super) request: u64,
    /// 0: the first.
    pub(super) number: u8,
    pub(super) endpoint: Arc<Endpoint>,
    /// When a connection was asked for, when the request left on it, and when it was answered or given up.
    pub(super) began: Instant,
    pub(super) sent: Option<Instant>,
    pub(super) ended: Instant,
    /// The way between the sidecars alone.
    pub(super) link: Option<Duration>,
    pub(super) tcp: Option<(u32, u32, u64)>,
    pub(super) tls: Option<Negotiated>,
    pub(super) fate: TryFate,
    /// The callee's reset.
    pub(super) reset: Option<h2::Reason>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TryFate {
    Answered(u16),
    /// The callee's sidecar takes nothing now, or was not reached.
    Unreachable(Reason),
    /// The stream ended before it was processed.
    Unprocessed,
    /// The answer was lost.
    Lost,
    Late,
    /// The caller's body broke.
    Body(Reason),
}

impl TryFate {
    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            TryFate::Answered(_) => None,
            TryFate::Unreachable(reason) | TryFate::Body(reason) => Some(reason),
            TryFate::Unprocessed | TryFate::Lost => Some(Reason::ConnectFailed),
            TryFate::Late => Some(Reason::Timeout),
        }
    }
}

/// The ring.
#[derive(Debug, Default)]
pub(super) struct Tries(RefCell<VecDeque<Try>>);

impl Tries {
    pub(super) fn put(&self, tried: Try) {
        let mut ring = self.0.borrow_mut();
        if ring.capacity() == 0 {
            ring.reserve_exact(KEPT);
        }
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(tried);
    }

    /// Those of one request that are still here, in their order.
    pub(super) fn of(&self, request: u64) -> Vec<Try> {
        self.0.borrow().iter().filter(|tried| tried.request == request).cloned().collect()
    }
}

#[cfg(test)]
#[path = "tries_test.rs"]
mod tries_test;
