//! What telemetry costs a request: nothing but a look at its headers where nobody records it; and where it is recorded, a span
//! made with its 18 attributes and written as OTLP's bytes, in batches of 50. The last by our own records and encoder, by
//! these and the messages that opentelemetry-proto generates, and by OpenTelemetry's SDK with its transformation into them.

use std::borrow::Cow;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Uri};
use isthmus_proxy::http::Body;
use isthmus_proxy::http::followed::{End, Followed, Remembered};
use isthmus_proxy::telemetry::{
    AskedFor, Brief, ExportTarget, Fate, Keep, Kind, Metrics, Span, SpanQueue, TraceContext, Tracer, Value, one_message,
};
use opentelemetry::trace::{Span as _, SpanContext, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context as SdkContext, KeyValue as SdkValue, SpanId, TraceFlags, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanProcessor};
use prost::Message as _;

use crate::cases::{Case, typical_headers};

pub(crate) const ALL: &[Case] = &[
    Case { name: "trace-none", what: "all of tracing for a request that nobody records", prepare: none },
    Case {
        name: "answer-followed",
        what: "an answer that is followed to its end, for what may break in it",
        prepare: followed,
    },
    Case { name: "trace-begun", what: "a trace begun, and passed on in headers", prepare: begun },
    Case { name: "trace-continued", what: "a trace continued, and passed on in headers", prepare: continued },
    Case { name: "span-own", what: "one span made, encoded and compressed, all of it our own", prepare: own },
    Case { name: "span-messages", what: "one encoded by opentelemetry-proto's messages, as it is", prepare: messages },
    Case { name: "span-sdk", what: "the same by opentelemetry_sdk and opentelemetry-proto", prepare: sdk },
];

const BATCH: u64 = 50;

/// Those of an inbound span, near enough.
const WORDS: [(&str, &str); 10] = [
    ("http.request.method", "GET"),
    ("network.protocol.version", "1.1"),
    ("url.scheme", "http"),
    ("isthmus.hop", "inbound"),
    ("isthmus.arrived", "mesh"),
    ("isthmus.decision", "allowed"),
    ("isthmus.site.source", "azure"),
    ("isthmus.site.destination", "dc1"),
    ("isthmus.link", "circuit"),
    ("isthmus.peer.identity", "spiffe://shop.example/ns/shop/sa/web"),
];
const TEXTS: [(&str, &str); 4] = [
    ("url.path", "/v1/orders/17"),
    ("server.address", "orders.shop"),
    ("client.address", "10.20.0.17"),
    ("network.peer.address", "10.20.0.17"),
];
const NUMBERS: [(&str, i64); 4] = [
    ("server.port", 8080),
    ("http.response.status_code", 200),
    ("isthmus.time.app_us", 817),
    ("isthmus.time.inbound_us", 61),
];

/// As the defaults have it: a share of new traces, and those that fail in the end.
fn none() -> Box<dyn FnMut(u64)> {
    let (tracer, queue) = Tracer::new(&Metrics::new(1));
    let keep = Keep { errors: true, denied: true, slower_than: None };
    // So small that none is drawn, and not nothing.
    let (endpoint, sampling) = (Some("unix:/nowhere".parse().expect("an endpoint")), 1e-12);
    tracer.configure(ExportTarget { endpoint, sampling, keep, resource: Vec::new() });
    let mut headers: HeaderMap = typical_headers();
    headers.remove("traceparent");
    headers.remove("tracestate");
    let (method, uri) = (Method::GET, Uri::from_static("http://orders.shop/v1/orders/17"));
    let now = Instant::now();
    Box::new(move |_| {
        let _alive = &queue;
        let trace = tracer.hop_at(black_box(&headers), || None);
        let asked = AskedFor { method: &method, uri: &uri, http2: false, grpc: false };
        black_box(tracer.may_keep().then(|| Brief::of(asked)));
        trace.next(None).write(&mut headers);
        let fate = Fate { status: 200, took: Some(Duration::from_micros(300)), ..Fate::default() };
        assert!(black_box(tracer.keeps(fate)).is_none() && tracer.exemplar(&trace, now).is_none());
    })
}

/// About as much as either sidecar remembers.
struct Known([u64; 80]);

impl Remembered for Known {
    fn ended(self, end: End<'_>, bytes: u64) {
        assert!(matches!(end, End::Whole(None)) && bytes == 9 && black_box(self.0)[79] > 0);
    }
}

fn followed() -> Box<dyn FnMut(u64)> {
    let all = Rc::<Followed<Known>>::default();
    let mut cx = Context::from_waker(Waker::noop());
    Box::new(move |number| {
        let mut body = all.follow(Body::word("an answer"), Known(black_box([number + 1; 80])));
        while let Poll::Ready(Some(piece)) = body.poll_frame(&mut cx) {
            assert!(black_box(piece).is_ok());
        }
    })
}

