//! What was refused lately, and why, for `isthmus explain` and the admin socket. The caller learns one word and an id; the
//! operator finds here the rule and the YAML that would allow it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::Serialize;

/// So many refusals are remembered.
pub const REMEMBERED: usize = 1_000;

/// One refusal, as an operator reads it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// As in the response header `isthmus-decision`.
    pub id: String,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    /// [`crate::reason::Reason::word`].
    pub reason: &'static str,
    /// False where enforcement is off: it passed, and would be refused.
    pub enforced: bool,
    /// What refused, in a sentence.
    pub because: String,
    /// Where it wanted to go, out of the mesh; `None`: it came in.
    pub destination: Option<String>,
    pub caller: Option<String>,
    pub caller_address: String,
    pub service: Option<String>,
    /// The app's port.
    pub port: u16,
    pub method: Option<String>,
    pub path: Option<String>,
    pub policy: Option<String>,
    /// The rule's place in the policy's list.
    pub rule: Option<u32>,
    /// The ServicePolicy that would let this through.
    pub would_allow: Option<String>,
}

/// A bounded ring. Writers never wait: a record that finds the ring busy is dropped and counted.
#[derive(Debug, Default)]
pub struct Decisions {
    ring: Mutex<Ring>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Record>,
    /// How many were written since the proxy began.
    written: u64,
}

/// What was written since somebody last looked.
#[derive(Debug)]
pub struct Since {
    /// The oldest first.
    pub records: Vec<Record>,
    /// Overwritten before they were looked at.
    pub missed: u64,
    /// To ask for the next.
    pub next: u64,
}

impl Decisions {
    pub fn new() -> Arc<Decisions> {
        Arc::new(Decisions::default())
    }

    pub fn record(&self, record: Record) {
        let Ok(mut ring) = self.ring.try_lock() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if ring.records.len() == REMEMBERED {
            ring.records.pop_front();
        }
        ring.records.push_back(record);
        ring.written += 1;
    }

    /// What was written after the first `seen`, at most `most`.
    pub fn since(&self, seen: u64, most: usize) -> Since {
        self.with(|ring| {
            let oldest = ring.written - ring.records.len() as u64;
            let from = seen.clamp(oldest, ring.written);
            let skipped = usize::try_from(from - oldest).unwrap_or(usize::MAX);
            let records: Vec<_> = ring.records.iter().skip(skipped).take(most).cloned().collect();
            Since { next: from + records.len() as u64, missed: from.saturating_sub(seen), records }
        })
    }

    pub fn get(&self, id: &str) -> Option<Record> {
        self.with(|ring| ring.records.iter().rev().find(|record| record.id == id).cloned())
    }

    /// The newest last.
    pub fn recent(&self) -> Vec<Record> {
        self.with(|ring| ring.records.iter().cloned().collect())
    }

    /// Records that found the ring busy.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn with<T>(&self, read: impl FnOnce(&Ring) -> T) -> T {
        // A writer that panicked left whole records behind.
        read(&self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
