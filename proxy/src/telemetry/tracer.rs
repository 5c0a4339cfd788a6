//! Where spans go: a sampling decision before anything is allocated, then one bounded queue to the exporter.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tokio::sync::{mpsc, watch};

use super::access_line::Entry as AccessEntry;
use super::access_log::AccessLog;
use super::b3;
use super::body_span::BodySpan;
use super::collector::Endpoint;
use super::exemplar::Exemplar;
use super::keep::{Fate, Keep, Rules};
use super::kept::{Keeping, KeptSpans, keeping};
use super::metrics::Metrics;
use super::span::{Span, SpanId, TraceId};
use super::trace_context::{Came, TraceContext};

/// Spans that wait for the exporter. At about 2 KiB each this is the most memory that a dead collector can cost.
const QUEUE: usize = 4096;

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

/// Hands spans to the exporter; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    shared: Arc<Shared>,
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
    queue: mpsc::Sender<Span>,
    /// Instead of it, while there is no collector.
    keeping: Keeping,
    target: watch::Sender<ExportTarget>,
    clock: SpanClock,
}

/// The exporter's end: given to [`super::run_exporter`].
#[derive(Debug)]
pub struct SpanQueue {
    pub(super) spans: mpsc::Receiver<Span>,
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
        self.spans.try_recv().ok()
    }
}

impl Tracer {
    /// A tracer that records nothing until [`Tracer::configure`] names a collector, and the queue's other end.
    pub fn new(metrics: &Metrics) -> (Tracer, SpanQueue) {
        Tracer::with_capacity(metrics, QUEUE)
    }

    pub(super) fn with_capacity(metrics: &Metrics, capacity: usize) -> (Tracer, SpanQueue) {
        let (queue, spans) = mpsc::channel(capacity);
        let (target, target_seen) = watch::channel(ExportTarget::default());
        let ((keeping, kept), clock) = (keeping(), SpanClock::start());
        let (threshold, exporting, keep) = (0.into(), false.into(), Rules::default());
        let shared = Shared { threshold, exporting, keep, queue, keeping, target, clock };
        let tracer = Tracer { shared: Arc::new(shared), metrics: metrics.clone(), access: AccessLog::default() };
        (tracer.clone(), SpanQueue { spans, target: target_seen, tracer, kept: Some(kept) })
    }

    /// The handle for a worker, which counts drops in that worker's cell.
    pub fn for_worker(&self, metrics: &Metrics) -> Tracer {
        Tracer { shared: self.shared.clone(), metrics: metrics.clone(), access: self.access.clone() }
    }

    /// The same with an access log, for those that are made of it.
    pub fn with_access_log(self, access: AccessLog) -> Tracer {
        Tracer { access, ..self }
    }

    /// Whether [`Tracer::tell`] wants to know of requests.
    pub fn tells(&self) -> bool {
        self.access.is_on()
    }

    /// Tells the access log of a request that has its answer.
    pub fn tell(&self, entry: &AccessEntry<'_>) {
        self.access.tell(entry, &self.metrics);
    }

