//! Counters. Each worker owns a cell of atomics that only it writes, so that the data path shares no cache line and
//! takes no lock; a scrape adds the cells up.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use isthmus_certs::Negotiated;

use crate::reason::Reason;

use super::open::{OpenConnection, OpenStream};
use super::tracer::DropReason;

/// Which of the two paths something happened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From others towards the app.
    Inbound,
    /// From the app towards others.
    Outbound,
}

impl Direction {
    pub(super) const ALL: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

    /// The word used in labels, logs and spans.
    pub const fn word(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// Which end of a mesh connection this proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeshSide {
    /// It dialled.
    Client,
    /// It accepted.
    Server,
}

impl MeshSide {
    pub(super) const ALL: [MeshSide; 2] = [MeshSide::Client, MeshSide::Server];

    pub(super) const fn word(self) -> &'static str {
        match self {
            MeshSide::Client => "client",
            MeshSide::Server => "server",
        }
    }
}

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
    fn observe(&self, elapsed: Duration) {
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
    fn count(&self, word: &'static str) {
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
}

/// A handle to the counters; cheap to clone. Each worker holds its own, from [`Metrics::for_worker`].
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) cells: Arc<[Arc<Cell>]>,
    pub(super) process: Arc<Process>,
    own: Arc<Cell>,
}

impl Metrics {
    /// Counters for `workers` workers and the control runtime, whose handle this is.
    pub fn new(workers: usize) -> Metrics {
        let cells: Arc<[Arc<Cell>]> = (0..=workers).map(|_| Arc::new(Cell::default())).collect();
        Metrics { own: cells[workers].clone(), cells, process: Arc::default() }
    }

    /// The handle for worker number `worker` (from 0); a number out of range shares the control runtime's cell.
    pub fn for_worker(&self, worker: usize) -> Metrics {
        let own = self.cells.get(worker).unwrap_or(&self.own).clone();
        Metrics { cells: self.cells.clone(), process: self.process.clone(), own }
    }

    /// A connection, stream or request was refused.
    pub fn refused(&self, reason: Reason, direction: Direction) {
        self.own.refused[direction as usize][reason.index()].fetch_add(1, Relaxed);
    }

    /// So many packets or connections were refused where nobody asked us for each.
    pub fn refused_times(&self, reason: Reason, direction: Direction, times: u64) {
        self.own.refused[direction as usize][reason.index()].fetch_add(times, Relaxed);
    }

    /// It passed because enforcement is off, and would have been refused.
    pub fn would_refuse(&self, reason: Reason, direction: Direction) {
        self.own.would_refuse[direction as usize][reason.index()].fetch_add(1, Relaxed);
    }

    /// A request was answered with `status` (0: the answer never came) after `elapsed`.
    pub fn request(&self, direction: Direction, status: u16, elapsed: Duration) {
        let class = usize::from(status / 100);
        let class = if class < STATUS_CLASSES.len() { class } else { 0 };
        self.own.requests[direction as usize][class].fetch_add(1, Relaxed);
        self.own.request_time[direction as usize].observe(elapsed);
    }

    /// What a request spent on the way between two sidecars.
    pub fn link_time(&self, elapsed: Duration) {
        self.own.link_time.observe(elapsed);
    }

    /// Payload carried: `to_callee` and `from_callee`, in bytes.
    pub fn bytes(&self, direction: Direction, to_callee: u64, from_callee: u64) {
        let [to, from] = &self.own.bytes[direction as usize];
        to.fetch_add(to_callee, Relaxed);
        from.fetch_add(from_callee, Relaxed);
    }

    /// An app connection was taken up; it counts as closed when the returned value is dropped.
    pub fn connection(&self, direction: Direction) -> OpenConnection {
        OpenConnection::new(&self.own, direction)
    }

    /// A mesh connection was established; it counts as closed when the returned value is dropped.
    pub fn mesh_connection(&self, side: MeshSide) -> OpenStream {
        OpenStream::connection(&self.own, side)
    }

    /// What a handshake between sidecars agreed on.
    pub fn mesh_negotiated(&self, side: MeshSide, agreed: Negotiated) {
        let place = |names: &[&str], name| names.iter().position(|known| *known == name).unwrap_or(names.len() - 1);
        let (group, cipher) = (place(&Negotiated::GROUPS, agreed.group), place(&Negotiated::CIPHERS, agreed.cipher));
        self.own.mesh_negotiated[side as usize][group][cipher].fetch_add(1, Relaxed);
    }

    /// A handshake between sidecars failed; `why` is the word of the certs crate's `PeerError`.
    pub fn mesh_handshake_failed(&self, side: MeshSide, why: &'static str) {
        self.own.mesh_failed[side as usize].count(why);
    }

    /// Something happened to mesh connections that is worth counting and no failure of one; `what` is one word.
    pub fn mesh_event(&self, what: &'static str) {
        self.own.mesh_events.count(what);
    }

