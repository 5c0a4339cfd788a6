//! One traced request for each bucket of a histogram: from a slow bucket on a dashboard to the trace that shows why. Written
//! by the one worker that owns the histogram, read at a scrape, without a lock: what is half written is left out.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::cells::BUCKETS_US;
use super::span::TraceId;

/// A request whose spans are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exemplar {
    pub trace: TraceId,
    pub at_ms: u64,
}

/// The last one of each bucket.
#[derive(Debug, Default)]
pub(super) struct Exemplars([Place; BUCKETS_US.len() + 1]);

#[derive(Debug, Default)]
struct Place {
    /// Odd while it is written; 0: nothing was.
    version: AtomicU64,
    trace: [AtomicU64; 2],
    at_ms: AtomicU64,
    us: AtomicU64,
}

impl Exemplars {
    pub(super) fn note(&self, bucket: usize, exemplar: Exemplar, us: u64) {
        let place = &self.0[bucket];
        // One of a millisecond is as good as another.
        if place.at_ms.load(Ordering::Relaxed) == exemplar.at_ms {
            return;
        }
        let version = place.version.load(Ordering::Relaxed);
        // Handles that share a cell could write at once: then one of them is as good as the other.
        let begun = version.is_multiple_of(2)
            && place.version.compare_exchange(version, version + 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !begun {
            return;
        }
        fence(Ordering::Release);
        let TraceId(id) = exemplar.trace;
        let (high, low) = id.split_at(8);
        for (to, half) in place.trace.iter().zip([high, low]) {
            to.store(half.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), Ordering::Relaxed);
        }
        place.at_ms.store(exemplar.at_ms, Ordering::Relaxed);
        place.us.store(us, Ordering::Relaxed);
        place.version.store(version + 2, Ordering::Release);
    }

    /// With how long it took, in microseconds.
    pub(super) fn read(&self, bucket: usize) -> Option<(Exemplar, u64)> {
        let place = &self.0[bucket];
        let version = place.version.load(Ordering::Acquire);
        let [high, low] = [&place.trace[0], &place.trace[1]].map(|half| half.load(Ordering::Relaxed));
        let (at_ms, us) = (place.at_ms.load(Ordering::Relaxed), place.us.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let whole = version > 0 && version.is_multiple_of(2) && place.version.load(Ordering::Relaxed) == version;
        let trace = TraceId((u128::from(high) << 64 | u128::from(low)).to_be_bytes());
        whole.then_some((Exemplar { trace, at_ms }, us))
    }
}
