//! The way of spans from the workers to the exporter: in chunks of deflate. Each worker writes its spans into a chunk of its
//! own, one after the other, compresses it when it is full, while it is in the core's cache, and hands it over; what waits in
//! chunks that are not full the exporter takes away with them, so that no span waits for others, also where its worker has
//! nothing to do any more. So what goes from core to core is an eighth of what was written, and what was written stays with
//! the worker, who writes the next chunk over it.
//!
//! A worker's chunk is behind a lock that is its own: nobody else takes it but the exporter, once for each of its batches,
//! for as long as it takes to take the chunk away.
//!
//! A span wakes nobody: to wake another thread costs as much as the request that the span tells of. The exporter wakes when
//! a first span is there, and again when there is enough for a batch or its time is over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::gzip::{Id, Piece};
use super::otlp_encode::{Places, ids, write_span};
use super::span::{Span, TraceId};

/// Spans of one batch, which is a message, and the bytes after which it has enough: well under gRPC's 4 MiB. A message costs
/// the exporter, the kernel and the collector as much as some hundred spans do, most of it to wake each other.
pub(super) const BATCH: usize = 2048;
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// A chunk that has so many of either is full. No span is larger than some 16 KiB, most have less than 1.
const CHUNK: usize = BATCH / 16;
const CHUNK_BYTES: usize = 96 * 1024;
/// Bytes of spans that wait, whatever their number is; as they were before they were compressed.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Spans as they are in a message: `ScopeSpans.spans`.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) piece: Piece,
    pub(super) spans: usize,
}

/// A chunk that is being written.
#[derive(Debug, Default)]
struct Begun {
    bytes: Vec<u8>,
    spans: usize,
    ids: Vec<Id>,
    /// The trace of the last one, and where that is.
    last: Option<(TraceId, Places)>,
}

#[derive(Debug)]
struct Backlog {
    capacity: usize,
    /// Of these, with the spans in them.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    chunks: Mutex<VecDeque<Chunk>>,
    /// Every worker's own one; none where nothing was written since the last was taken away.
    begun: Mutex<Vec<Arc<Mutex<Option<Begun>>>>>,
    first: Notify,
    enough: Notify,
}

/// One worker's end.
#[derive(Debug, Clone)]
pub(super) struct Put {
    own: Arc<Mutex<Option<Begun>>>,
    backlog: Arc<Backlog>,
}

/// The exporter's end.
#[derive(Debug)]
pub(super) struct Take {
    backlog: Arc<Backlog>,
    #[cfg(test)]
    read: VecDeque<Span>,
}

/// At most `capacity` spans wait in chunks that were handed over, and a chunk beside them with each other worker.
pub(super) fn backlog(capacity: usize) -> (Put, Take) {
    let backlog = Arc::new(Backlog {
        capacity,
        waiting: 0.into(),
        waiting_bytes: 0.into(),
        chunks: Mutex::default(),
        begun: Mutex::default(),
        first: Notify::new(),
        enough: Notify::new(),
    });
    let take = Take {
        backlog: backlog.clone(),
        #[cfg(test)]
        read: VecDeque::new(),
    };
    (Put::of(backlog), take)
}

impl Put {
    fn of(backlog: Arc<Backlog>) -> Put {
        let own = Arc::default();
        lock(&backlog.begun).push(Arc::clone(&own));
        Put { own, backlog }
    }

    /// The end of another worker.
    pub(super) fn another(&self) -> Put {
        Put::of(Arc::clone(&self.backlog))
    }

