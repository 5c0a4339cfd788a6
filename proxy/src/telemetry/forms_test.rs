//! The page in each of its forms, read back.

use prost::Message;

use super::super::metrics::{Direction, Metrics};
use super::super::span::TraceId;
use super::*;
use crate::telemetry::{EdgeOf, Exemplar, PageForm};
use std::time::Duration;

fn traced(byte: u8, at_ms: u64) -> Option<Exemplar> {
    Some(Exemplar { trace: TraceId([byte; 16]), at_ms })
}

/// Two workers, of which the second was traced later.
fn busy() -> Metrics {
    let metrics = Metrics::new(2);
    let (one, two) = (metrics.for_worker(0), metrics.for_worker(1));
    one.request(Direction::Inbound, 200, Duration::from_micros(800), traced(1, 1_700_000_000_001));
    two.request(Direction::Inbound, 200, Duration::from_micros(900), traced(2, 1_700_000_000_002));
    two.request(Direction::Inbound, 200, Duration::from_micros(10), None);
    two.request(Direction::Inbound, 200, Duration::from_secs(1_000), None);
    one.link_time(Duration::from_millis(4), None);
    let edge = EdgeOf { direction: Direction::Outbound, namespace: "shop", name: "orders", port: 80, site: "dc1" };
    one.edges().request(edge, 200, Duration::from_secs(1), traced(3, 1_700_000_000_500));
    metrics
}

#[test]
fn open_metrics_names_families_as_it_must_and_tells_where_the_trace_is() {
    let text = String::from_utf8(busy().render_as(PageForm::OpenMetrics).to_vec()).unwrap();
    let latest = format!("# {{trace_id=\"{}\"}} 0.0009 1700000000.002", "02".repeat(16));
    let of_edge = format!("# {{trace_id=\"{}\"}} 1 1700000000.500", "03".repeat(16));
    for line in [
        "# TYPE isthmus_requests counter".to_owned(),
        "# TYPE target info".to_owned(),
        "# TYPE isthmus_build info".to_owned(),
        "isthmus_requests_total{direction=\"inbound\",status=\"2xx\"} 4".to_owned(),
        format!("isthmus_request_duration_seconds_bucket{{direction=\"inbound\",le=\"0.001\"}} 3 {latest}"),
        "isthmus_request_duration_seconds_bucket{direction=\"inbound\",le=\"10.0\"} 3".to_owned(),
        "isthmus_request_duration_seconds_bucket{direction=\"inbound\",le=\"+Inf\"} 4".to_owned(),
        format!(
            "isthmus_service_request_duration_seconds_bucket\
             {{service=\"shop/orders\",port=\"80\",site=\"dc1\",le=\"1.0\"}} 1 {of_edge}"
        ),
    ] {
        assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
    }
    assert!(text.ends_with("\n# EOF\n"));
    assert!(!text.contains("# TYPE isthmus_requests_total"), "a counter's family has no suffix");
    // The plain text has neither.
    let plain = busy().render();
    assert!(!plain.contains("trace_id") && !plain.contains("# EOF"));
    assert!(plain.contains("# TYPE isthmus_requests_total counter") && plain.contains("le=\"10\"} 3"));
}

fn families(bytes: &[u8]) -> Vec<MetricFamily> {
    let mut rest = bytes;
    let mut families = Vec::new();
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
    }
    families
}

/// As a reader of native histograms counts: the index and count of each bucket.
fn native(of: &Histogram) -> Vec<(i32, i64)> {
    let (mut at, mut count, mut deltas) = (0, 0, of.deltas.iter());
    let mut buckets = Vec::new();
    for span in &of.spans {
        at += span.offset;
        for _ in 0..span.length {
            count += deltas.next().unwrap();
            buckets.push((at, count));
            at += 1;
        }
    }
    assert_eq!(deltas.next(), None);
    buckets
}

#[test]
fn protobuf_has_both_kinds_of_buckets_and_the_same_counts() {
    let families = families(&busy().render_as(PageForm::Protobuf));
    let find = |name: &str| families.iter().find(|family| family.name == name).unwrap();
    let requests = find("isthmus_requests_total");
    assert_eq!(requests.kind(), Kind::Counter);
    let value = |metric: &Metric| metric.counter.as_ref().unwrap().value;
    assert_eq!(requests.metrics.iter().map(value).sum::<f64>(), 4.0);
    let seconds = find("isthmus_request_duration_seconds");
    assert_eq!(seconds.kind(), Kind::Histogram);
    let inbound = seconds.metrics.iter().find(|of| of.labels[0].value == "inbound").unwrap();
    let histogram = inbound.histogram.as_ref().unwrap();
    assert_eq!((histogram.count, histogram.schema, histogram.zero_count), (4, 2, 1));
    assert_eq!(histogram.buckets.len(), 17);
    assert_eq!((histogram.buckets[3].cumulative_count, histogram.buckets[16].cumulative_count), (3, 4));
    let exemplar = histogram.buckets[3].exemplar.as_ref().unwrap();
    assert_eq!((exemplar.labels[0].value.as_str(), exemplar.value), ("02".repeat(16).as_str(), 0.0009));
    assert_eq!(exemplar.at.unwrap(), Timestamp { seconds: 1_700_000_000, nanos: 2_000_000 });
    let native = native(histogram);
    // 800 and 900 µs are within (2^(-42/4), 2^(-40/4)] s; what took too long is in the last one, 2^(32/4) s.
    assert_eq!(native, [(-41, 1), (-40, 1), (32, 1)]);
    assert_eq!(native.iter().map(|(_, count)| count).sum::<i64>() + 1, 4);
    let idle = seconds.metrics.iter().find(|of| of.labels[0].value == "outbound").unwrap();
    assert_eq!(idle.histogram.as_ref().unwrap().spans, [BucketSpan { offset: 0, length: 0 }]);
}

#[test]
fn the_forms_tell_the_same_families() {
    let metrics = busy();
    let plain = metrics.render();
    let named = plain.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next());
    // A family without a sample is nothing in the other form.
    let named: Vec<&str> = named.filter(|name| plain.lines().any(|line| line.starts_with(*name))).collect();
    let binary = families(&metrics.render_as(PageForm::Protobuf));
    assert_eq!(binary.iter().map(|family| family.name.as_str()).collect::<Vec<_>>(), named);
}

#[test]
fn an_exemplar_that_is_half_written_or_was_never_is_none() {
    let metrics = Metrics::new(1);
    metrics.request(Direction::Inbound, 200, Duration::from_micros(800), None);
    assert!(!String::from_utf8_lossy(&metrics.render_as(PageForm::OpenMetrics)).contains(" # {"));
}
