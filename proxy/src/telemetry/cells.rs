//! What is counted, in cells of atomics: one per worker, which only that worker writes, and one for the process.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use isthmus_certs::Negotiated;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::reason::Reason;

use super::exemplar::{Exemplar, Exemplars};
use super::otlp_metrics::PushTarget;
use super::page::Durations;
use super::tracer::DropReason;

/// Status classes: index 0 is "no answer", then 1xx to 5xx.
pub(super) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds in microseconds. From the loopback hop (~100 µs) to a circuit that is failing (10 s).
pub(super) const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 7_500, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

const REASONS: usize = Reason::ALL.len();

/// Native buckets: four to each doubling, so that a quantile is right within 10 %.
pub(super) const FINE_SCHEMA: i32 = 2;
/// Seconds, 2^-15: what took less is in the zero bucket.
pub(super) const FINE_ZERO: f64 = 1.0 / 32_768.0;
/// The index of the first one, as native histograms count: its upper bound is 2^(-59/4) seconds.
pub(super) const FINE_FIRST: i32 = -59;
/// Up to 2^8 seconds; the last one has what took longer as well.
pub(super) const FINE: usize = 23 * 4;
const FINE_US: [u64; FINE] = {
    let quarters = [1.189_207_115_002_721, std::f64::consts::SQRT_2, 1.681_792_830_507_429, 2.0];
    let (mut bounds, mut octave, mut at) = ([0; FINE], 1e6 * FINE_ZERO, 0);
    while at < FINE {
        // Rounded down: a whole number of microseconds is below the bound itself exactly where it is not above this.
        bounds[at] = (octave * quarters[at % 4]) as u64;
        at += 1;
        if at.is_multiple_of(4) {
            octave *= 2.0;
        }
    }
    bounds
};
const FINE_ZERO_US: u64 = (1e6 * FINE_ZERO) as u64;

/// A distribution of durations; the last bucket is +Inf.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) buckets: [AtomicU64; BUCKETS_US.len() + 1],
    pub(super) sum_us: AtomicU64,
    zero: AtomicU64,
    fine: [AtomicU64; FINE],
    /// Made for the first traced request.
    exemplars: OnceLock<Box<Exemplars>>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: Default::default(),
            sum_us: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            fine: [const { AtomicU64::new(0) }; FINE],
            exemplars: OnceLock::new(),
        }
    }
}

impl Histogram {
    pub(super) fn observe(&self, elapsed: Duration, exemplar: Option<Exemplar>) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
        fine(us).map_or(&self.zero, |at| &self.fine[at]).fetch_add(1, Relaxed);
        if let Some(exemplar) = exemplar {
            self.exemplars.get_or_init(Box::default).note(bucket, exemplar, us);
        }
    }

    /// Adds this worker's to what others have counted.
    pub(super) fn add_to(&self, sum: &mut Durations) {
        let add = |to: &mut [u64], of: &[AtomicU64]| to.iter_mut().zip(of).for_each(|(to, of)| *to += of.load(Relaxed));
        add(&mut sum.counts, &self.buckets);
        add(&mut sum.fine, &self.fine);
        sum.sum_us += self.sum_us.load(Relaxed);
        sum.zero += self.zero.load(Relaxed);
        let Some(exemplars) = self.exemplars.get() else { return };
        for (bucket, latest) in sum.exemplars.iter_mut().enumerate() {
            let newer = exemplars.read(bucket).filter(|(of, _)| latest.is_none_or(|(known, _)| known.at_ms < of.at_ms));
            *latest = newer.or(*latest);
        }
    }
}

/// By the number of bits of a duration: the first bucket that one of this length can be in.
const fn firsts(bounds: &[u64]) -> [u8; 65] {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits <= 64 {
        let least = 1 << (bits - 1);
        let mut bucket = 0;
        while bucket < bounds.len() && bounds[bucket] < least {
            bucket += 1;
        }
        first[bits] = bucket as u8;
        bits += 1;
    }
    first
}

const FIRST_BUCKETS: [u8; 65] = firsts(&BUCKETS_US);
const FIRST_FINE: [u8; 65] = firsts(&FINE_US);

/// The first whose bound is not below `us`: at most two bounds lie between powers of two (of the native ones four), and
/// only they are compared.
pub(super) fn bucket(us: u64) -> usize {
    place(&BUCKETS_US, &FIRST_BUCKETS, us)
}

/// The same among the native ones; none: the zero bucket.
pub(super) fn fine(us: u64) -> Option<usize> {
    (us > FINE_ZERO_US).then(|| place(&FINE_US, &FIRST_FINE, us).min(FINE - 1))
}

fn place(bounds: &[u64], firsts: &[u8; 65], us: u64) -> usize {
    let first = usize::from(firsts[(u64::BITS - us.leading_zeros()) as usize]);
    first + bounds[first..].iter().take_while(|bound| **bound < us).count()
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
    pub(super) mesh_handshake: [Histogram; 2],
    /// Of requests, and of connections of bytes.
    pub(super) retries: [AtomicU64; 2],
    pub(super) streams_opened: [AtomicU64; 2],
    pub(super) streams_closed: [AtomicU64; 2],
    pub(super) accept_errors: Words,
    pub(super) spans_exported: AtomicU64,
    pub(super) spans_dropped: [AtomicU64; DropReason::ALL.len()],
    pub(super) access_dropped: AtomicU64,
    pub(super) not_followed: [AtomicU64; 2],
}

/// What the control runtime alone writes.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) control_connected: AtomicI64,
    pub(super) control_connects: AtomicU64,
    pub(super) control_version: AtomicU64,
    /// Since when what is in force may not be the control plane's latest word, and how long it had not been before that.
    pub(super) control_behind: Mutex<Option<(Instant, Duration)>>,
    pub(super) updates_acked: AtomicU64,
    pub(super) updates_nacked: AtomicU64,
    pub(super) certificate_expiry: AtomicI64,
    pub(super) renewals_ok: AtomicU64,
    pub(super) renewals_failed: AtomicU64,
    pub(super) renewal_failing: AtomicU64,
    pub(super) last_good: AtomicI64,
    pub(super) ready: AtomicI64,
    pub(super) ejected: AtomicU64,
    pub(super) ejections: AtomicU64,
    pub(super) capture_restored: AtomicU64,
    pub(super) capture_exposed_micros: AtomicU64,
    pub(super) capture_udp_dropped: AtomicU64,
    pub(super) source_preserved: AtomicI64,
    pub(super) clock_skew_ms: AtomicI64,
    pub(super) flows_dropped: AtomicU64,
    pub(super) refusals_dropped: AtomicU64,
    pub(super) resource: Mutex<Vec<(&'static str, String)>>,
    pub(super) pushed_to: watch::Sender<Option<PushTarget>>,
}

impl Cell {
    pub(super) fn load(&self) -> u64 {
        let sum = |of: &[AtomicU64; 2]| of.iter().map(|n| n.load(Relaxed)).sum::<u64>();
        (sum(&self.opened) + sum(&self.mesh_opened)).saturating_sub(sum(&self.closed) + sum(&self.mesh_closed))
    }
}
