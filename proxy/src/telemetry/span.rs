//! One hop of one request, as a trace shows it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rand::RngExt as _;

use super::trace_context::{TraceContext, write_hex};

/// Attributes beyond this are dropped: a span in the queue has a known size.
const MAX_ATTRIBUTES: usize = 40;
/// A text attribute is cut to this many bytes, for the same reason.
const MAX_TEXT: usize = 256;

/// 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    pub(super) fn random() -> TraceId {
        // All zero is forbidden; the low bit of the first byte costs nothing of the 7 random bytes of level 2.
        let mut bytes: [u8; 16] = rand::rng().random();
        bytes[0] |= u8::from(bytes == [0; 16]);
        TraceId(bytes)
    }
}

impl SpanId {
    pub(super) fn random() -> SpanId {
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

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(Cow<'static, str>),
    Shared(Arc<str>),
    Int(i64),
    Bool(bool),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(Cow::Borrowed(text))
    }
}
impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Cow::Owned(text))
    }
}
impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Value {
        Value::Shared(text)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}
impl From<u16> for Value {
    fn from(number: u16) -> Value {
        Value::Int(number.into())
    }
}
impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Int(number.into())
    }
}
impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}
impl From<Cow<'static, str>> for Value {
    fn from(text: Cow<'static, str>) -> Value {
        Value::Text(text)
    }
}
impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Bool(flag)
    }
}

impl Value {
    /// As text, for those who read it.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Value::Text(text) => Cow::Borrowed(text),
            Value::Shared(text) => Cow::Borrowed(text),
            Value::Int(number) => Cow::Owned(number.to_string()),
            Value::Bool(flag) => Cow::Owned(flag.to_string()),
        }
    }

    /// Text of outside origin is cut, at a character, so that no request makes a large span.
    fn bounded(self) -> Value {
        match self {
            Value::Text(Cow::Owned(mut text)) if text.len() > MAX_TEXT => {
                let cut = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                text.truncate(cut);
                text.shrink_to_fit();
                Value::Text(Cow::Owned(text))
            }
            other => other,
        }
    }
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
    pub attributes: Vec<(&'static str, Value)>,
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
            attributes: Vec::with_capacity(24),
            status: Status::Unset,
            tracestate: context.tracestate.clone(),
        }
    }

    /// Adds an attribute; beyond 40 they are left out, text beyond 256 bytes is cut.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if self.attributes.len() < MAX_ATTRIBUTES {
            self.attributes.push((name, value.into().bounded()));
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.attributes.iter().any(|(known, _)| *known == name)
    }

    /// The same, where there is a value.
    pub fn set_some(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// What went wrong, in one word of a list that is finite: `error.type`, and the span's status.
    pub fn fail(&mut self, word: &'static str) {
        match self.attributes.iter_mut().find(|(name, _)| *name == "error.type") {
            Some((_, known)) => *known = word.into(),
            None => self.set("error.type", word),
        }
        self.status = Status::Error(word);
    }
}
