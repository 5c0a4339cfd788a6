use http::{HeaderMap, HeaderValue};

use super::super::collector::Endpoint;
use super::super::metrics::Metrics;
use super::super::span::Kind;
use super::super::trace_context::TraceContext;
use super::super::tracer::{ExportTarget, SpanQueue, Tracer};
use super::*;

fn tracer() -> (Tracer, SpanQueue, KeptSpans, Metrics) {
    let metrics = Metrics::new(1);
    let (tracer, mut queue) = Tracer::new(&metrics);
    let kept = queue.take_kept().unwrap();
    tracer.configure(ExportTarget { sampling: 1.0, ..ExportTarget::default() });
    (tracer, queue, kept, metrics)
}

fn begun(tracer: &Tracer, of: usize) -> usize {
    (0..of).filter(|_| tracer.hop(&HeaderMap::new()).sampled).count()
}

#[test]
fn so_many_traces_begin_as_are_allowed_and_none_where_nobody_takes_them() {
    let (tracer, _queue, kept, _) = tracer();
    assert_eq!(begun(&tracer, 50), 0, "nobody has asked");
    kept.allow(3, 0);
    assert_eq!(begun(&tracer, 50), 3);
    kept.allow(3, 0);
    assert_eq!(begun(&tracer, 50), 3, "the next second");
    kept.allow(0, 0);
    assert_eq!(begun(&tracer, 50), 0);
    // A ratio of none is none.
    tracer.configure(ExportTarget::default());
    kept.allow(3, 0);
    assert_eq!(begun(&tracer, 50), 0);
}

#[test]
fn a_trace_that_another_records_is_gone_on_with_by_a_budget_of_its_own() {
    let (tracer, _queue, kept, _) = tracer();
    let mut headers = HeaderMap::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert("traceparent", HeaderValue::from_static(parent));
    kept.allow(1, 2);
    let recorded =
        |tracer: &Tracer| (0..10).map(|_| tracer.next_hop(&headers)).filter(|hop| hop.parent.is_some()).count();
    assert_eq!(recorded(&tracer), 2);
}

#[test]
fn what_is_recorded_is_taken_by_who_tells_it_and_by_a_collector_once_there_is_one() {
    let (tracer, _queue, mut kept, metrics) = tracer();
    let span = |tracer: &Tracer| tracer.hop(&HeaderMap::new()).span(Kind::Client, "outbound", 5);
    kept.allow(5, 5);
    tracer.record(span(&tracer).unwrap());
    tracer.record(span(&tracer).unwrap());
    assert_eq!((kept.take(1).len(), kept.take(10).len(), kept.take(10).len()), (1, 1, 0));
    tracer.configure(ExportTarget {
        endpoint: Some(Endpoint::Unix("/nowhere".into())),
        sampling: 1.0,
        ..ExportTarget::default()
    });
    kept.allow(0, 0);
    tracer.record(span(&tracer).unwrap());
    assert_eq!(kept.take(10).len(), 0, "the collector's");
    assert!(metrics.render().contains("isthmus_spans_dropped_total{reason=\"queue-full\"} 0\n"));
}

#[test]
fn a_control_plane_that_takes_nothing_costs_a_bounded_amount() {
    let (tracer, _queue, mut kept, metrics) = tracer();
    let span = || TraceContext::root(true).span(Kind::Client, "outbound", 5).unwrap();
    kept.allow(u32::MAX, u32::MAX);
    (0..QUEUE + 7).for_each(|_| tracer.record(span()));
    assert_eq!(kept.take(usize::MAX).len(), QUEUE);
    assert!(metrics.render().contains("isthmus_spans_dropped_total{reason=\"queue-full\"} 7\n"));
}
