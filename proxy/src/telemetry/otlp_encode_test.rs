//! Held against the messages that opentelemetry-proto generates: the same bytes.

use std::io::Read as _;

use http::HeaderValue;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{self as wire, ResourceSpans, ScopeSpans};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::super::attributes::{Attributes, Value};
use super::super::gzip::{Piece, gzip};
use super::super::span::{SpanId, TraceId};
use super::*;

fn message(resource: &[(Cow<'static, str>, String)], spans: &[Span]) -> ExportTraceServiceRequest {
    let attributes =
        resource.iter().map(|(name, text)| attribute(name, any_value::Value::StringValue(text.clone()))).collect();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let scope = InstrumentationScope { name: SCOPE.to_owned(), version, ..InstrumentationScope::default() };
    let scope_spans =
        ScopeSpans { scope: Some(scope), spans: spans.iter().map(one).collect(), ..ScopeSpans::default() };
    let resource_spans = ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn one(span: &Span) -> wire::Span {
    let status = match span.status {
        Status::Unset => None,
        Status::Ok => Some(wire::Status { code: 1, message: String::new() }),
        Status::Error(word) => Some(wire::Status { code: 2, message: word.to_owned() }),
    };
    wire::Span {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        trace_state: span.tracestate.as_ref().map(|state| state.to_str().unwrap().to_owned()).unwrap_or_default(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        flags: 1,
        name: span.name.to_string(),
        kind: kind(span.kind).into(),
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: span.attributes.iter().map(|(name, of)| attribute(name, value(of))).collect(),
        status,
        ..wire::Span::default()
    }
}

fn value(of: Value<'_>) -> any_value::Value {
    match of {
        Value::Text(text) => any_value::Value::StringValue(text.to_string()),
        Value::Int(number) => any_value::Value::IntValue(number),
        Value::Bool(flag) => any_value::Value::BoolValue(flag),
    }
}

fn attribute(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[derive(Debug, Clone)]
enum Set {
    Text(String),
    Int(i64),
    Bool(bool),
}

fn any_attribute() -> impl Strategy<Value = (&'static str, Set)> {
    let name = proptest::sample::select(&["http.request.method", "url.path", "isthmus.time.app_us"][..]);
    let value = prop_oneof![
        "\\PC{0,200}".prop_map(Set::Text),
        any::<i64>().prop_map(Set::Int),
        any::<bool>().prop_map(Set::Bool),
    ];
    (name, value)
}

fn attributes_of(all: Vec<(&'static str, Set)>) -> Attributes {
    let mut attributes = Attributes::default();
    for (name, value) in all {
        match value {
            Set::Text(text) => attributes.set(name, text.as_str()),
            Set::Int(number) => attributes.set(name, number),
            Set::Bool(flag) => attributes.set(name, flag),
        }
    }
    attributes
}

fn any_span() -> impl Strategy<Value = Span> {
    let ids = (any::<[u8; 16]>(), any::<[u8; 8]>(), option::of(any::<[u8; 8]>()));
    let kind = prop_oneof![Just(Kind::Internal), Just(Kind::Server), Just(Kind::Client)];
    let status =
        prop_oneof![Just(Status::Unset), Just(Status::Ok), Just(Status::Error("")), Just(Status::Error("reset"))];
    let state = option::of("[a-z]{1,8}=[a-z]{1,200}");
    let what = ("\\PC{1,20}", kind, status, state);
    (ids, what, (1u64.., 1u64..), vec(any_attribute(), 0..30)).prop_map(
        |((trace, span, parent), (name, kind, status, state), (start_ns, end_ns), attributes)| Span {
            trace_id: TraceId(trace),
            span_id: SpanId(span),
            parent: parent.map(SpanId),
            kind,
            name: name.into(),
            start_ns,
            end_ns,
            attributes: attributes_of(attributes),
            status,
            tracestate: state.map(|state| HeaderValue::from_str(&state).unwrap()),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_bytes_are_those_of_the_generated_messages(
        spans in vec(any_span(), 0..4),
        resource in vec(("[a-z.]{1,10}", "\\PC{0,300}"), 0..5),
    ) {
        let resource: Vec<(Cow<'static, str>, String)> =
            resource.into_iter().map(|(name, value)| (name.into(), value)).collect();
        let mut written = Vec::new();
        for span in &spans {
            write_span(&mut written, span);
        }
        let ours = [head(&resource, written.len()), written].concat();
        let theirs = message(&resource, &spans);
        prop_assert_eq!(ExportTraceServiceRequest::decode(&ours[..]).unwrap(), theirs.clone());
        prop_assert_eq!(ours.len(), theirs.encoded_len());
    }

    /// Ids are found where they are, whatever is around them, and a trace's again where the span before was of it as well.
    #[test]
    fn ids_are_where_they_are_said_to_be(mut spans in vec(any_span(), 1..6), of_one_trace in any::<bool>()) {
        if of_one_trace {
            let first = spans[0].trace_id;
            spans.iter_mut().for_each(|span| span.trace_id = first);
        }
        let (mut written, mut all_ids, mut before) = (Vec::new(), Vec::new(), None);
        for span in &spans {
            let at = write_span(&mut written, span);
            all_ids.extend(ids(span, at, before.filter(|_| of_one_trace)));
            let [trace, others, times] = ids(span, at, before.replace(at));
            prop_assert_eq!(&written[trace.place], &span.trace_id.0);
            let mut own = [&[SPAN_ID, 8], &span.span_id.0[..]].concat();
            if let Some(parent) = span.parent.filter(|_| span.tracestate.is_none()) {
                own.extend([&[PARENT, 8], &parent.0[..]].concat());
            }
            prop_assert_eq!(&own[..], &written[others.place]);
            let both = [&span.start_ns.to_le_bytes()[..], &[END], &span.end_ns.to_le_bytes()].concat();
            prop_assert_eq!(&both[..14], &written[times.place]);
        }
        let zipped = gzip([Piece::of(&written, all_ids)].iter());
        let mut plain = Vec::new();
        flate2::bufread::GzDecoder::new(&zipped[..]).read_to_end(&mut plain).unwrap();
        prop_assert_eq!(plain, written);
    }
}
