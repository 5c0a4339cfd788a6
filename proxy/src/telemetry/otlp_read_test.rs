//! Reads spans back from what the exporter takes: for tests that look at what was recorded.

use std::io::Read as _;

use flate2::bufread::GzDecoder;
use http::HeaderValue;
use opentelemetry_proto::tonic::trace::v1::{self as wire, ScopeSpans};
use prost::Message as _;

use super::attributes::Attributes;
use super::backlog::Chunk;
use super::gzip::gzip;
use super::span::{Kind, Span, SpanId, Status, TraceId};

pub(super) fn spans(chunk: &Chunk) -> Vec<Span> {
    let mut bytes = Vec::new();
    GzDecoder::new(&gzip([&chunk.piece].into_iter())[..]).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), chunk.piece.length());
    ScopeSpans::decode(&bytes[..]).unwrap().spans.into_iter().map(span).collect()
}

fn span(of: wire::Span) -> Span {
    let mut attributes = Attributes::default();
    let alone = wire::Span { attributes: of.attributes, ..wire::Span::default() };
    attributes.add_bytes(&alone.encode_to_vec());
    Span {
        trace_id: TraceId(of.trace_id.try_into().unwrap()),
        span_id: SpanId(of.span_id.try_into().unwrap()),
        parent: (!of.parent_span_id.is_empty()).then(|| SpanId(of.parent_span_id.try_into().unwrap())),
        kind: match of.kind {
            1 => Kind::Internal,
            2 => Kind::Server,
            3 => Kind::Client,
            other => panic!("kind {other}"),
        },
        name: of.name.into(),
        start_ns: of.start_time_unix_nano,
        end_ns: of.end_time_unix_nano,
        attributes,
        status: match of.status {
            None => Status::Unset,
            Some(wire::Status { code: 1, .. }) => Status::Ok,
            // A span has words that live for ever.
            Some(wire::Status { message, .. }) => Status::Error(message.leak()),
        },
        tracestate: (!of.trace_state.is_empty()).then(|| HeaderValue::from_str(&of.trace_state).unwrap()),
    }
}
