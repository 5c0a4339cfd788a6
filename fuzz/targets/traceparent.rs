//! `traceparent` and `tracestate`: what is read is written back so that it is read the same.

use http::{HeaderMap, HeaderValue};
use isthmus_proxy::telemetry::TraceContext;

pub fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for (name, value) in ["traceparent", "tracestate"].into_iter().zip(parts.by_ref()) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    if let Some(context) = TraceContext::parse(&headers) {
        let mut written = HeaderMap::new();
        context.write(&mut written);
        let again = TraceContext::parse(&written).expect("what we write can be read");
        assert_eq!(
            (again.trace_id, again.span_id, again.sampled),
            (context.trace_id, context.span_id, context.sampled)
        );
    }
}
