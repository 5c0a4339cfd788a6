//! Where spans go: a sampling decision before anything is allocated, then one bounded queue to the exporter.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use rand::RngExt as _;
use tokio::sync::watch;

use super::access_line::Entry as AccessEntry;
use super::access_log::AccessLog;
use super::backlog::{BATCH, Put, Take, backlog};
use super::collector::Endpoint;
use super::exemplar::Exemplar;
use super::keep::{Fate, Keep, Rules};
use super::kept::{Keeping, KeptSpans, keeping};
use super::metrics::Metrics;
use super::span::{Span, SpanId, TraceId};
use super::trace_context::{Came, TraceContext};

/// Spans that wait for the exporter: compressed, some 64 bytes each, they are half a MiB of what a dead collector can cost.
const QUEUE: usize = 4 * BATCH;
/// The part of a trace id that is random in any case (level 2's flag), and that decides.
const RANDOM_PART: u64 = (1 << 56) - 1;

/// Why a span was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The exporter could not keep up.
    QueueFull,
    /// The collector could not be reached, or did not answer, in the time a batch is kept.
    ExportFailed,
    /// The collector will not have it.
    Refused,
    /// No collector is configured (any more).
    NoCollector,
}

impl DropReason {
    pub(super) const ALL: [DropReason; 4] =
        [DropReason::QueueFull, DropReason::ExportFailed, DropReason::Refused, DropReason::NoCollector];

    pub(super) const fn word(self) -> &'static str {
        match self {
            DropReason::QueueFull => "queue-full",
            DropReason::ExportFailed => "export-failed",
            DropReason::Refused => "refused",
            DropReason::NoCollector => "no-collector",
        }
    }
}

/// Where spans are sent and which, as the control plane last said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExportTarget {
    pub endpoint: Option<Endpoint>,
    /// Share of new traces that are recorded, 0 to 1. Continued traces follow their root.
    pub sampling: f64,
    /// What is recorded beside these.
    pub keep: Keep,
    /// Describes this proxy: `service.name`, `isthmus.site` and the like.
    pub resource: Vec<(Cow<'static, str>, String)>,
}

/// Hands spans to the exporter; cheap to clone, on the worker that it is of.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Worker>);

/// What one worker has for itself. A count that all workers shared would go from core to core with each request.
#[derive(Debug)]
struct Worker {
    shared: Arc<Shared>,
    queue: Put,
    metrics: Metrics,
    access: AccessLog,
}

#[derive(Debug)]
struct Shared {
    /// Share of new traces to record, of 2^56; without a collector few of them ([`Keeping`]).
    threshold: AtomicU64,
    /// Whether spans of continued traces have anywhere to go.
    exporting: std::sync::atomic::AtomicBool,
    keep: Rules,
    /// Instead of the queue, while there is no collector.
    keeping: Keeping,
    target: watch::Sender<ExportTarget>,
    clock: SpanClock,
}

/// The exporter's end: given to [`super::run_exporter`].
#[derive(Debug)]
pub struct SpanQueue {
    pub(super) spans: Take,
    pub(super) target: watch::Receiver<ExportTarget>,
    pub(super) tracer: Tracer,
    kept: Option<KeptSpans>,
}

impl SpanQueue {
    /// The end for spans that no collector gets; once.
    pub fn take_kept(&mut self) -> Option<KeptSpans> {
        self.kept.take()
    }
}

#[cfg(test)]
impl SpanQueue {
    pub(crate) fn take(&mut self) -> Option<Span> {
        self.spans.one()
    }
}

impl Tracer {
    /// A tracer that records nothing until [`Tracer::configure`] names a collector, and the queue's other end.
    pub fn new(metrics: &Metrics) -> (Tracer, SpanQueue) {
        Tracer::with_capacity(metrics, QUEUE)
    }

    pub(super) fn with_capacity(metrics: &Metrics, capacity: usize) -> (Tracer, SpanQueue) {
        let (queue, spans) = backlog(capacity);
        let (target, target_seen) = watch::channel(ExportTarget::default());
        let ((keeping, kept), clock) = (keeping(), SpanClock::start());
        let (threshold, exporting, keep) = (0.into(), false.into(), Rules::default());
        let shared = Arc::new(Shared { threshold, exporting, keep, keeping, target, clock });
        let worker = Worker { shared, queue, metrics: metrics.clone(), access: AccessLog::default() };
        let tracer = Tracer(Arc::new(worker));
        (tracer.clone(), SpanQueue { spans, target: target_seen, tracer, kept: Some(kept) })
    }

    /// The handle for a worker, which counts drops in that worker's cell.
    pub fn for_worker(&self, metrics: &Metrics) -> Tracer {
        let (shared, queue) = (self.0.shared.clone(), self.0.queue.another());
        Tracer(Arc::new(Worker { shared, queue, metrics: metrics.clone(), access: self.0.access.clone() }))
    }

