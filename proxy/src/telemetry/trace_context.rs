//! W3C trace context, level 1 with level 2's random flag: continued where it is well-formed, else replaced.
//!
//! Of a trace that nobody records here, headers that are well-formed stay as they are: the caller's span remains the
//! parent that the next one names, and nothing is read from the random numbers, formatted or allocated.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::span::{Kind, Span, SpanId, TraceId};
use super::trace_state;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 0x01;
/// Level 2: at least the right-most 7 bytes of the trace id are random.
const RANDOM: u8 = 0x02;

/// Where one hop stands in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// This hop's own span; what `traceparent` names as the parent of the next.
    pub span_id: SpanId,
    /// The span that caused this one, if it is known.
    pub parent: Option<SpanId>,
    /// Whether spans of this trace are recorded here. Decided at its root; the others follow, where there is a collector.
    pub sampled: bool,
    /// Those that we know, as the next hop gets them.
    flags: u8,
    /// Vendors' entries, well-formed, passed on as they came.
    pub tracestate: Option<HeaderValue>,
    headers: Headers,
}

/// What becomes of the trace headers that a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Headers {
    /// This context's come in their place.
    Replace,
    /// They are right as they are, or there are none.
    Keep,
    /// They break a rule, and no trace begins here.
    Remove,
}

impl TraceContext {
    /// Reads `traceparent` and `tracestate`. `None`: absent, repeated, or not as the recommendation has it; a trace
    /// that cannot be read is not guessed at, and its `tracestate` means nothing without it.
    pub fn parse(headers: &HeaderMap) -> Option<TraceContext> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (parent, None) = (parents.next()?, parents.next()) else {
            return None;
        };
        let (trace_id, span_id, flags) = parse_traceparent(parent.as_bytes())?;
        Some(TraceContext {
            trace_id,
            span_id,
            parent: None,
            sampled: flags & SAMPLED != 0,
            flags: flags & (SAMPLED | RANDOM),
            tracestate: trace_state::parse(headers.get_all(TRACESTATE)),
            headers: Headers::Replace,
        })
    }

    /// The trace's id where spans of it are recorded, else nothing: nobody would find it.
    pub fn id_in_words(&self) -> String {
        if self.sampled { self.trace_id.to_string() } else { String::new() }
    }

    /// The caller's own context, read from `headers`, for a hop that records nothing.
    pub(super) fn passed_on(mut self, headers: &HeaderMap) -> TraceContext {
        let same_parent = headers.get(TRACEPARENT).is_some_and(|parent| parent.as_bytes() == self.traceparent());
        let mut states = headers.get_all(TRACESTATE).iter();
        let same_state = states.next() == self.tracestate.as_ref() && states.next().is_none();
        self.headers = if same_parent && same_state { Headers::Keep } else { Headers::Replace };
        self.sampled = false;
        self
    }

    /// No trace: the caller sent none that can be continued, and none begins here.
    pub(super) fn none(headers: &HeaderMap) -> TraceContext {
        let clean = !headers.contains_key(TRACEPARENT) && !headers.contains_key(TRACESTATE);
        let headers = if clean { Headers::Keep } else { Headers::Remove };
        let (trace_id, span_id) = (TraceId([0; 16]), SpanId([0; 8]));
        TraceContext { trace_id, span_id, parent: None, sampled: false, flags: 0, tracestate: None, headers }
    }

    /// A new trace, with random ids.
    pub fn root(sampled: bool) -> TraceContext {
        TraceContext::with_ids(TraceId::random(), SpanId::random(), sampled)
    }

    pub(super) fn with_ids(trace_id: TraceId, span_id: SpanId, sampled: bool) -> TraceContext {
        let flags = RANDOM | if sampled { SAMPLED } else { 0 };
        TraceContext { trace_id, span_id, parent: None, sampled, flags, tracestate: None, headers: Headers::Replace }
    }

    /// The next hop in the same trace: a new span id, whose parent is this one's. The same, where nothing is recorded.
    pub fn child(&self) -> TraceContext {
        if !self.sampled {
            return self.clone();
        }
        TraceContext { span_id: SpanId::random(), parent: Some(self.span_id), ..self.clone() }
    }

    /// Makes the trace headers this context's: of the message that it was read from, or of a copy of its headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        match self.headers {
            Headers::Replace => {}
            Headers::Keep => return,
            Headers::Remove => {
                headers.remove(TRACEPARENT);
                headers.remove(TRACESTATE);
                return;
            }
        }
        let parent = HeaderValue::from_bytes(&self.traceparent());
        headers.insert(TRACEPARENT, parent.unwrap_or_else(|_| unreachable!("hex and dashes are visible ASCII")));
        match &self.tracestate {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
    }

    /// This hop's span, begun at `start_ns` (see [`super::Tracer::now_ns`]), or `None` where the trace is not sampled:
    /// then nothing was allocated for it.
    pub fn span(&self, kind: Kind, name: &'static str, start_ns: u64) -> Option<Span> {
        self.sampled.then(|| Span::new(self, kind, name, start_ns))
    }

    fn traceparent(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id.0, &mut text[3..35]);
        write_hex(&self.span_id.0, &mut text[36..52]);
        write_hex(&[self.flags], &mut text[53..55]);
        text
    }
}

/// `version "-" trace-id "-" parent-id "-" flags`. Versions above 00 may go on after another dash; ff is forbidden.
fn parse_traceparent(text: &[u8]) -> Option<(TraceId, SpanId, u8)> {
    let (known, rest) = (text.get(..55)?, &text[55..]);
    let [version] = read_hex::<1>(&known[..2])?;
    let dashes = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
    let ends_well = match version {
        0x00 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !dashes || !ends_well {
        return None;
    }
    let trace_id = read_hex::<16>(&known[3..35])?;
    let span_id = read_hex::<8>(&known[36..52])?;
    let [flags] = read_hex::<1>(&known[53..55])?;
    let nonzero = trace_id != [0; 16] && span_id != [0; 8];
    nonzero.then_some((TraceId(trace_id), SpanId(span_id), flags))
}

fn read_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10), // Upper case is malformed: section 3.2.2.
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

pub(super) fn write_hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

#[cfg(test)]
#[path = "trace_context_test.rs"]
mod trace_context_test;
