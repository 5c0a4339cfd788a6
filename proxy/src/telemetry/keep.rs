//! Spans that are kept whatever the ratio is: of requests and connections that failed, were denied or took long. That shows
//! only at their end, and until then nothing is allocated for them: what a span needs is on the stack of whoever serves
//! the request, and tries that came to nothing are in a ring of the worker's (`outbound/tries.rs`).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::span::{SpanId, TraceId, micros};
use super::trace_context::read_hex;
use crate::reason::Reason;

/// Which ends are kept, as the control plane last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Answered by 5xx, or not answered; a connection that was reset.
    pub errors: bool,
    /// Policy's no.
    pub denied: bool,
    /// Until the head of the answer.
    pub slower_than: Option<Duration>,
}

/// How a request or a connection ended, as far as that decides whether it is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    pub status: u16,
    pub reason: Option<Reason>,
    /// A gRPC code other than OK in the answer's head, or a connection that broke.
    pub failed: bool,
    /// Of a connection nothing: most are meant to be long.
    pub took: Option<Duration>,
}

const ERRORS: u64 = 1;
const DENIED: u64 = 2;
/// The rest of the bits are microseconds; 0: no limit.
const SLOW_AT: u32 = 2;

/// What the callee's sidecar tells the caller's of a request that it has kept: the trace that it put it in, and the span
/// that it took for the caller's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptTrace {
    pub trace_id: TraceId,
    pub span_id: SpanId,
}

impl KeptTrace {
    /// 32 hexadecimal digits, a dash, 16 more.
    pub fn parse(text: &[u8]) -> Option<KeptTrace> {
        let (trace, span) = (text.get(..32)?, text.get(33..)?);
        let (trace, span) = (read_hex::<16>(trace)?, read_hex::<8>(span).filter(|_| span.len() == 16)?);
        (text[32] == b'-' && trace != [0; 16] && span != [0; 8])
            .then_some(KeptTrace { trace_id: TraceId(trace), span_id: SpanId(span) })
    }
}

impl fmt::Display for KeptTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.trace_id, self.span_id)
    }
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

    /// Why it is kept.
    pub(super) fn why(&self, fate: Fate) -> Option<&'static str> {
        let rules = self.0.load(Relaxed);
        let denied = fate.reason.is_some_and(|reason| reason.status() == 403);
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
