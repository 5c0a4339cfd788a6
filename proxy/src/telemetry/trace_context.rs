//! W3C trace context, level 1 with level 2's random flag: continued where it is well-formed, else replaced.

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
    /// Whether spans of this trace are recorded. Decided at its root; the others follow.
    pub sampled: bool,
    random: bool,
    /// Vendors' entries, well-formed, passed on as they came.
    pub tracestate: Option<HeaderValue>,
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
            random: flags & RANDOM != 0,
            tracestate: trace_state::parse(headers.get_all(TRACESTATE)),
        })
    }

    /// A new trace, with random ids.
    pub fn root(sampled: bool) -> TraceContext {
        TraceContext::with_ids(TraceId::random(), SpanId::random(), sampled)
    }

    pub(super) fn with_ids(trace_id: TraceId, span_id: SpanId, sampled: bool) -> TraceContext {
        TraceContext { trace_id, span_id, parent: None, sampled, random: true, tracestate: None }
    }

    /// The next hop in the same trace: a new span id, whose parent is this one's.
    pub fn child(&self) -> TraceContext {
        TraceContext { span_id: SpanId::random(), parent: Some(self.span_id), ..self.clone() }
    }

    /// Replaces whatever trace headers are there with this context's.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.traceparent());
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

    fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id.0, &mut text[3..35]);
        write_hex(&self.span_id.0, &mut text[36..52]);
        let flags = if self.sampled { SAMPLED } else { 0 } | if self.random { RANDOM } else { 0 };
        write_hex(&[flags], &mut text[53..55]);
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| unreachable!("hex and dashes are visible ASCII"))
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