    /// Takes up a new collector or sampling ratio, from now on.
    pub fn configure(&self, target: ExportTarget) {
        let exporting = target.endpoint.is_some();
        let ratio = target.sampling.clamp(0.0, 1.0);
        // NaN ends as 0 here: `as` saturates.
        self.shared.threshold.store((ratio * (1u64 << 56) as f64) as u64, Relaxed);
        self.shared.exporting.store(exporting, Relaxed);
        self.shared.keep.set(target.keep);
        self.shared.target.send_if_modified(|current| {
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
        let trace_id = TraceId::random();
        TraceContext::with_ids(trace_id, SpanId::random(), self.samples(trace_id, ratio))
    }

    /// Whether [`Tracer::keeps`] may say yes: else nothing has to be remembered for it.
    pub fn may_keep(&self) -> bool {
        self.shared.keep.any() && self.records()
    }

    /// Whether what nobody had decided to record is recorded for how it ended, and by which rule.
    pub fn keeps(&self, fate: Fate) -> Option<&'static str> {
        self.shared.keep.why(fate).filter(|_| self.records())
    }

    /// This hop's own context. Where the caller sent a usable `traceparent` or B3, a child of it if it is recorded here, else
    /// the caller's own, unchanged. Else a root without a parent (a child of a root that nobody records would have a
    /// parent missing from the trace) for the share of requests that is sampled, and for the others none: an app that
    /// traces may begin one of its own.
    ///
    /// `ratio`: of new traces, in millionths, where the service that is called has one of its own; asked only where a
    /// trace may begin.
    pub fn hop_at(&self, headers: &HeaderMap, ratio: impl FnOnce() -> Option<u32>) -> TraceContext {
        let ratio = || if self.records() { ratio() } else { None };
        let ratio = LazyCell::new(ratio);
        match self.continued(headers, || *ratio) {
            Ok(context) => context,
            // Whoever sent this has decided, and has no trace yet.
            Err(Some((false, _))) => TraceContext::none(headers),
            Err(Some((true, form))) if self.goes_on() => {
                TraceContext::with_ids(TraceId::random(), SpanId::random(), true).in_b3(form)
            }
            Err(_) => {
                let trace_id = TraceId::random();
                match self.samples(trace_id, *ratio) {
                    true => TraceContext::with_ids(trace_id, SpanId::random(), true),
                    false => TraceContext::none(headers),
                }
            }
        }
    }

    /// The same by the mesh's own ratio.
    pub fn hop(&self, headers: &HeaderMap) -> TraceContext {
        self.hop_at(headers, || None)
    }

    /// The same for what a sidecar sent: without a trace it has decided against one already.
    pub fn next_hop(&self, headers: &HeaderMap) -> TraceContext {
        self.continued(headers, || None).unwrap_or_else(|_| TraceContext::none(headers))
    }

    /// A trace that came; else whether its sender has decided to record one, and how it would write it.
    fn continued(
        &self,
        headers: &HeaderMap,
        ratio: impl FnOnce() -> Option<u32>,
    ) -> Result<TraceContext, Option<(bool, b3::Form)>> {
        let (caller, decided) = match TraceContext::read(headers) {
            Came::Context { context, decided } => (context, decided),
            Came::Decision(sampled, form) => return Err(Some((sampled, form))),
            Came::Nothing => return Err(None),
        };
        let recorded = match decided {
            true => caller.sampled && self.goes_on(),
            false => self.samples(caller.trace_id, ratio()),
        };
        Ok(match (recorded, decided) {
            (true, true) => caller.child(),
            (true, false) => caller.recorded().child(),
            (false, true) => caller.passed_on(headers),
            (false, false) => caller.declined(),
        })
    }

    /// Decides by the trace id's random part, so that proxies with the same ratio decide alike.
    fn samples(&self, trace_id: TraceId, ratio: Option<u32>) -> bool {
        let TraceId([.., a, b, c, d, e, f, g]) = trace_id;
        let threshold = match ratio {
            // At most 2^56, for all of them.
            Some(millionths) => u64::try_from((u128::from(millionths) << 56) / 1_000_000).unwrap_or(u64::MAX),
            None => self.shared.threshold.load(Relaxed),
        };
        u64::from_be_bytes([0, a, b, c, d, e, f, g]) < threshold
            && (self.shared.exporting.load(Relaxed) || self.shared.keeping.may_begin())
    }

    /// Whether a trace that a caller records is recorded here too.
    fn goes_on(&self) -> bool {
        self.shared.exporting.load(Relaxed) || self.shared.keeping.may_go_on()
    }

    /// Whether anything is recorded at all.
    fn records(&self) -> bool {
        self.shared.exporting.load(Relaxed) || self.shared.keeping.is_wanted()
    }

    /// A span that ends with the body of its answer.
    pub fn body_span(&self, span: Span) -> BodySpan {
        BodySpan::new(self, span)
    }

    /// Hands a finished span over. Never waits: what does not fit is dropped and counted.
    pub fn record(&self, mut span: Span) {
        span.end_ns = span.end_ns.max(span.start_ns);
        let taken = match self.shared.exporting.load(Relaxed) {
            true => self.shared.queue.try_send(span).is_ok(),
            false if self.shared.keeping.is_wanted() => self.shared.keeping.keep(span),
            false => return self.metrics.spans_dropped(DropReason::NoCollector, 1),
        };
        if !taken {
            self.metrics.spans_dropped(DropReason::QueueFull, 1);
        }
    }

    /// Unix time in nanoseconds for spans: never steps back between two readings unless the wall clock was set.
    pub fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// The same of a moment that was noted before: what is not recorded in the end has read no clock for it.
    pub fn at_ns(&self, moment: Instant) -> u64 {
        self.now_ns().saturating_sub(u64::try_from(moment.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Where a latency's trace is, for the metrics; nothing where spans of it are not recorded.
    pub fn exemplar(&self, trace: &TraceContext) -> Option<Exemplar> {
        trace.sampled.then(|| Exemplar { trace: trace.trace_id, at_ms: self.now_ns() / 1_000_000 })
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn realign_clock(&self) {
        self.shared.clock.realign();
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
        let elapsed = i64::try_from(self.base.elapsed().as_nanos()).unwrap_or(i64::MAX);
        u64::try_from(self.offset_ns.load(Relaxed).saturating_add(elapsed)).unwrap_or(0)
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