    /// The same with an access log, for those that are made of it.
    pub fn with_access_log(self, access: AccessLog) -> Tracer {
        let (shared, queue, metrics) = (self.0.shared.clone(), self.0.queue.clone(), self.0.metrics.clone());
        Tracer(Arc::new(Worker { shared, queue, metrics, access }))
    }

    /// Whether [`Tracer::tell`] wants to know of requests.
    pub fn tells(&self) -> bool {
        self.0.access.is_on()
    }

    /// Tells the access log of a request that has its answer.
    pub fn tell(&self, entry: &AccessEntry<'_>) {
        self.0.access.tell(entry, &self.0.metrics);
    }

    /// Takes up a new collector or sampling ratio, from now on.
    pub fn configure(&self, target: ExportTarget) {
        let exporting = target.endpoint.is_some();
        let ratio = target.sampling.clamp(0.0, 1.0);
        // NaN ends as 0 here: `as` saturates.
        self.0.shared.threshold.store((ratio * (1u64 << 56) as f64) as u64, Relaxed);
        self.0.shared.exporting.store(exporting, Relaxed);
        self.0.shared.keep.set(target.keep);
        self.0.shared.target.send_if_modified(|current| {
            let changed = *current != target;
            *current = target;
            changed
        });
    }

    /// A context for a connection or request that brought none: its own span will have no parent.
    pub fn root(&self) -> TraceContext {
        self.root_at(None)
    }

    /// The same, by a service's own ratio in millionths.
    pub fn root_at(&self, ratio: Option<u32>) -> TraceContext {
        self.begin(|| ratio).unwrap_or_else(TraceContext::none)
    }

    /// Whether [`Tracer::keeps`] may say yes: else nothing has to be remembered for it.
    pub fn may_keep(&self) -> bool {
        self.0.shared.keep.any() && self.records()
    }

    /// Whether it may say so of how an answer's body ends.
    pub fn may_keep_at_end(&self) -> bool {
        self.0.shared.keep.any_at_end() && self.records()
    }

