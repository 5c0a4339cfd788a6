//! Trace headers of every kind, through a proxy that records nothing: what goes on is well-formed, so that a second one
//! changes nothing of it.

use http::{HeaderMap, HeaderValue};
use isthmus_proxy::telemetry::{Metrics, Tracer};

const NAMES: [&str; 8] = [
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "traceparent",
    "tracestate",
];

pub fn run(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for (line, name) in bytes.split(|byte| *byte == b'\n').zip(NAMES) {
        if let (false, Ok(value)) = (line.is_empty(), HeaderValue::from_bytes(line)) {
            headers.insert(name, value);
        }
    }
    let tracer = Tracer::new(&Metrics::new(1)).0;
    tracer.hop(&headers.clone()).write(&mut headers);
    let mut again = headers.clone();
    tracer.next_hop(&headers).write(&mut again);
    assert_eq!(again, headers, "well-formed after the first hop");
}