fn all() -> (Tracer, SpanQueue) {
    let (tracer, queue) = Tracer::new(&Metrics::new(1));
    let endpoint = Some("unix:/nowhere".parse().expect("an endpoint"));
    tracer.configure(ExportTarget { endpoint, sampling: 1.0, ..ExportTarget::default() });
    (tracer, queue)
}

/// What one proxy does with the headers of a request that is recorded.
fn begun() -> Box<dyn FnMut(u64)> {
    let mut headers: HeaderMap = typical_headers();
    headers.remove("traceparent");
    headers.remove("tracestate");
    passed_on(headers)
}

fn continued() -> Box<dyn FnMut(u64)> {
    let mut headers: HeaderMap = typical_headers();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert("traceparent", parent.parse().expect("a header"));
    headers.remove("tracestate");
    passed_on(headers)
}

fn passed_on(headers: HeaderMap) -> Box<dyn FnMut(u64)> {
    let (tracer, queue) = all();
    let mut sent = headers.clone();
    Box::new(move |_| {
        let _alive = &queue;
        let trace = tracer.hop_at(black_box(&headers), || None);
        trace.next(None).write(&mut sent);
        black_box(&sent);
    })
}

fn span(parent: &TraceContext, number: u64) -> Span {
    let mut span = parent.child().span(Kind::Server, "GET", number).expect("it is sampled");
    WORDS.iter().for_each(|(name, word)| span.set(name, *word));
    TEXTS.iter().for_each(|(name, text)| span.set(name, *text));
    // Times differ from span to span.
    let of = |at: usize, number: i64| if at < 2 { number } else { number + (parent.span_id.0[at] & 63) as i64 };
    NUMBERS.iter().enumerate().for_each(|(at, (name, number))| span.set(name, of(at, *number)));
    span.end_ns = number + 1;
    span
}

/// By the worker, who compresses it, and put together by the exporter.
fn own() -> Box<dyn FnMut(u64)> {
    let (parent, (tracer, mut queue)) = (TraceContext::root(true), all());
    Box::new(move |number| {
        tracer.record(span(&parent.child(), 1_795_000_000_000_000_000 + number * 12_345));
        if number % BATCH == BATCH - 1 {
            let message = one_message(&mut queue);
            assert!(!message.is_empty());
            black_box(message);
        }
    })
}

fn messages() -> Box<dyn FnMut(u64)> {
    let (parent, mut batch) = (TraceContext::root(true), Vec::new());
    Box::new(move |number| {
        batch.push(span(&parent.child(), number));
        if batch.len() as u64 == BATCH {
            let spans = batch.drain(..).map(message).collect();
            let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
            let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
            black_box(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        }
    })
}

fn message(span: Span) -> WireSpan {
    let value = |of: Value<'_>| match of {
        Value::Text(text) => any_value::Value::StringValue(text.to_owned()),
        Value::Int(number) => any_value::Value::IntValue(number),
        Value::Bool(flag) => any_value::Value::BoolValue(flag),
    };
    let attribute = |(name, of): (&str, Value<'_>)| KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value(of)) }),
        ..KeyValue::default()
    };
    WireSpan {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        name: span.name.into_owned(),
        kind: 2,
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: span.attributes.iter().map(attribute).collect(),
        flags: 1,
        ..WireSpan::default()
    }
}

/// Keeps what has ended until somebody takes it: what every exporter does first.
#[derive(Debug, Clone, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &SdkContext) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn sdk() -> Box<dyn FnMut(u64)> {
    let ended = Ended::default();
    let provider =
        SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).with_span_processor(ended.clone()).build();
    let (tracer, resource) = (provider.tracer("isthmus-proxy"), ResourceAttributesWithSchema::default());
    let of = (TraceId::from_bytes([1; 16]), SpanId::from_bytes([2; 8]), TraceFlags::SAMPLED);
    let parent =
        SdkContext::new().with_remote_span_context(SpanContext::new(of.0, of.1, of.2, true, Default::default()));
    Box::new(move |_| {
        let _alive = &provider;
        let words = WORDS.iter().map(|(name, word)| SdkValue::new(*name, *word));
        // As it must be there: what comes from outside is a text of its own.
        let texts = TEXTS.iter().map(|(name, text)| SdkValue::new(*name, (*text).to_owned()));
        let numbers = NUMBERS.iter().map(|(name, number)| SdkValue::new(*name, *number));
        let name: Cow<'static, str> = "GET".into();
        let builder = tracer.span_builder(name).with_kind(SpanKind::Server);
        let builder = builder.with_attributes(words.chain(texts).chain(numbers));
        builder.start_with_context(&tracer, &parent).end();
        let mut spans = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() as u64 == BATCH {
            let resource_spans = group_spans_by_resource_and_scope(std::mem::take(&mut *spans), &resource);
            black_box(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        }
    })
}
