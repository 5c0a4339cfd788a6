//! B3, Zipkin's trace headers (<https://github.com/openzipkin/b3-propagation>), in one (`b3`) or in several
//! (`x-b3-traceid` and so on). Read where no usable `traceparent` came, and then kept up to date in the form they came
//! in; malformed ones are not passed on.

use http::{HeaderMap, HeaderName, HeaderValue};

use isthmus_proto::model::B3Headers;

use super::span::{SpanId, TraceId};
use super::trace_context::{read_hex, write_hex};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// How a message carries B3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    single: bool,
    /// Sampled, and also beyond what a collector would drop.
    debug: bool,
}

impl Form {
    pub(super) fn asked_for(form: B3Headers) -> Form {
        Form { single: form == B3Headers::Single, debug: false }
    }
}

/// What B3 headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// There are none.
    Nothing,
    Ids(Ids),
    /// Whether to record, and no ids: a trace begins here, or none does.
    Decision(bool, Form),
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    /// `None`: the sender leaves it to us.
    pub(super) sampled: Option<bool>,
    pub(super) form: Form,
}

impl Said {
    /// The form to answer in, where there is one.
    pub(super) fn form(self) -> Option<Form> {
        match self {
            Said::Ids(Ids { form, .. }) | Said::Decision(_, form) => Some(form),
            Said::Nothing | Said::Malformed => None,
        }
    }
}

/// Reads what there is; `b3` wins over the several, as its authors say.
pub(super) fn read(headers: &HeaderMap) -> Said {
    // One pass over the names: look-ups of six would cost more.
    if !headers.keys().any(is_b3) {
        return Said::Nothing;
    }
    let said = match once(headers, &SINGLE) {
        Ok(Some(value)) => read_single(value.as_bytes()),
        Ok(None) => read_several(headers),
        Err(Repeated) => None,
    };
    said.unwrap_or(Said::Malformed)
}

pub(super) fn remove(headers: &mut HeaderMap) {
    for name in [SINGLE, TRACE_ID, SPAN_ID, PARENT, SAMPLED, FLAGS] {
        headers.remove(name);
    }
}

/// Puts these ids in the place of what came.
pub(super) fn write(
    headers: &mut HeaderMap,
    form: Form,
    trace_id: TraceId,
    span: (SpanId, Option<SpanId>),
    sampled: bool,
) {
    remove(headers);
    let trace_id = hex(short(&trace_id.0));
    let (span_id, parent) = (hex(&span.0.0), span.1.map(|parent| hex(&parent.0)));
    let debug = form.debug && sampled;
    let mut insert = |name: HeaderName, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    if form.single {
        let state = if debug {
            "d"
        } else if sampled {
            "1"
        } else {
            "0"
        };
        let parent = parent.map(|parent| format!("-{parent}")).unwrap_or_default();
        return insert(SINGLE, &format!("{trace_id}-{span_id}-{state}{parent}"));
    }
    insert(TRACE_ID, &trace_id);
    insert(SPAN_ID, &span_id);
    if let Some(parent) = parent {
        insert(PARENT, &parent);
    }
    match debug {
        true => insert(FLAGS, "1"),
        false => insert(SAMPLED, if sampled { "1" } else { "0" }),
    }
}

/// `trace-span[-state[-parent]]`, or a state alone.
fn read_single(text: &[u8]) -> Option<Said> {
    let mut parts = text.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(second) = parts.next() else {
        let (sampled, debug) = state(first)?;
        return Some(Said::Decision(sampled, Form { single: true, debug }));
    };
    let third = parts.next().map(state);
    let parent_is_good = parts.next().is_none_or(|parent| span_id(parent).is_some());
    if third == Some(None) || !parent_is_good || parts.next().is_some() {
        return None;
    }
    let (sampled, debug) = third.flatten().map_or((None, false), |(sampled, debug)| (Some(sampled), debug));
    let form = Form { single: true, debug };
    Some(Said::Ids(Ids { trace_id: trace_id(first)?, span_id: span_id(second)?, sampled, form }))
}

fn read_several(headers: &HeaderMap) -> Option<Said> {
    let get = |name: &HeaderName| once(headers, name).map(|value| value.map(HeaderValue::as_bytes)).ok();
    let debug = match get(&FLAGS)? {
        None | Some(b"0") => false,
        Some(b"1") => true,
        Some(_) => return None,
    };
    let sampled = match get(&SAMPLED)? {
        None => debug.then_some(true),
        // The words are those of Zipkin's first years, and still sent.
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(debug),
        Some(_) => return None,
    };
    if get(&PARENT)?.is_some_and(|parent| span_id(parent).is_none()) {
        return None;
    }
    let form = Form { single: false, debug };
    match (get(&TRACE_ID)?, get(&SPAN_ID)?) {
        (Some(trace), Some(span)) => {
            Some(Said::Ids(Ids { trace_id: trace_id(trace)?, span_id: span_id(span)?, sampled, form }))
        }
        (None, None) => sampled.map(|sampled| Said::Decision(sampled, form)),
        _ => None,
    }
}

/// Whether to record, and whether that is a debug trace.
fn state(text: &[u8]) -> Option<(bool, bool)> {
    match text {
        b"1" => Some((true, false)),
        b"0" => Some((false, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

/// 32 digits, or 16 for the lower half of an id whose upper half is zero.
fn trace_id(text: &[u8]) -> Option<TraceId> {
    let mut id = [0; 16];
    match text.len() {
        32 => id = read_hex(text)?,
        16 => id[8..].copy_from_slice(&read_hex::<8>(text)?),
        _ => return None,
    }
    (id != [0; 16]).then_some(TraceId(id))
}

fn span_id(text: &[u8]) -> Option<SpanId> {
    let id = if text.len() == 16 { read_hex(text)? } else { return None };
    (id != [0; 8]).then_some(SpanId(id))
}

/// As it came: a tracer that has 64 bits does not read 128.
fn short(id: &[u8; 16]) -> &[u8] {
    if id[..8] == [0; 8] { &id[8..] } else { id }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = vec![0; bytes.len() * 2];
    write_hex(bytes, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

pub(super) fn is_b3(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "b3" || name.starts_with("x-b3-")
}

/// Said twice, two readers could take different ones.
struct Repeated;

fn once<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Repeated> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(Repeated),
    }
}

#[cfg(test)]
#[path = "b3_test.rs"]
mod b3_test;
