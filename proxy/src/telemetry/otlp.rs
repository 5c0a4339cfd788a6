//! Takes spans from the queue, in batches, to an OTLP collector (see [`super::collector`]). Runs on the control runtime.
//!
//! A collector that is slow, dead or absent costs no request anything and a bounded amount of memory: the queue and one
//! batch. What cannot be delivered in that bound is dropped and counted by reason.

use std::iter;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::tcp::DialOptions;

use super::backlog::Chunk;
use super::collector::{Collector, Delivery, Message, Signal};
use super::gzip::Piece;
use super::otlp_encode::head;
use super::tracer::{DropReason, ExportTarget, SpanQueue};

/// How long the first span of a batch waits for company.
const LINGER: Duration = Duration::from_millis(250);
/// One attempt, connecting included.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Attempts per batch before it is given up, with back-off between them.
const ATTEMPTS: u32 = 4;
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// What stopping may take: the last spans are worth one short attempt.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// Exports until `shutdown`, then flushes once and ends.
pub async fn run_exporter(queue: SpanQueue, options: DialOptions, shutdown: CancellationToken) {
    let mut exporter = Exporter { queue, options, shutdown, collector: None, batch: Vec::new() };
    loop {
        let stop = exporter.shutdown.clone();
        tokio::select! {
            () = stop.cancelled() => break,
            () = exporter.gather() => {}
        }
        exporter.queue.tracer.realign_clock();
        exporter.deliver().await;
    }
    exporter.flush_last().await;
}

struct Exporter {
    queue: SpanQueue,
    options: DialOptions,
    shutdown: CancellationToken,
    collector: Option<Collector>,
    /// Taken from the queue, not delivered yet.
    batch: Vec<Chunk>,
}

impl Exporter {
    /// Waits for a span, then for as many as come within [`LINGER`].
    async fn gather(&mut self) {
        self.queue.spans.first().await;
        let _ = timeout(LINGER, self.queue.spans.full()).await;
        self.queue.spans.take(&mut self.batch);
    }

    /// Sends the batch, with back-off between attempts; leaves it empty, delivered or not.
    async fn deliver(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut backoff = BACKOFF_FIRST;
        let mut written: Option<(Message, ExportTarget)> = None;
        let stop = self.shutdown.clone();
        for attempt in 1..=ATTEMPTS {
            let target = self.queue.target.borrow_and_update().clone();
            if written.as_ref().is_none_or(|(_, of)| of.resource != target.resource) {
                written = Some((message(&target, &self.batch), target.clone()));
            }
            let collector = opened(&mut self.collector, &target, self.options);
            let (Some((message, _)), Some(collector)) = (&written, collector) else {
                return self.give_up(DropReason::NoCollector);
            };
            let outcome = tokio::select! {
                outcome = collector.deliver(message) => outcome,
                () = too_long(&stop) => {
                    // Whatever it still says would be of this attempt.
                    self.collector = None;
                    Delivery::Later("no answer in time".to_owned(), None)
                }
            };
            let (why, asked) = match outcome {
                Delivery::Taken(rejected) => return self.delivered(rejected),
                Delivery::Refused(why) => {
                    tracing::warn!(why, "the OTLP collector refused a batch of spans; it is dropped");
                    return self.give_up(DropReason::Refused);
                }
                Delivery::Later(why, asked) => (why, asked),
            };
            if attempt == 1 {
                tracing::warn!(why, "spans cannot be exported; check that the OTLP collector runs and listens there");
            }
            let pause = backoff.mul_f64(rand::rng().random_range(0.5..1.0)).max(asked.unwrap_or_default());
            backoff = (backoff * 2).min(BACKOFF_MOST);
            if !self.wait_or_new_target(pause).await {
                break;
            }
        }
        self.give_up(DropReason::ExportFailed);
    }

    /// Whether to try again. A new collector is tried at once, not when the old one's back-off ends.
    async fn wait_or_new_target(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = sleep(pause) => true,
            Ok(()) = self.queue.target.changed() => true,
        }
    }

    async fn flush_last(&mut self) {
        let deadline = Instant::now() + LAST_FLUSH;
        loop {
            self.queue.spans.take(&mut self.batch);
            if self.batch.is_empty() {
                return;
            }
            if timeout_at(deadline, self.deliver()).await.is_err() {
                return self.give_up(DropReason::ExportFailed);
            }
        }
    }

    fn delivered(&mut self, rejected: u64) {
        let (metrics, sent) = (self.queue.tracer.metrics(), self.spans());
        let rejected = rejected.min(sent);
        metrics.spans_exported(sent - rejected);
        metrics.spans_dropped(DropReason::Refused, rejected);
        self.batch.clear();
    }

    fn give_up(&mut self, reason: DropReason) {
        self.queue.tracer.metrics().spans_dropped(reason, self.spans());
        self.batch.clear();
    }

    fn spans(&self) -> u64 {
        self.batch.iter().map(|chunk| chunk.spans as u64).sum()
    }
}

/// What one batch that waits now is as a message; empty where none waits. For who counts what that costs.
pub fn one_message(queue: &mut SpanQueue) -> Vec<u8> {
    let (mut batch, mut out) = (Vec::new(), Vec::new());
    queue.spans.take(&mut batch);
    if !batch.is_empty() {
        message(&queue.target.borrow_and_update(), &batch).write(true, &mut out);
    }
    out
}

fn message(target: &ExportTarget, batch: &[Chunk]) -> Message {
    let spans = batch.iter().map(|chunk| chunk.piece.length()).sum();
    let head = Piece::of(&head(&target.resource, spans), []);
    Message::of(iter::once(&head).chain(batch.iter().map(|chunk| &chunk.piece)))
}

/// The one that is configured now.
fn opened<'c>(
    known: &'c mut Option<Collector>,
    target: &ExportTarget,
    options: DialOptions,
) -> Option<&'c mut Collector> {
    let at = target.endpoint.as_ref()?;
    if known.as_ref().is_none_or(|known| known.at != *at) {
        *known = Some(Collector::new(at.clone(), Signal::Traces, options));
    }
    known.as_mut()
}

/// One attempt's time; less when the proxy is stopping.
async fn too_long(shutdown: &CancellationToken) {
    let stopping = async {
        shutdown.cancelled().await;
        sleep(LAST_FLUSH).await;
    };
    tokio::select! {
        () = sleep(ATTEMPT) => {}
        () = stopping => {}
    }
}

#[cfg(test)]
#[path = "otlp_peers_test.rs"]
mod otlp_peers_test;
#[cfg(test)]
#[path = "otlp_test.rs"]
mod otlp_test;
