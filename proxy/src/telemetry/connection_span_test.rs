use super::super::metrics::Metrics;
use super::super::tracer::{ExportTarget, SpanQueue};
use super::*;

fn tracer() -> (Tracer, SpanQueue) {
    let (tracer, queue) = Tracer::new(&Metrics::new(1));
    let endpoint = Some("unix:/nowhere".parse().unwrap());
    tracer.configure(ExportTarget { endpoint, sampling: 1.0, ..ExportTarget::default() });
    (tracer, queue)
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.to_text().into_owned()).unwrap_or_else(|| panic!("no {name}: {span:?}"))
}

async fn on_worker(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lives_for_hours_is_told_of_meanwhile() {
    on_worker(async {
        let (tracer, mut queue) = tracer();
        let context = tracer.root();
        let span = ConnectionSpan::begin(&tracer, &context, (Kind::Client, "TCP"), tracer.now_ns());
        span.with(|span| span.set("isthmus.link", "circuit"));
        let own = Copied::default();
        for round in 1..=18u64 {
            span.copied(&own).sent.set(round * 1_000);
            span.copied(&own).received.set(round * 5);
            tokio::time::sleep(EVERY).await;
            tokio::task::yield_now().await;
            let record = queue.take().unwrap_or_else(|| panic!("no record in round {round}"));
            assert_eq!(
                (record.kind, record.parent, record.trace_id),
                (Kind::Internal, Some(context.span_id), context.trace_id)
            );
            assert_eq!(attribute(&record, "isthmus.bytes.to_server"), "1000", "since the last");
            assert_eq!(attribute(&record, "isthmus.bytes.to_client_so_far"), (round * 5).to_string());
            assert_eq!(attribute(&record, "isthmus.link"), "circuit");
            assert!(queue.take().is_none());
        }
        span.ended(&Ok(()));
        let whole = queue.take().unwrap();
        assert_eq!((whole.span_id, whole.kind, whole.name.as_ref()), (context.span_id, Kind::Client, "TCP"));
        assert_eq!(attribute(&whole, "isthmus.bytes.to_server"), "18000");
        assert_eq!(attribute(&whole, "isthmus.end"), "closed");
        drop(span);
        tokio::time::sleep(EVERY * 3).await;
        assert!(queue.take().is_none(), "it is told of once, and its records end with it");
    })
    .await;
}

#[tokio::test]
async fn how_a_connection_ends_is_told_once() {
    on_worker(async {
        let (tracer, mut queue) = tracer();
        let begin = |kind| ConnectionSpan::begin(&tracer, &tracer.root(), (kind, "TCP"), tracer.now_ns());
        let broken = begin(Kind::Server);
        broken.copied(&Copied::default()).sent.set(7);
        broken.ended(&Err(io::ErrorKind::ConnectionReset.into()));
        broken.ended(&Ok(()));
        drop(broken);
        let span = queue.take().unwrap();
        assert_eq!((attribute(&span, "isthmus.end"), attribute(&span, "error.type")), ("reset".into(), "reset".into()));
        assert_eq!(attribute(&span, "isthmus.bytes.to_client"), "7", "what a server's app sends goes to the client");

        begin(Kind::Client).refused(Reason::NotAllowed, Some("0af7"));
        let span = queue.take().unwrap();
        assert_eq!(attribute(&span, "isthmus.reason"), "not-allowed");
        assert_eq!(attribute(&span, "isthmus.decision.id"), "0af7");

        drop(begin(Kind::Client));
        assert_eq!(attribute(&queue.take().unwrap(), "isthmus.end"), "dropped");

        let halves = begin(Kind::Client);
        halves.half_closed(true);
        halves.half_closed(true);
        assert!(queue.take().is_none());
        halves.half_closed(false);
        assert_eq!(attribute(&queue.take().unwrap(), "isthmus.end"), "closed");

        begin(Kind::Client).discard();
        assert!(queue.take().is_none());
    })
    .await;
}

/// Outside of a LocalSet a task would panic: there is none.
#[test]
fn what_is_not_sampled_is_nothing() {
    let (tracer, mut queue) = tracer();
    let span = ConnectionSpan::begin(&tracer, &TraceContext::root(false), (Kind::Client, "TCP"), 1);
    assert!(!span.is_sampled() && span.context().is_none());
    span.ended(&Ok(()));
    drop(span);
    assert!(queue.take().is_none());
    assert_eq!(size_of::<ConnectionSpan>(), size_of::<usize>());
}
