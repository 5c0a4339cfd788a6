use super::super::span::Kind;
use super::*;

fn target(sampling: f64) -> ExportTarget {
    ExportTarget { endpoint: Some(Endpoint::Unix("/nowhere".into())), sampling, ..ExportTarget::default() }
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

fn sent(parent: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", parent.parse().unwrap());
    headers
}

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[test]
fn a_continued_trace_follows_its_root_whatever_the_ratio() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    tracer.configure(target(0.0));
    for context in [tracer.hop(&sent(SAMPLED)), tracer.next_hop(&sent(SAMPLED))] {
        assert!(context.sampled && context.parent.is_some());
        let mut onward = sent(SAMPLED);
        context.child().write(&mut onward);
        assert!(onward["traceparent"].to_str().unwrap().starts_with(&SAMPLED[..36]), "the same trace");
        assert_ne!(onward["traceparent"], SAMPLED, "and another span");
    }
    tracer.configure(target(1.0));
    assert!(!tracer.hop(&sent(UNSAMPLED)).sampled);
}

#[test]
fn what_is_not_recorded_passes_unchanged() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    // Sampled by the app, and no collector here: the app's span stays the parent of what follows.
    for parent in [SAMPLED, UNSAMPLED] {
        let mut headers = sent(parent);
        headers.insert("tracestate", "a=b".parse().unwrap());
        let context = tracer.hop(&headers);
        assert!(!context.sampled);
        context.child().write(&mut headers);
        assert_eq!(
            (&headers["traceparent"], &headers["tracestate"]),
            (&parent.parse().unwrap(), &"a=b".parse().unwrap())
        );
    }
}

#[test]
fn what_is_not_recorded_is_still_made_well_formed() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    let mut later = sent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more");
    tracer.hop(&later.clone()).write(&mut later);
    assert_eq!(later["traceparent"], UNSAMPLED);
    for broken in ["a=b,,=", "a=1,a=2"] {
        let mut headers = sent(UNSAMPLED);
        headers.insert("tracestate", broken.parse().unwrap());
        tracer.hop(&headers.clone()).write(&mut headers);
        assert_eq!((&headers["traceparent"], headers.get("tracestate")), (&UNSAMPLED.parse().unwrap(), None));
    }
    let mut garbage = sent("garbage");
    garbage.insert("tracestate", "a=b".parse().unwrap());
    tracer.hop(&garbage.clone()).child().write(&mut garbage);
    assert!(garbage.is_empty(), "a trace that cannot be read, and no new one");
}

#[test]
fn a_trace_begins_at_the_first_sidecar_or_not_at_all() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    tracer.configure(target(1.0));
    let mut headers = HeaderMap::new();
    assert!(tracer.hop(&headers).sampled);
    let after = tracer.next_hop(&headers);
    assert!(!after.sampled);
    after.child().write(&mut headers);
    assert!(headers.is_empty());
    tracer.configure(target(0.0));
    tracer.hop(&headers).child().write(&mut headers);
    assert!(headers.is_empty(), "not sampled: no header for the app, the wire and the next sidecar to carry");
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
    assert!(queue.take().is_some());
}

/// What is not recorded has no ids: one that is kept in the end begins a trace, and is no child of a span that nobody has.
#[test]
fn what_begins_no_trace_is_kept_as_a_root() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    tracer.configure(target(0.0));
    for context in [tracer.root(), tracer.hop(&HeaderMap::new()), tracer.next_hop(&HeaderMap::new())] {
        assert_eq!((context.sampled, context.kept().parent), (false, None));
    }
    let named = tracer.hop(&sent(UNSAMPLED)).kept();
    assert_eq!(named.parent.unwrap().to_string(), "00f067aa0ba902b7");
}

#[test]
fn moments_before_and_after_the_clock_began_are_told_apart() {
    let early = Instant::now();
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    let (at_early, at_now) = (tracer.at_ns(early), tracer.now_ns());
    assert!(at_early <= at_now && at_now - at_early < 60_000_000_000, "{at_early} {at_now}");
    let later = early + Duration::from_millis(7);
    assert_eq!(tracer.at_ns(later) - at_early, 7_000_000);
}

#[test]
fn span_time_is_wall_time() {
    let (tracer, _queue) = Tracer::new(&Metrics::new(1));
    let before = tracer.now_ns();
    assert!(before > 1_700_000_000_000_000_000, "{before} is no time of this decade");
    assert!(tracer.now_ns() >= before);
}
