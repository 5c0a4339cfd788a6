//! Spans as OTLP's messages.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{self as wire, ResourceSpans, ScopeSpans};

use super::span::{Kind, Span, Status, Value};

/// One export of `spans`, described by `resource`.
pub(super) fn request(resource: &[(&'static str, String)], spans: &[Span]) -> ExportTraceServiceRequest {
    let attributes =
        resource.iter().map(|(name, text)| attribute(name, any_value::Value::StringValue(text.clone()))).collect();
    let scope = InstrumentationScope {
        name: "isthmus-proxy".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans =
        ScopeSpans { scope: Some(scope), spans: spans.iter().map(span).collect(), ..ScopeSpans::default() };
    let resource_spans = ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn span(span: &Span) -> wire::Span {
    wire::Span {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        trace_state: span.tracestate.as_ref().and_then(|state| state.to_str().ok()).unwrap_or_default().to_owned(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        // The W3C flags: only sampled spans come this far.
        flags: 1,
        name: span.name.to_owned(),
        kind: kind(span.kind) as i32,
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: span.attributes.iter().map(|(name, of)| attribute(name, value(of))).collect(),
        status: status(&span.status),
        ..wire::Span::default()
    }
}

fn kind(kind: Kind) -> wire::span::SpanKind {
    match kind {
        Kind::Internal => wire::span::SpanKind::Internal,
        Kind::Server => wire::span::SpanKind::Server,
        Kind::Client => wire::span::SpanKind::Client,
    }
}

fn status(status: &Status) -> Option<wire::Status> {
    let (code, message) = match status {
        Status::Unset => return None,
        Status::Ok => (wire::status::StatusCode::Ok, ""),
        Status::Error(word) => (wire::status::StatusCode::Error, *word),
    };
    Some(wire::Status { message: message.to_owned(), code: code as i32 })
}

fn value(of: &Value) -> any_value::Value {
    match of {
        Value::Text(text) => any_value::Value::StringValue(text.to_string()),
        Value::Shared(text) => any_value::Value::StringValue(text.to_string()),
        Value::Int(number) => any_value::Value::IntValue(*number),
        Value::Bool(flag) => any_value::Value::BoolValue(*flag),
    }
}

fn attribute(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
