//! W3C trace context, level 1 with level 2's random flag: continued where it is well-formed, else replaced. Where there
//! is none, B3 (see [`super::b3`]) is continued likewise.
//!
//! Of a trace that nobody records here, headers that are well-formed stay as they are: the caller's span remains the
//! parent that the next one names, and nothing is read from the random numbers, formatted or allocated.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use isthmus_proto::model::B3Headers;

use super::b3::{self, Said};
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
    /// B3 is written as well, in this form.
    b3: Option<b3::Form>,
    headers: Headers,
}

/// What a message says of a trace.
#[derive(Debug)]
pub(super) enum Came {
    /// One that can be continued; `decided`: whether its sender said if it is recorded.
    Context {
        context: TraceContext,
        decided: bool,
    },
    /// Whether to record, and no trace (B3 alone can say so).
    Decision(bool, b3::Form),
    /// What breaks a rule.
    Malformed,
    Nothing,
}

/// What becomes of the trace headers that a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Headers {
    /// This context's come in their place.
    Replace,
    /// The same, and there are none but perhaps `traceparent`.
    ReplaceParent,
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
        let tracestate = trace_state::parse(headers.get_all(TRACESTATE));
        Some(TraceContext { tracestate, ..TraceContext::of_parent(parent)? })
    }

    fn of_parent(parent: &HeaderValue) -> Option<TraceContext> {
        let (trace_id, span_id, flags) = parse_traceparent(parent.as_bytes())?;
        let context = TraceContext::with_ids(trace_id, span_id, flags & SAMPLED != 0);
        Some(TraceContext { flags: flags & (SAMPLED | RANDOM), ..context })
    }

    /// Reads whatever form of trace headers there is; W3C's comes first.
    pub(super) fn read(headers: &HeaderMap) -> Came {
        // One pass over the names: most messages have none of these, and a look-up of each would cost more.
        let (mut parents, mut others, mut parent) = (0, false, None);
        for (name, value) in headers {
            if name == TRACEPARENT {
                (parents, parent) = (parents + 1, Some(value));
            } else {
                others |= name == TRACESTATE || b3::is_b3(name);
            }
        }
        match parent {
            None if !others => return Came::Nothing,
            Some(parent) if parents == 1 && !others => {
                let context = TraceContext::of_parent(parent).map(TraceContext::alone);
                return context.map_or(Came::Malformed, |context| Came::Context { context, decided: true });
            }
            _ => {}
        }
        let b3 = b3::read(headers);
        if let Some(context) = TraceContext::parse(headers) {
            let context = TraceContext { b3: b3.form(), ..context };
            return Came::Context { context, decided: true };
        }
        match b3 {
            Said::Ids(ids) => {
                let sampled = ids.sampled == Some(true);
                let context = TraceContext::with_ids(ids.trace_id, ids.span_id, sampled);
                // Nothing is known of how its id was made.
                let flags = if sampled { SAMPLED } else { 0 };
                let context = TraceContext { flags, b3: Some(ids.form), ..context };
                Came::Context { context, decided: ids.sampled.is_some() }
            }
            Said::Decision(sampled, form) => Came::Decision(sampled, form),
            Said::Nothing | Said::Malformed => Came::Malformed,
        }
    }

    /// The trace's id where spans of it are recorded, else nothing: nobody would find it.
    pub fn id_in_words(&self) -> String {
        if self.sampled { self.trace_id.to_string() } else { String::new() }
    }

    /// The caller's own context, read from `headers`, for a hop that records nothing.
    pub(super) fn passed_on(mut self, headers: &HeaderMap) -> TraceContext {
        let same = match headers.get(TRACEPARENT) {
            Some(parent) => parent.as_bytes() == self.traceparent(),
            None => self.b3.is_some(),
        };
        let mut states = headers.get_all(TRACESTATE).iter();
        let same_state = states.next() == self.tracestate.as_ref() && states.next().is_none();
        let good_b3 = b3::read(headers) != Said::Malformed;
        self.headers = if same && same_state && good_b3 { Headers::Keep } else { Headers::Replace };
        self.sampled = false;
        self
    }

    /// The sender left the decision to us, and we have decided against it: who comes next must not decide again.
    pub(super) fn declined(mut self) -> TraceContext {
        (self.headers, self.sampled) = (Headers::Replace, false);
        self
    }

    /// No trace: the caller sent nothing of one, and none begins here.
    pub(super) fn none() -> TraceContext {
        let (trace_id, span_id, headers) = (TraceId([0; 16]), SpanId([0; 8]), Headers::Keep);
        TraceContext { trace_id, span_id, parent: None, sampled: false, flags: 0, tracestate: None, b3: None, headers }
    }

    /// The same, where the caller sent something that is no trace: what breaks a rule is not passed on.
    pub(super) fn none_of(headers: &HeaderMap) -> TraceContext {
        let clean = !headers.contains_key(TRACEPARENT)
            && !headers.contains_key(TRACESTATE)
            && matches!(b3::read(headers), Said::Nothing | Said::Decision(..));
        TraceContext { headers: if clean { Headers::Keep } else { Headers::Remove }, ..TraceContext::none() }
    }

    /// A new trace, with random ids.
    pub fn root(sampled: bool) -> TraceContext {
        TraceContext::with_ids(TraceId::random(), SpanId::random(), sampled)
    }

    pub(super) fn with_ids(trace_id: TraceId, span_id: SpanId, sampled: bool) -> TraceContext {
        let flags = RANDOM | if sampled { SAMPLED } else { 0 };
        let (parent, tracestate, b3) = (None, None, None);
        TraceContext { trace_id, span_id, parent, sampled, flags, tracestate, b3, headers: Headers::Replace }
    }

    /// To be written where there is no `tracestate` and no B3.
    pub(super) fn alone(mut self) -> TraceContext {
        self.headers = Headers::ReplaceParent;
        self
    }

    /// The sender left the decision to us.
    pub(super) fn recorded(mut self) -> TraceContext {
        (self.sampled, self.flags) = (true, self.flags | SAMPLED);
        self
    }

    /// Writes B3 as well.
    pub(super) fn in_b3(mut self, form: b3::Form) -> TraceContext {
        self.b3 = Some(form);
        self
    }

    /// The next hop in the same trace: a new span id, whose parent is this one's. The same, where nothing is recorded.
    pub fn child(&self) -> TraceContext {
        if !self.sampled {
            return self.clone();
        }
        self.child_at(SpanId::random())
    }

    /// The same with a span id that was drawn before.
    pub fn child_at(&self, span_id: SpanId) -> TraceContext {
        TraceContext { span_id, parent: Some(self.span_id), ..self.clone() }
    }

    /// What the next hop gets, in the form that its service asks for.
    pub fn next(&self, b3: Option<B3Headers>) -> Cow<'_, TraceContext> {
        match b3 {
            None => Cow::Borrowed(self),
            Some(_) => Cow::Owned(self.clone().with_b3(b3)),
        }
    }

    /// Makes the trace headers this context's: of the message that it was read from, or of a copy of its headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        match self.headers {
            Headers::Replace | Headers::ReplaceParent => {}
            Headers::Keep => return,
            Headers::Remove => {
                headers.remove(TRACEPARENT);
                headers.remove(TRACESTATE);
                return b3::remove(headers);
            }
        }
        let parent = HeaderValue::from_bytes(&self.traceparent());
        headers.insert(TRACEPARENT, parent.unwrap_or_else(|_| unreachable!("hex and dashes are visible ASCII")));
        if self.headers == Headers::ReplaceParent {
            return;
        }
        match &self.tracestate {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
        match self.b3 {
            Some(form) => {
                let span = (self.span_id, self.parent);
                b3::write(headers, form, self.trace_id, span, self.flags & SAMPLED != 0);
            }
            // Malformed, or none.
            None if b3::read(headers) != Said::Nothing => b3::remove(headers),
            None => {}
        }
    }

    /// This hop's span, begun at `start_ns` (see [`super::Tracer::now_ns`]), or `None` where the trace is not sampled:
    /// then nothing was allocated for it.
    pub fn span(&self, kind: Kind, name: impl Into<Cow<'static, str>>, start_ns: u64) -> Option<Span> {
        self.sampled.then(|| Span::new(self, kind, name.into(), start_ns))
    }

    /// For a hop that turned out to be worth keeping although nobody had decided to record it: a span in the trace that
    /// the caller named, below the caller's span, else in a trace of its own.
    pub fn kept(&self) -> TraceContext {
        if self.trace_id == TraceId([0; 16]) {
            return TraceContext::root(true);
        }
        let parent = (self.span_id != SpanId([0; 8])).then_some(self.span_id);
        let kept = TraceContext::with_ids(self.trace_id, SpanId::random(), true);
        TraceContext { parent, tracestate: self.tracestate.clone(), ..kept }
    }

    /// The same, where both sidecars know a trace for what nobody has named one for.
    pub fn kept_in(&self, trace_id: TraceId) -> TraceContext {
        if self.trace_id == TraceId([0; 16]) {
            return TraceContext::with_ids(trace_id, SpanId::random(), true);
        }
        self.kept()
    }

    /// Writes B3 in this form as well, where there is a trace and the service asks for it.
    pub fn with_b3(mut self, form: Option<B3Headers>) -> TraceContext {
        if let Some(form) = form.filter(|_| self.b3.is_none() && self.trace_id != TraceId([0; 16])) {
            self.b3 = Some(b3::Form::asked_for(form));
            self.headers = Headers::Replace;
        }
        self
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

pub(super) fn read_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (mut bytes, mut wrong) = ([0; N], 0);
    for (byte, [high, low]) in bytes.iter_mut().zip(text.as_chunks().0) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    (wrong < 16).then_some(bytes)
}

/// Of each hex digit its value, above 15 where it is none. Upper case is malformed: section 3.2.2.
const VALUES: [u8; 256] = {
    let (mut values, mut value) = ([0xff; 256], 0);
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Of each byte its two digits.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (mut pairs, mut byte) = ([[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
};

pub(super) fn write_hex(bytes: &[u8], text: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(text.as_chunks_mut().0) {
        *pair = PAIRS[usize::from(*byte)];
    }
}

#[cfg(test)]
#[path = "trace_context_test.rs"]
mod trace_context_test;