    /// Whether what nobody had decided to record is recorded for how it ended, and by which rule.
    pub fn keeps(&self, fate: Fate) -> Option<&'static str> {
        self.0.shared.keep.why(fate).filter(|_| self.records())
    }

    /// This hop's own context. Where the caller sent a usable `traceparent` or B3, a child of it if it is recorded here, else
    /// the caller's own, unchanged. Else a root without a parent (a child of a root that nobody records would have a
    /// parent missing from the trace) for the share of requests that is sampled, and for the others none: an app that
    /// traces may begin one of its own.
    ///
    /// `ratio`: of new traces, in millionths, where the service that is called has one of its own; asked only where a
    /// trace may begin.
    pub fn hop_at(&self, headers: &HeaderMap, ratio: impl FnOnce() -> Option<u32>) -> TraceContext {
        let caller = match TraceContext::read(headers) {
            Came::Context { context, decided } => return self.continued(headers, context, decided, ratio),
            // Whoever sent this has decided, and has no trace yet.
            Came::Decision(false, _) => return TraceContext::none_of(headers),
            Came::Decision(true, form) if self.goes_on() => return TraceContext::root(true).in_b3(form),
            other => other,
        };
        match (self.begin(ratio), caller) {
            (Some(begun), Came::Nothing) => begun.alone(),
            (Some(begun), _) => begun,
            (None, Came::Nothing) => TraceContext::none(),
            (None, _) => TraceContext::none_of(headers),
        }
    }

    /// The same by the mesh's own ratio.
    pub fn hop(&self, headers: &HeaderMap) -> TraceContext {
        self.hop_at(headers, || None)
    }

    /// The same for what a sidecar sent: without a trace it has decided against one already.
    pub fn next_hop(&self, headers: &HeaderMap) -> TraceContext {
        match TraceContext::read(headers) {
            Came::Context { context, decided } => self.continued(headers, context, decided, || None),
            Came::Nothing => TraceContext::none(),
            Came::Decision(..) | Came::Malformed => TraceContext::none_of(headers),
        }
    }

    /// A trace that came, from a `caller` who may have `decided` whether it is recorded.
    fn continued(
        &self,
        headers: &HeaderMap,
        caller: TraceContext,
        decided: bool,
        ratio: impl FnOnce() -> Option<u32>,
    ) -> TraceContext {
        let recorded = match decided {
            true => caller.sampled && self.goes_on(),
            false => self.samples(caller.trace_id, ratio),
        };
        match (recorded, decided) {
            (true, true) => caller.child(),
            (true, false) => caller.recorded().child(),
            (false, true) => caller.passed_on(headers),
            (false, false) => caller.declined(),
        }
    }

    /// A new trace, for the share of requests that is recorded. For all others this is one number drawn, and where nobody
    /// takes spans not even that; the rest of the ids is drawn for those that are recorded.
    fn begin(&self, ratio: impl FnOnce() -> Option<u32>) -> Option<TraceContext> {
        if !self.0.shared.exporting.load(Relaxed) && !self.0.shared.keeping.could_begin() {
            return None;
        }
        let threshold = self.threshold(ratio());
        if threshold == 0 {
            return None;
        }
        let drawn = rand::rng().random::<u64>();
        (drawn & RANDOM_PART < threshold && self.may_begin())
            .then(|| TraceContext::with_ids(TraceId::ending(drawn), SpanId::random(), true))
    }

    /// Decides by the trace id's random part, so that proxies with the same ratio decide alike.
    fn samples(&self, trace_id: TraceId, ratio: impl FnOnce() -> Option<u32>) -> bool {
        let TraceId([.., a, b, c, d, e, f, g]) = trace_id;
        self.records() && u64::from_be_bytes([0, a, b, c, d, e, f, g]) < self.threshold(ratio()) && self.may_begin()
    }

    /// Of a service's own ratio in millionths, else the mesh's: at most 2^56, for all of them.
    fn threshold(&self, ratio: Option<u32>) -> u64 {
        match ratio {
            Some(millionths) => u64::try_from((u128::from(millionths) << 56) / 1_000_000).unwrap_or(u64::MAX),
            None => self.0.shared.threshold.load(Relaxed),
        }
    }

    fn may_begin(&self) -> bool {
        self.0.shared.exporting.load(Relaxed) || self.0.shared.keeping.may_begin()
    }

    /// Whether a trace that a caller records is recorded here too.
    fn goes_on(&self) -> bool {
        self.0.shared.exporting.load(Relaxed) || self.0.shared.keeping.may_go_on()
    }

    /// Whether anything is recorded at all.
    fn records(&self) -> bool {
        self.0.shared.exporting.load(Relaxed) || self.0.shared.keeping.is_wanted()
    }

    /// Hands a finished span over. Never waits: what does not fit is dropped and counted.
    pub fn record(&self, mut span: Span) {
        span.end_ns = span.end_ns.max(span.start_ns);
        let taken = match self.0.shared.exporting.load(Relaxed) {
            true => self.0.queue.put(&span),
            false if self.0.shared.keeping.is_wanted() => self.0.shared.keeping.keep(span),
            false => return self.0.metrics.spans_dropped(DropReason::NoCollector, 1),
        };
        if !taken {
            self.0.metrics.spans_dropped(DropReason::QueueFull, 1);
        }
    }

    /// Unix time in nanoseconds for spans: never steps back between two readings unless the wall clock was set.
    pub fn now_ns(&self) -> u64 {
        self.0.shared.clock.now_ns()
    }

    /// The same of a moment that was noted before. Reads no clock.
    pub fn at_ns(&self, moment: Instant) -> u64 {
        self.0.shared.clock.at_ns(moment)
    }

    /// Where a latency's trace is, for the metrics; nothing where spans of it are not recorded.
    pub fn exemplar(&self, trace: &TraceContext, at: Instant) -> Option<Exemplar> {
        trace.sampled.then(|| Exemplar { trace: trace.trace_id, at_ms: self.at_ns(at) / 1_000_000 })
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn realign_clock(&self) {
        self.0.shared.clock.realign();
    }
}

/// Wall time by the monotonic clock: one cheap reading, and durations within a trace that no clock step can bend.
#[derive(Debug)]
struct SpanClock {
    base: Instant,
    /// Unix time at `base`.
    offset_ns: AtomicI64,
}

impl SpanClock {
    fn start() -> SpanClock {
        let clock = SpanClock { base: Instant::now(), offset_ns: 0.into() };
        clock.realign();
        clock
    }

    fn now_ns(&self) -> u64 {
        self.at_ns(Instant::now())
    }

    fn at_ns(&self, moment: Instant) -> u64 {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let since = match moment.checked_duration_since(self.base) {
            Some(after) => nanos(after),
            None => -nanos(self.base.saturating_duration_since(moment)),
        };
        u64::try_from(self.offset_ns.load(Relaxed).saturating_add(since)).unwrap_or(0)
    }

    /// Follows the wall clock where it was set; done between batches, not per span.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where span times meet the wall clock; no decision hangs on it"
    )]
    fn realign(&self) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let offset = i64::try_from(wall)
            .unwrap_or(i64::MAX)
            .saturating_sub(i64::try_from(self.base.elapsed().as_nanos()).unwrap_or(i64::MAX));
        self.offset_ns.store(offset, Relaxed);
    }
}

#[cfg(test)]
#[path = "tracer_test.rs"]
mod tracer_test;
