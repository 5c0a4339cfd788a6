//! Spans as OTLP's bytes: `ExportTraceServiceRequest` in protobuf, written straight from our own records. The messages of
//! `opentelemetry-proto` say the same with a dozen allocations a span, and the SDK with more (benches/RESULTS.md).
//!
//! A span is written once, by the worker that recorded it ([`write_span`]); what leads up to the spans is written by the
//! exporter, when it knows how long they are ([`head`]).

use std::borrow::Cow;

use super::gzip::Id;
use super::span::{Kind, Span, Status};
use super::wire::{varint, varint_length};

/// Who made the spans: OTLP calls it the instrumentation scope.
const SCOPE: &str = "isthmus-proxy";

/// Wire types of protobuf.
const BYTES: u8 = 2;

/// `ScopeSpans.spans`.
const SPAN: u8 = 2 << 3 | BYTES;
/// Of `Span`.
const TRACE_ID: u8 = 1 << 3 | BYTES;
const SPAN_ID: u8 = 2 << 3 | BYTES;
const STATE: u32 = 3;
const PARENT: u8 = 4 << 3 | BYTES;
const NAME: u32 = 5;
const KIND: u8 = 6 << 3;
const START: u8 = 7 << 3 | 1;
const END: u8 = 8 << 3 | 1;
const STATUS: u8 = 15 << 3 | BYTES;
/// The W3C flags, field 16 in 32 bits: only sampled spans come this far.
const FLAGS: [u8; 6] = [0x85, 0x01, 1, 0, 0, 0];
/// Of `Status`.
const MESSAGE: u8 = 2 << 3 | BYTES;
const CODE: u8 = 3 << 3;

/// All of an export before its spans, which are so many bytes; `resource` describes who sends them.
pub(super) fn head(resource: &[(Cow<'static, str>, String)], spans: usize) -> Vec<u8> {
    let described = nested(1, |out| {
        for (name, value) in resource {
            let pair = nested(1, |out| {
                bytes(out, 1, name.as_bytes());
                out.append(&mut nested(2, |out| bytes(out, 1, value.as_bytes())));
            });
            out.extend_from_slice(&pair);
        }
    });
    let scope = nested(1, |out| {
        bytes(out, 1, SCOPE.as_bytes());
        bytes(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
    });
    let scope_spans = scope.len() + spans;
    let mut before_spans = vec![SPAN];
    varint(&mut before_spans, scope_spans as u64);
    let mut out = vec![1 << 3 | BYTES];
    varint(&mut out, (described.len() + before_spans.len() + scope_spans) as u64);
    for part in [described, before_spans, scope] {
        out.extend_from_slice(&part);
    }
    out
}

/// Where in what was written the ids and times of a span are, that repeat nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    trace_id: usize,
    times: usize,
}

/// Adds the span, as one of `ScopeSpans`.
pub(super) fn write_span(out: &mut Vec<u8>, span: &Span) -> Places {
    let attributes = span.attributes.as_bytes();
    let state = span.tracestate.as_ref().map_or(&[][..], |state| state.as_bytes());
    let state_length = if state.is_empty() { 0 } else { 1 + varint_length(state.len()) + state.len() };
    let parent_length = if span.parent.is_some() { 10 } else { 0 };
    let name_length = 1 + varint_length(span.name.len()) + span.name.len();
    let word = match span.status {
        Status::Error(word) => word,
        Status::Unset | Status::Ok => "",
    };
    let message_length = if word.is_empty() { 0 } else { 2 + word.len() };
    let status_length = if span.status == Status::Unset { 0 } else { 4 + message_length };
    let before = 18 + 10 + state_length + parent_length + name_length + 2 + 9 + 9;
    let length = before + attributes.len() + status_length + FLAGS.len();

    out.reserve(length + 4);
    out.push(SPAN);
    varint(out, length as u64);
    let mut ids = [0; 28];
    (ids[0], ids[1], ids[18], ids[19]) = (TRACE_ID, 16, SPAN_ID, 8);
    ids[2..18].copy_from_slice(&span.trace_id.0);
    ids[20..].copy_from_slice(&span.span_id.0);
    let trace_id = out.len() + 2;
    out.extend_from_slice(&ids);
    if !state.is_empty() {
        bytes(out, STATE, state);
    }
    if let Some(parent) = &span.parent {
        out.extend_from_slice(&[PARENT, 8]);
        out.extend_from_slice(&parent.0);
    }
    bytes(out, NAME, span.name.as_bytes());
    let mut times = [0; 20];
    (times[0], times[1], times[2], times[11]) = (KIND, kind(span.kind), START, END);
    times[3..11].copy_from_slice(&span.start_ns.to_le_bytes());
    times[12..].copy_from_slice(&span.end_ns.to_le_bytes());
    let places = Places { trace_id, times: out.len() + 3 };
    out.extend_from_slice(&times);
    out.extend_from_slice(attributes);
    match span.status {
        Status::Unset => {}
        Status::Ok => out.extend_from_slice(&[STATUS, 2, CODE, 1]),
        Status::Error(word) => {
            // Words are of lists of ours: none is as long as 100 bytes.
            out.extend_from_slice(&[STATUS, (message_length + 2) as u8]);
            if !word.is_empty() {
                out.extend_from_slice(&[MESSAGE, word.len() as u8]);
                out.extend_from_slice(word.as_bytes());
            }
            out.extend_from_slice(&[CODE, 2]);
        }
    }
    out.extend_from_slice(&FLAGS);
    places
}

/// What not to look for in a span, for who compresses it. `before`: a span of the same trace, written before.
pub(super) fn ids(span: &Span, at: Places, before: Option<Places>) -> [Id; 3] {
    let end = at.trace_id + span.trace_id.0.len();
    // The tag, the length and the id, and the same of the parent where nothing is between.
    let others = if span.parent.is_some() && span.tracestate.is_none() { 20 } else { 10 };
    [
        Id { place: at.trace_id..end, before: before.map(|before| before.trace_id) },
        Id { place: end..end + others, before: None },
        // The start, the tag of the end, and of that all but three bytes, which are the same for 18 minutes.
        Id { place: at.times..at.times + 14, before: None },
    ]
}

/// OTLP's numbers.
const fn kind(kind: Kind) -> u8 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    }
}

/// A message inside of another: its length comes first and is known last.
fn nested(field: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (mut inside, mut out) = (Vec::new(), Vec::new());
    fill(&mut inside);
    bytes(&mut out, field, &inside);
    out
}

fn bytes(out: &mut Vec<u8>, field: u32, of: &[u8]) {
    out.push((field as u8) << 3 | BYTES);
    varint(out, of.len() as u64);
    out.extend_from_slice(of);
}

#[cfg(test)]
#[path = "otlp_encode_test.rs"]
mod otlp_encode_test;
