//! All workers' counts, merged by the control runtime and kept until the control plane has them.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::sync::mpsc;

use super::table::{Drained, FlowKey};

/// Hand-overs that were not merged yet. Full: the worker keeps its counts and tries again.
const QUEUE: usize = 64;
/// Ways that wait for a control plane which cannot be reached. What is new then is dropped and counted.
pub const MOST_HELD: usize = 16_384;

/// A worker's end.
#[derive(Clone)]
pub struct Shipper(mpsc::Sender<Drained>);

/// Room for one hand-over.
pub struct Place<'a>(mpsc::Permit<'a, Drained>);

impl Shipper {
    pub fn place(&self) -> Option<Place<'_>> {
        self.0.try_reserve().ok().map(Place)
    }
}

impl Place<'_> {
    pub fn send(self, drained: Drained) {
        if !drained.counts.is_empty() || drained.dropped > 0 {
            self.0.send(drained);
        }
    }
}

/// How often, and between when and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub count: u64,
    pub first_ms: i64,
    pub last_ms: i64,
}

/// The control runtime's end.
pub struct Collector {
    incoming: mpsc::Receiver<Drained>,
    held: HashMap<Arc<FlowKey>, Counted, RandomState>,
    dropped: u64,
    dropped_in_all: u64,
    /// When the last hand-over came: what a worker counted, it counted since.
    since_ms: i64,
}

/// What one report carries.
#[derive(Debug, Default)]
pub struct Collected {
    pub flows: Vec<(Arc<FlowKey>, Counted)>,
    pub dropped: u64,
}

impl Collector {
    pub fn new(now_ms: i64) -> (Shipper, Collector) {
        let (sender, incoming) = mpsc::channel(QUEUE);
        (
            Shipper(sender),
            Collector { incoming, held: HashMap::default(), dropped: 0, dropped_in_all: 0, since_ms: now_ms },
        )
    }

    /// Merges what has come so far.
    pub fn merge(&mut self, now_ms: i64) {
        let since = std::mem::replace(&mut self.since_ms, now_ms).min(now_ms);
        let dropped_before = self.dropped;
        while let Ok(drained) = self.incoming.try_recv() {
            self.dropped += drained.dropped;
            for (key, count) in drained.counts {
                self.add(key, Counted { count, first_ms: since, last_ms: now_ms });
            }
        }
        self.dropped_in_all += self.dropped - dropped_before;
    }

    /// Decisions that are in no record, of all workers and since the start.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped_in_all
    }

    fn add(&mut self, key: Arc<FlowKey>, more: Counted) {
        if let Some(held) = self.held.get_mut(&key) {
            held.count += more.count;
            held.first_ms = held.first_ms.min(more.first_ms);
            held.last_ms = held.last_ms.max(more.last_ms);
        } else if self.held.len() < MOST_HELD {
            self.held.insert(key, more);
        } else {
            self.dropped += more.count;
        }
    }

    /// Takes at most `most` ways for a report.
    pub fn take(&mut self, most: usize) -> Collected {
        let keys: Vec<_> = self.held.keys().take(most).cloned().collect();
        let taken = keys.into_iter().filter_map(|key| self.held.remove_entry(&key)).collect();
        Collected { flows: taken, dropped: std::mem::take(&mut self.dropped) }
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.dropped == 0
    }
}
