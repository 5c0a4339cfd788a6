//! What is counted, in cells of atomics: one per worker, which only that worker writes, and one for the process.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use isthmus_certs::Negotiated;

use crate::reason::Reason;

use super::tracer::DropReason;

/// Status classes: index 0 is "no answer", then 1xx to 5xx.
pub(super) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds in microseconds. From the loopback hop (~100 µs) to a circuit that is failing (10 s).
pub(super) const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 7_500, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

const REASONS: usize = Reason::ALL.len();

/// A distribution of durations; the last bucket is +Inf.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: [AtomicU64; BUCKETS_US.len() + 1],
    pub(super) sum_us: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, elapsed: Duration) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }
}

/// By the number of bits of a duration: the first bucket that one of this length can be in.
const FIRST_BUCKETS: [u8; 65] = {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits <= 64 {
        let least = 1 << (bits - 1);
        let mut bucket = 0;
        while bucket < BUCKETS_US.len() && BUCKETS_US[bucket] < least {
            bucket += 1;
        }
        first[bits] = bucket as u8;
        bits += 1;
    }
    first
};

/// The first whose bound is not below `us`: at most two bounds lie between powers of two, and only they are compared.
pub(super) fn bucket(us: u64) -> usize {
    let first = usize::from(FIRST_BUCKETS[(u64::BITS - us.leading_zeros()) as usize]);
    first + BUCKETS_US[first..].iter().take_while(|bound| **bound < us).count()
}

/// Counters by a word that another crate owns (TLS failures, accept errors). Slots are claimed once and never freed; a
/// word that finds none left counts as `other`, so that no label can grow without bound.
#[derive(Debug)]
pub(super) struct Words {
    slots: [(OnceLock<&'static str>, AtomicU64); 24],
    other: AtomicU64,
}

impl Default for Words {
    fn default() -> Words {
        Words { slots: std::array::from_fn(|_| (OnceLock::new(), AtomicU64::new(0))), other: AtomicU64::new(0) }
    }
}

impl Words {
    pub(super) fn count(&self, word: &'static str) {
        let slot = self.slots.iter().find(|(name, _)| *name.get_or_init(|| word) == word);
        slot.map_or(&self.other, |(_, count)| count).fetch_add(1, Relaxed);
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let named = self.slots.iter().filter_map(|(name, count)| Some((*name.get()?, count.load(Relaxed))));
        named.chain(std::iter::once(("other", self.other.load(Relaxed))).filter(|(_, count)| *count > 0))
    }
}

/// One worker's counters. Aligned to two cache lines: adjacent-line prefetch pairs them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Cell {
    pub(super) requests: [[AtomicU64; STATUS_CLASSES.len()]; 2],
    pub(super) request_time: [Histogram; 2],
    pub(super) link_time: Histogram,
    pub(super) refused: [[AtomicU64; REASONS]; 2],
    pub(super) would_refuse: [[AtomicU64; REASONS]; 2],
    pub(super) opened: [AtomicU64; 2],
    pub(super) closed: [AtomicU64; 2],
    pub(super) bytes: [[AtomicU64; 2]; 2],
    pub(super) mesh_opened: [AtomicU64; 2],
    pub(super) mesh_closed: [AtomicU64; 2],
    pub(super) mesh_failed: [Words; 2],
    pub(super) mesh_events: Words,
    /// By side, group and cipher.
    pub(super) mesh_negotiated: [[[AtomicU64; Negotiated::CIPHERS.len()]; Negotiated::GROUPS.len()]; 2],
    pub(super) streams_opened: [AtomicU64; 2],
    pub(super) streams_closed: [AtomicU64; 2],
    pub(super) accept_errors: Words,
    pub(super) spans_exported: AtomicU64,
    pub(super) spans_dropped: [AtomicU64; DropReason::ALL.len()],
    pub(super) access_dropped: AtomicU64,
}

/// What the control runtime alone writes.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) control_connected: AtomicI64,
    pub(super) control_connects: AtomicU64,
    pub(super) control_version: AtomicU64,
    pub(super) updates_acked: AtomicU64,
    pub(super) updates_nacked: AtomicU64,
    pub(super) certificate_expiry: AtomicI64,
    pub(super) renewals_ok: AtomicU64,
    pub(super) renewals_failed: AtomicU64,
    pub(super) renewal_failing: AtomicU64,
    pub(super) last_good: AtomicI64,
    pub(super) ready: AtomicI64,
    pub(super) capture_restored: AtomicU64,
    pub(super) capture_exposed_micros: AtomicU64,
    pub(super) capture_udp_dropped: AtomicU64,
    pub(super) source_preserved: AtomicI64,
    pub(super) clock_skew_ms: AtomicI64,
    pub(super) flows_dropped: AtomicU64,
    pub(super) refusals_dropped: AtomicU64,
    pub(super) resource: Mutex<Vec<(&'static str, String)>>,
}

impl Cell {
    pub(super) fn load(&self) -> u64 {
        let sum = |of: &[AtomicU64; 2]| of.iter().map(|n| n.load(Relaxed)).sum::<u64>();
        (sum(&self.opened) + sum(&self.mesh_opened)).saturating_sub(sum(&self.closed) + sum(&self.mesh_closed))
    }
}
