//! Spans as OTLP's bytes: `ExportTraceServiceRequest` in protobuf, written straight from our own records. The messages of
//! `opentelemetry-proto` say the same with a dozen allocations a span, and the SDK with more (benches/RESULTS.md).

use std::borrow::Cow;

use super::span::{Kind, Span, Status, Value};

/// Who made the spans: OTLP calls it the instrumentation scope.
const SCOPE: &str = "isthmus-proxy";

/// Wire types of protobuf.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// One export of `spans`, described by `resource`.
pub fn encode(resource: &[(Cow<'static, str>, String)], spans: &[Span]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024 + spans.len() * 1024);
    nested(&mut out, 1, |out| {
        nested(out, 1, |out| {
            for (name, value) in resource {
                nested(out, 1, |out| {
                    text(out, 1, name);
                    nested(out, 2, |out| text_even_empty(out, 1, value));
                });
            }
        });
        nested(out, 2, |out| {
            nested(out, 1, |out| {
                text(out, 1, SCOPE);
                text(out, 2, env!("CARGO_PKG_VERSION"));
            });
            for span in spans {
                nested(out, 2, |out| write_span(out, span));
            }
        });
    });
    out
}

fn write_span(out: &mut Vec<u8>, span: &Span) {
    bytes(out, 1, &span.trace_id.0);
    bytes(out, 2, &span.span_id.0);
    if let Some(state) = &span.tracestate {
        bytes(out, 3, state.as_bytes());
    }
    if let Some(parent) = &span.parent {
        bytes(out, 4, &parent.0);
    }
    text(out, 5, &span.name);
    number(out, 6, kind(span.kind));
    fixed64(out, 7, span.start_ns);
    fixed64(out, 8, span.end_ns);
    for (name, value) in &span.attributes {
        nested(out, 9, |out| {
            text(out, 1, name);
            nested(out, 2, |out| match value {
                Value::Text(of) => text_even_empty(out, 1, of),
                Value::Shared(of) => text_even_empty(out, 1, of),
                // A bool or a number that is 0 is a value as well.
                Value::Bool(flag) => number_even_zero(out, 2, u64::from(*flag)),
                Value::Int(of) => number_even_zero(out, 3, of.cast_unsigned()),
            });
        });
    }
    match &span.status {
        Status::Unset => {}
        Status::Ok => nested(out, 15, |out| number(out, 3, 1)),
        Status::Error(word) => nested(out, 15, |out| {
            text(out, 2, word);
            number(out, 3, 2);
        }),
    }
    // The W3C flags: only sampled spans come this far.
    tag(out, 16, FIXED32);
    out.extend_from_slice(&1u32.to_le_bytes());
}

/// OTLP's numbers.
fn kind(kind: Kind) -> u64 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    }
}

/// A message inside of another. Its length comes first and is known last: most are short enough for one byte.
fn nested(out: &mut Vec<u8>, field: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, BYTES);
    let at = out.len();
    out.push(0);
    fill(out);
    let length = out.len() - at - 1;
    match u8::try_from(length).ok().filter(|length| *length < 0x80) {
        Some(length) => out[at] = length,
        None => {
            let mut prefix = Vec::with_capacity(10);
            varint(&mut prefix, length as u64);
            out.splice(at..=at, prefix);
        }
    }
}

fn text(out: &mut Vec<u8>, field: u32, of: &str) {
    if !of.is_empty() {
        text_even_empty(out, field, of);
    }
}

fn text_even_empty(out: &mut Vec<u8>, field: u32, of: &str) {
    bytes(out, field, of.as_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u32, of: &[u8]) {
    tag(out, field, BYTES);
    varint(out, of.len() as u64);
    out.extend_from_slice(of);
}

fn number(out: &mut Vec<u8>, field: u32, of: u64) {
    if of != 0 {
        number_even_zero(out, field, of);
    }
}

fn number_even_zero(out: &mut Vec<u8>, field: u32, of: u64) {
    tag(out, field, VARINT);
    varint(out, of);
}

fn fixed64(out: &mut Vec<u8>, field: u32, of: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&of.to_le_bytes());
}

fn tag(out: &mut Vec<u8>, field: u32, wire: u32) {
    varint(out, u64::from(field << 3 | wire));
}

fn varint(out: &mut Vec<u8>, mut of: u64) {
    while of >= 0x80 {
        out.push(of as u8 | 0x80);
        of >>= 7;
    }
    out.push(of as u8);
}

#[cfg(test)]
#[path = "otlp_encode_test.rs"]
mod otlp_encode_test;
