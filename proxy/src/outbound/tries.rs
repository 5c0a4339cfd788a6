//! Tries of requests. The one that is made is on the stack of whoever serves its request, and so is the last one until the
//! request's end decides. Those that failed before it are in a ring of the worker's, where nobody has decided to record
//! them: should the request turn out to be worth keeping, they are still here. A record has a fixed size and owns nothing but
//! a count on its endpoint; the ring is made with the first one, and what is full forgets what is oldest.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use isthmus_certs::Negotiated;

use super::hop::Link;
use crate::reason::Reason;
use crate::state::Endpoint;
use crate::telemetry::KeptTrace;

/// Records of one worker: some 50 KiB. A request leaves one for each of its tries but the last, which are four at most.
const KEPT: usize = 256;

/// One try, as it is told.
#[derive(Debug, Clone)]
pub(super) struct Try {
    /// 0: the first.
    pub(super) number: u8,
    pub(super) endpoint: Arc<Endpoint>,
    /// When a connection was asked for, and when the request left on it.
    pub(super) began: Instant,
    pub(super) sent: Option<Instant>,
    /// When its answer was read.
    pub(super) back: Option<Instant>,
    pub(super) link: Option<Link>,
    pub(super) tcp: Option<(u32, u32, u64)>,
    pub(super) tls: Option<Negotiated>,
    pub(super) fate: TryFate,
    /// The callee's reset.
    pub(super) reset: Option<h2::Reason>,
    /// Where the callee's sidecar puts what it keeps of it.
    pub(super) shared: Option<KeptTrace>,
}

impl Try {
    pub(super) fn begin(number: u8, endpoint: &Arc<Endpoint>) -> Try {
        Try {
            number,
            endpoint: Arc::clone(endpoint),
            began: Instant::now(),
            sent: None,
            back: None,
            link: None,
            tcp: None,
            tls: None,
            fate: TryFate::Left,
            reset: None,
            shared: None,
        }
    }
}

/// One that failed, with its request's number of this worker and the moment at which it was given up.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub(super) request: u64,
    pub(super) ended: Instant,
    pub(super) tried: Try,
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
    /// The app left before it was answered.
    Left,
}

impl TryFate {
    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            TryFate::Answered(_) => None,
            TryFate::Unreachable(reason) | TryFate::Body(reason) => Some(reason),
            TryFate::Unprocessed | TryFate::Lost => Some(Reason::ConnectFailed),
            TryFate::Late => Some(Reason::Timeout),
            TryFate::Left => Some(Reason::CallerGone),
        }
    }
}

/// The ring.
#[derive(Debug, Default)]
pub(super) struct Tries(RefCell<VecDeque<Before>>);

impl Tries {
    pub(super) fn put(&self, before: Before) {
        let mut ring = self.0.borrow_mut();
        if ring.capacity() == 0 {
            ring.reserve_exact(KEPT);
        }
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(before);
    }

    /// Those of one request that are still here, in their order.
    pub(super) fn of(&self, request: u64) -> Vec<Before> {
        self.0.borrow().iter().filter(|before| before.request == request).cloned().collect()
    }
}

#[cfg(test)]
#[path = "tries_test.rs"]
mod tries_test;