    /// `false`: there was no room for it.
    pub(super) fn put(&self, span: &Span) -> bool {
        let backlog = &*self.backlog;
        let mut own = lock(&self.own);
        let room = own.as_ref().map_or(0, |own| own.spans) + backlog.waiting.load(Acquire) < backlog.capacity;
        if !room || backlog.waiting_bytes.load(Acquire) > MOST_BYTES {
            return false;
        }
        let begun = own.get_or_insert_default();
        begun.add(span);
        let is_first = begun.spans == 1;
        if begun.spans >= CHUNK || begun.bytes.len() >= CHUNK_BYTES {
            backlog.hand_over(begun.end());
        }
        drop(own);
        if is_first {
            backlog.first.notify_one();
        }
        true
    }
}

impl Begun {
    fn add(&mut self, span: &Span) {
        let at = write_span(&mut self.bytes, span);
        // Spans of one request often come one after the other.
        let before = self.last.replace((span.trace_id, at)).filter(|(trace, _)| *trace == span.trace_id);
        self.ids.extend(ids(span, at, before.map(|(_, at)| at)));
        self.spans += 1;
    }

    /// The next chunk begins where this one did.
    fn end(&mut self) -> Chunk {
        let piece = Piece::of(&self.bytes, self.ids.drain(..));
        self.bytes.clear();
        self.last = None;
        Chunk { piece, spans: std::mem::take(&mut self.spans) }
    }
}

impl Backlog {
    fn hand_over(&self, chunk: Chunk) {
        let (spans, bytes) = (chunk.spans, chunk.piece.length());
        let mut chunks = lock(&self.chunks);
        chunks.push_back(chunk);
        self.waiting_bytes.fetch_add(bytes, AcqRel);
        let before = self.waiting.fetch_add(spans, AcqRel);
        drop(chunks);
        // Whoever makes the step says so, and nobody else.
        if before < BATCH && before + spans >= BATCH {
            self.enough.notify_one();
        }
    }

    /// What the workers have begun.
    fn collect(&self) {
        let mut begun = lock(&self.begun);
        for own in begun.iter() {
            let taken = lock(own).take();
            if let Some(mut taken) = taken.filter(|taken| taken.spans > 0) {
                self.hand_over(taken.end());
            }
        }
        // The others' workers have ended.
        begun.retain(|own| Arc::strong_count(own) > 1 || has_spans(own));
    }

    fn is_empty(&self) -> bool {
        self.waiting.load(Acquire) == 0 && !lock(&self.begun).iter().any(|own| has_spans(own))
    }
}

impl Take {
    /// Waits for the first span.
    pub(super) async fn first(&mut self) {
        while self.backlog.is_empty() {
            // There is little to do: the memory is for others.
            self.backlog.collect();
            self.backlog.first.notified().await;
        }
    }

    /// Waits until there is enough for a batch without what the workers have begun.
    pub(super) async fn full(&mut self) {
        while self.backlog.waiting.load(Acquire) < BATCH {
            self.backlog.enough.notified().await;
        }
    }

    /// Adds what waits to `batch`, as far as one message goes.
    pub(super) fn take(&mut self, batch: &mut Vec<Chunk>) {
        self.backlog.collect();
        let (mut spans, mut bytes) = (0, 0);
        let mut chunks = lock(&self.backlog.chunks);
        while spans < BATCH
            && bytes < BATCH_BYTES
            && let Some(chunk) = chunks.pop_front()
        {
            (spans, bytes) = (spans + chunk.spans, bytes + chunk.piece.length());
            batch.push(chunk);
        }
        self.backlog.waiting.fetch_sub(spans, AcqRel);
        self.backlog.waiting_bytes.fetch_sub(bytes, AcqRel);
    }

    #[cfg(test)]
    pub(super) fn one(&mut self) -> Option<Span> {
        if self.read.is_empty() {
            let mut batch = Vec::new();
            self.take(&mut batch);
            self.read = batch.iter().flat_map(super::otlp_read_test::spans).collect();
        }
        self.read.pop_front()
    }
}

fn has_spans(own: &Mutex<Option<Begun>>) -> bool {
    lock(own).as_ref().is_some_and(|begun| begun.spans > 0)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "backlog_test.rs"]
mod backlog_test;
