//! Spans that are kept whatever the ratio is: of requests and connections that failed, were denied or took long. That shows
//! only at their end, and until then nothing is allocated for them: what a span needs is on the stack of whoever serves
//! the request, tries that came to nothing are in a ring of the worker's (`outbound/tries.rs`), and answers under way in
//! places of its own (`http/followed.rs`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::span::{SpanId, TraceId, micros};
use crate::reason::Reason;

/// Which ends are kept, as the control plane last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Answered by 5xx, not answered, or not to the end; a connection that reached nobody.
    pub errors: bool,
    /// Policy's no, and messages that are refused for their form.
    pub denied: bool,
    /// Until the head of the answer.
    pub slower_than: Option<Duration>,
}

/// How a request or a connection ended, as far as that decides whether it is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    pub status: u16,
    pub reason: Option<Reason>,
    /// A gRPC code other than OK, or an answer that broke.
    pub failed: bool,
    /// Of a connection nothing: most are meant to be long.
    pub took: Option<Duration>,
}

const ERRORS: u64 = 1;
const DENIED: u64 = 2;
/// The rest of the bits are microseconds; 0: no limit.
const SLOW_AT: u32 = 2;

/// Where two sidecars put what they keep of a request that nobody had decided to record, and the span that stands for the way
/// between them. Both know it without a word: from what TLS gives the two ends of their connection alone, and the stream's
/// number on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptTrace {
    pub trace_id: TraceId,
    pub span_id: SpanId,
}

impl KeptTrace {
    /// None of a stream that has no number yet.
    pub fn of(in_common: [u8; 24], stream: u32) -> Option<KeptTrace> {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&in_common[at..at + 8]);
            mixed(u64::from_be_bytes(bytes) ^ u64::from(stream))
        };
        let trace = u128::from(word(0)) << 64 | u128::from(word(8));
        let span = word(16);
        (stream != 0 && trace != 0 && span != 0)
            .then(|| KeptTrace { trace_id: TraceId(trace.to_be_bytes()), span_id: SpanId(span.to_be_bytes()) })
    }
}

/// The last step of SplitMix64: one to one, and each bit of what goes in changes about half of what comes out.
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// [`Keep`] in one word, which each request reads once.
#[derive(Debug, Default)]
pub(super) struct Rules(AtomicU64);

impl Rules {
    pub(super) fn set(&self, keep: Keep) {
        let slow = keep.slower_than.map_or(0, |limit| micros(limit).clamp(1, u64::MAX >> SLOW_AT));
        let flags = if keep.errors { ERRORS } else { 0 } | if keep.denied { DENIED } else { 0 };
        self.0.store(slow << SLOW_AT | flags, Relaxed);
    }

    /// Whether anything is.
    pub(super) fn any(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Whether anything is for how its answer's body ends.
    pub(super) fn any_at_end(&self) -> bool {
        self.0.load(Relaxed) & (ERRORS | DENIED) != 0
    }

    /// Why it is kept.
    pub(super) fn why(&self, fate: Fate) -> Option<&'static str> {
        let rules = self.0.load(Relaxed);
        // Who left inside his own request was denied nothing.
        let denied =
            fate.reason.is_some_and(|reason| matches!(reason.status(), 400..500) && reason != Reason::CallerGone);
        let failed = fate.failed || fate.status >= 500 || fate.reason.is_some_and(|reason| reason.status() >= 500);
        let limit = rules >> SLOW_AT;
        if rules & DENIED != 0 && denied {
            Some("denied")
        } else if rules & ERRORS != 0 && failed {
            Some("error")
        } else if limit > 0 && fate.took.is_some_and(|took| micros(took) >= limit) {
            Some("slow")
        } else {
            None
        }
    }
}

#[cfg(test)]
#[path = "keep_test.rs"]
mod keep_test;
