use super::super::span::Kind;
use super::*;

fn target(sampling: f64) -> ExportTarget {
    ExportTarget { endpoint: Some(Endpoint::Unix("/nowhere".into())), sampling, resource: Vec::new() }
}

fn dropped(metrics: &Metrics, reason: DropReason) -> u64 {
    let line = format!("isthmus_spans_dropped_total{{reason=\"{}\"}} ", reason.word());
    metrics.render().lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap()
}

#[test]
fn nothing_is_sampled_until_a_collector_is_named() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    assert!(!tracer.root().sampled);
    tracer.configure(target(1.0));
    assert!((0..100).all(|_| tracer.root().sampled));
    tracer.configure(ExportTarget { endpoint: None, ..target(1.0) });
    assert!(!tracer.root().sampled);
}

#[test]
fn the_ratio_is_kept_and_bad_ratios_are_harmless() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    for (ratio, least, most) in [(0.0, 0, 0), (0.25, 150, 350), (f64::NAN, 0, 0), (-1.0, 0, 0), (7.0, 1000, 1000)] {
        tracer.configure(target(ratio));
        let sampled = (0..1000).filter(|_| tracer.root().sampled).count();
        assert!((least..=most).contains(&sampled), "{ratio}: {sampled} of 1000");
    }
}

#[test]
fn a_continued_trace_follows_its_root_whatever_the_ratio() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    for (ratio, flags) in [(0.0, "01"), (1.0, "00")] {
        tracer.configure(target(ratio));
        let mut headers = HeaderMap::new();
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        headers.insert("traceparent", parent.parse().unwrap());
        assert_eq!(tracer.hop(&headers).sampled, flags == "01");
        assert!(tracer.hop(&headers).parent.is_some());
    }
}

#[test]
fn a_full_queue_drops_and_counts() {
    let metrics = Metrics::new(1);
    let (tracer, mut queue) = Tracer::with_capacity(&metrics, 2);
    let span = || TraceContext::root(true).span(Kind::Client, "outbound", 5).unwrap();
    tracer.record(span());
    assert_eq!(dropped(&metrics, DropReason::NoCollector), 1);
    tracer.configure(target(1.0));
    for _ in 0..5 {
        tracer.record(span());
    }
    assert_eq!(dropped(&metrics, DropReason::QueueFull), 3);
    assert!(queue.spans.try_recv().is_ok());
}

#[test]
fn span_time_is_wall_time() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    let before = tracer.now_ns();
    assert!(before > 1_700_000_000_000_000_000, "{before} is no time of this decade");
    assert!(tracer.now_ns() >= before);
}
