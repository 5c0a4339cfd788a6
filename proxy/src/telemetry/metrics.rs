//! Counters. Each worker owns a cell of atomics that only it writes, so that the data path shares no cache line and
//! takes no lock; a scrape adds the cells up.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use isthmus_certs::Negotiated;
use isthmus_proto::live::v1::Edge;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::reason::Reason;

use super::cells::{BUCKETS_US, Cell, Process, STATUS_CLASSES};
use super::edges::{EdgeRegistry, Edges};
use super::exemplar::Exemplar;
use super::links::Links;
use super::live::Live;
use super::open::{OpenConnection, OpenStream};
use super::otlp_metrics::PushTarget;
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

/// A handle to the counters; cheap to clone. Each worker holds its own, from [`Metrics::for_worker`].
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) cells: Arc<[Arc<Cell>]>,
    pub(super) process: Arc<Process>,
    pub(super) edges: Arc<EdgeRegistry>,
    pub(super) links: Links,
    live: Live,
    own: Arc<Cell>,
}

impl Metrics {
    /// Upper bounds of the durations' buckets, in microseconds; a last bucket holds what is above.
    pub const BOUNDS_US: &[u64] = &BUCKETS_US;

    /// Counters for `workers` workers and the control runtime, whose handle this is.
    pub fn new(workers: usize) -> Metrics {
        let cells: Arc<[Arc<Cell>]> = (0..=workers).map(|_| Arc::new(Cell::default())).collect();
        Metrics {
            own: cells[workers].clone(),
            cells,
            process: Arc::default(),
            edges: Arc::default(),
            links: Links::default(),
            live: Live::default(),
        }
    }

    /// The handle for worker number `worker` (from 0); a number out of range shares the control runtime's cell.
    pub fn for_worker(&self, worker: usize) -> Metrics {
        let own = self.cells.get(worker).unwrap_or(&self.own).clone();
        Metrics { own, ..self.clone() }
    }

    /// A worker's own table of who talks to whom.
    pub fn edges(&self) -> Edges {
        Edges::new(self.edges.clone())
    }

    /// Who looks at what passes.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The counts by edge, as they are told to who looks.
    pub fn edges_now(&self) -> Vec<Edge> {
        self.edges.now()
    }

    /// The mesh connections that the kernel is asked about.
    pub fn links(&self) -> &Links {
        &self.links
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

    /// A request was answered with `status` (0: the answer never came) after `elapsed`; `traced`: where its trace is.
    pub fn request(&self, direction: Direction, status: u16, elapsed: Duration, traced: Option<Exemplar>) {
        let class = usize::from(status / 100);
        let class = if class < STATUS_CLASSES.len() { class } else { 0 };
        self.own.requests[direction as usize][class].fetch_add(1, Relaxed);
        self.own.request_time[direction as usize].observe(elapsed, traced);
    }

    /// What a request spent on the way between two sidecars.
    pub fn link_time(&self, elapsed: Duration, traced: Option<Exemplar>) {
        self.own.link_time.observe(elapsed, traced);
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

    /// What a handshake between sidecars agreed on, and how long it took.
    pub fn mesh_negotiated(&self, side: MeshSide, agreed: Negotiated, took: Duration) {
        self.own.mesh_handshake[side as usize].observe(took, None);
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

    /// One more try of a request (`true`) or of a connection of bytes.
    pub fn retried(&self, request: bool) {
        self.own.retries[usize::from(!request)].fetch_add(1, Relaxed);
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

    /// An answer is under way, and there was no place to remember its request until it ends.
    pub fn not_followed(&self, direction: Direction) {
        self.own.not_followed[direction as usize].fetch_add(1, Relaxed);
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

    /// What is in force is the control plane's latest word from now on; `false`: not any more, or not certainly.
    pub fn control_current(&self, current: bool) {
        let mut behind = self.process.control_behind.lock().unwrap_or_else(PoisonError::into_inner);
        *behind = if current { None } else { behind.or_else(|| Some((Instant::now(), Duration::ZERO))) };
    }

    /// What is in force was its latest word so long ago.
    pub fn control_behind(&self, by: Duration) {
        let mut behind = self.process.control_behind.lock().unwrap_or_else(PoisonError::into_inner);
        *behind = Some((Instant::now(), by));
    }

    pub(super) fn control_lag(&self) -> Duration {
        let behind = *self.process.control_behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.map_or(Duration::ZERO, |(since, before)| before.saturating_add(since.elapsed()))
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

    /// Our clock minus the control plane's, when it was last asked.
    pub fn clock_skew(&self, milliseconds: i64) {
        self.process.clock_skew_ms.store(milliseconds, Relaxed);
    }

    /// So many endpoints outside fail their health check, some of them since now.
    pub fn endpoints_ejected(&self, in_all: usize, since_now: usize) {
        self.process.ejected.store(in_all as u64, Relaxed);
        self.process.ejections.fetch_add(since_now as u64, Relaxed);
    }

    /// So many decisions found no place in the flow records, in all.
    pub fn flows_dropped(&self, in_all: u64) {
        self.process.flows_dropped.store(in_all, Relaxed);
    }

    /// So many more records of refusals were gone before they were reported.
    pub fn refusals_dropped(&self, more: u64) {
        self.process.refusals_dropped.fetch_add(more, Relaxed);
    }

    /// What this proxy is, as spans say it too.
    pub fn describe(&self, resource: &[(&'static str, String)]) {
        let mut known = self.process.resource.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != resource {
            *known = resource.to_vec();
        }
    }

    /// Where the counters are pushed to from now on, if anywhere.
    pub fn push_to(&self, target: Option<PushTarget>) {
        self.process.pushed_to.send_if_modified(|current| {
            let changed = *current != target;
            *current = target;
            changed
        });
    }

    pub(super) fn pushed_to(&self) -> watch::Receiver<Option<PushTarget>> {
        self.process.pushed_to.subscribe()
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