    /// A request or tunnel began on a mesh connection; it ends when the returned value is dropped.
    pub fn stream(&self, side: MeshSide) -> OpenStream {
        OpenStream::stream(&self.own, side)
    }

    /// `accept` failed; `why` is one word.
    pub fn accept_error(&self, why: &'static str) {
        self.own.accept_errors.count(why);
    }

    /// Streams that a worker serves to peers now, to compare workers by.
    pub fn served_streams(&self, worker: usize) -> usize {
        let at = MeshSide::Server as usize;
        let open = self.cells.get(worker).map_or(0, |cell| {
            let closed = cell.streams_closed[at].load(Relaxed);
            cell.streams_opened[at].load(Relaxed).saturating_sub(closed)
        });
        usize::try_from(open).unwrap_or(usize::MAX)
    }

    /// Open app and mesh connections of this worker, to compare workers by.
    pub fn own_load(&self) -> u64 {
        self.own.load()
    }

    /// A collector acknowledged `count` spans.
    pub fn spans_exported(&self, count: u64) {
        self.own.spans_exported.fetch_add(count, Relaxed);
    }

    /// `count` spans were given up.
    pub fn spans_dropped(&self, reason: DropReason, count: u64) {
        self.own.spans_dropped[reason as usize].fetch_add(count, Relaxed);
    }

    /// `count` lines of the access log were given up.
    pub fn access_lines_dropped(&self, count: u64) {
        self.own.access_dropped.fetch_add(count, Relaxed);
    }

    /// The stream to the control plane came up or went down.
    pub fn control_connected(&self, connected: bool) {
        self.process.control_connected.store(i64::from(connected), Relaxed);
        self.process.control_connects.fetch_add(u64::from(connected), Relaxed);
    }

    /// A snapshot of this version is in force.
    pub fn control_version(&self, version: u64) {
        self.process.control_version.store(version, Relaxed);
    }

    /// An update was taken (`true`) or refused (`false`).
    pub fn control_update(&self, acked: bool) {
        let counter = if acked { &self.process.updates_acked } else { &self.process.updates_nacked };
        counter.fetch_add(1, Relaxed);
    }

    /// The certificate in use ends at `unix_seconds`.
    pub fn certificate_expiry(&self, unix_seconds: i64) {
        self.process.certificate_expiry.store(unix_seconds, Relaxed);
    }

    /// An enrolment or renewal ended well or badly.
    pub fn certificate_renewal(&self, ok: bool) {
        let counter = if ok { &self.process.renewals_ok } else { &self.process.renewals_failed };
        counter.fetch_add(1, Relaxed);
    }

    /// So many attempts to renew have failed in a row.
    pub fn certificate_renewal_failing(&self, attempts: u32) {
        self.process.renewal_failing.store(attempts.into(), Relaxed);
    }

    /// Whether the snapshot in force is the last good one of an earlier process.
    pub fn serving_last_good(&self, serving: bool) {
        self.process.last_good.store(i64::from(serving), Relaxed);
    }

    /// The capture rules are back, after others had changed them.
    pub fn capture_restored(&self, exposed: Duration) {
        self.process.capture_restored.fetch_add(1, Relaxed);
        let micros = u64::try_from(exposed.as_micros()).unwrap_or(u64::MAX);
        self.process.capture_exposed_micros.fetch_add(micros, Relaxed);
    }

    /// The capture rules have dropped so many UDP packets.
    pub fn capture_udp_dropped(&self, packets: u64) {
        self.process.capture_udp_dropped.store(packets, Relaxed);
    }

    /// Whether apps may be dialled from their callers' addresses.
    pub fn source_preserved(&self, preserved: bool) {
        self.process.source_preserved.store(i64::from(preserved), Relaxed);
    }

    /// What readiness answers.
    pub fn ready(&self, ready: bool) {
        self.process.ready.store(i64::from(ready), Relaxed);
    }
}

impl Metrics {
    /// The busiest worker's load over the mean, in connections and streams; 1: even, the number of workers: one has all.
    pub(super) fn imbalance(&self) -> f64 {
        let workers = &self.cells[..self.cells.len() - 1];
        let streams = |cell: &Cell| {
            let closed: u64 = cell.streams_closed.iter().map(|n| n.load(Relaxed)).sum();
            cell.streams_opened.iter().map(|n| n.load(Relaxed)).sum::<u64>().saturating_sub(closed)
        };
        let loads = || workers.iter().map(|cell| cell.load() + streams(cell));
        let (all, most) = (loads().sum::<u64>(), loads().max().unwrap_or(0));
        if all == 0 { 1.0 } else { most as f64 * workers.len() as f64 / all as f64 }
    }
}

impl Cell {
    pub(super) fn load(&self) -> u64 {
        let sum = |of: &[AtomicU64; 2]| of.iter().map(|n| n.load(Relaxed)).sum::<u64>();
        (sum(&self.opened) + sum(&self.mesh_opened)).saturating_sub(sum(&self.closed) + sum(&self.mesh_closed))
    }
}
