//! Where spans go while no collector is configured: to the control plane, which keeps the last ones for `isthmus trace`.
//! That is for a person who looks, and not for every request: so many traces a second are begun and no more, whatever
//! the ratio says, decided before anything is allocated; and none where nobody takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use tokio::sync::mpsc;

use super::span::Span;

/// Spans that wait for the control plane.
const QUEUE: usize = 1_024;

/// The paths' end.
#[derive(Debug)]
pub(super) struct Keeping {
    budget: Arc<Budget>,
    to: mpsc::Sender<Span>,
}

#[derive(Debug, Default)]
struct Budget {
    begin: AtomicU32,
    go_on: AtomicU32,
    wanted: AtomicBool,
}

/// The end of who tells the control plane.
#[derive(Debug)]
pub struct KeptSpans {
    budget: Arc<Budget>,
    spans: mpsc::Receiver<Span>,
}

pub(super) fn keeping() -> (Keeping, KeptSpans) {
    let (to, spans) = mpsc::channel(QUEUE);
    let budget = Arc::<Budget>::default();
    (Keeping { budget: budget.clone(), to }, KeptSpans { budget, spans })
}

impl Keeping {
    /// Whether one more trace could begin: asked before anything is done for one.
    pub(super) fn could_begin(&self) -> bool {
        self.budget.begin.load(Relaxed) > 0
    }

    /// Whether one more trace may begin. While there is nothing left this is one load.
    pub(super) fn may_begin(&self) -> bool {
        take_one(&self.budget.begin)
    }

    /// Whether a trace that a caller records is recorded here too.
    pub(super) fn may_go_on(&self) -> bool {
        take_one(&self.budget.go_on)
    }

    /// Whether anybody takes spans.
    pub(super) fn is_wanted(&self) -> bool {
        self.budget.wanted.load(Relaxed)
    }

    pub(super) fn keep(&self, span: Span) -> bool {
        self.to.try_send(span).is_ok()
    }
}

fn take_one(budget: &AtomicU32) -> bool {
    budget.load(Relaxed) > 0 && budget.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl KeptSpans {
    /// So many traces may begin until this is said again, and so many of others' be gone on with.
    pub fn allow(&self, begin: u32, go_on: u32) {
        self.budget.wanted.store(begin > 0, Relaxed);
        self.budget.begin.store(begin, Relaxed);
        self.budget.go_on.store(go_on, Relaxed);
    }

    /// What there is, without waiting.
    pub fn take(&mut self, most: usize) -> Vec<Span> {
        std::iter::from_fn(|| self.spans.try_recv().ok()).take(most).collect()
    }
}

#[cfg(test)]
#[path = "kept_test.rs"]
mod kept_test;
