//! One hop of one request, as a trace shows it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use rand::RngExt as _;

use super::attribute::Attribute;
use super::attributes::Attributes;
use super::trace_context::{TraceContext, write_hex};

/// 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// One that ends with these random bytes.
    pub(super) fn ending(with: u64) -> TraceId {
        // All zero is forbidden; the low bit of the first byte costs nothing of the 7 random bytes of level 2.
        let mut bytes = (u128::from(rand::rng().random::<u64>()) << 64 | u128::from(with)).to_be_bytes();
        bytes[0] |= u8::from(bytes == [0; 16]);
        TraceId(bytes)
    }

    pub(super) fn random() -> TraceId {
        TraceId::ending(rand::rng().random())
    }
}

impl SpanId {
    pub fn random() -> SpanId {
        let mut bytes: [u8; 8] = rand::rng().random();
        bytes[0] |= u8::from(bytes == [0; 8]);
        SpanId(bytes)
    }
}

fn hex<const N: usize>(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [b'0'; N];
    write_hex(bytes, &mut text);
    f.write_str(std::str::from_utf8(&text).unwrap_or_default())
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::<32>(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::<16>(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// OpenTelemetry's span kinds, those that a proxy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Internal,
    Server,
    Client,
}

/// Whole microseconds, as attributes and lines have them.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How the hop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Unset,
    Ok,
    /// What went wrong, in a word.
    Error(&'static str),
}

/// One hop; exists only where its trace is sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub parent: Option<SpanId>,
    pub kind: Kind,
    pub name: Cow<'static, str>,
    /// Unix time in nanoseconds, from [`super::Tracer::now_ns`].
    pub start_ns: u64,
    /// As `start_ns`; never before it once recorded.
    pub end_ns: u64,
    pub attributes: Attributes,
    pub status: Status,
    pub tracestate: Option<HeaderValue>,
}

impl Span {
    pub(super) fn new(context: &TraceContext, kind: Kind, name: Cow<'static, str>, start_ns: u64) -> Span {
        Span {
            trace_id: context.trace_id,
            span_id: context.span_id,
            parent: context.parent,
            kind,
            name,
            start_ns,
            end_ns: start_ns,
            attributes: Attributes::default(),
            status: Status::Unset,
            tracestate: context.tracestate.clone(),
        }
    }

    /// Adds an attribute; beyond 40 they are left out, text beyond 256 bytes is cut.
    #[inline(always)]
    pub fn set(&mut self, name: &'static str, value: impl Attribute) {
        self.attributes.set(name, value);
    }

    /// The same, where there is a value.
    #[inline(always)]
    pub fn set_some(&mut self, name: &'static str, value: Option<impl Attribute>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// What was written before, of this span and of others.
    pub fn set_all(&mut self, prepared: &Attributes) {
        self.attributes.set_all(prepared);
    }

    pub fn has(&self, name: &str) -> bool {
        self.attributes.has(name)
    }

    /// What went wrong, in one word of a list that is finite: `error.type`, and the span's status.
    pub fn fail(&mut self, word: &'static str) {
        self.attributes.replace("error.type", word);
        self.status = Status::Error(word);
    }
}
