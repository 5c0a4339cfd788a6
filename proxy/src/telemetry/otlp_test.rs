use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::super::metrics::Metrics;
use super::super::span::Kind;
use super::super::tracer::Tracer;
use super::*;

#[test]
fn endpoints_are_http_or_unix_and_nothing_else() {
    for (text, shown) in [
        ("http://otel:4317", "http://otel:4317"),
        ("http://10.0.0.1", "http://10.0.0.1:4317"),
        ("http://[fd00::1]:99/", "http://[fd00::1]:99"),
        ("unix:/run/otel.sock", "unix:/run/otel.sock"),
        ("unix:///run/otel.sock", "unix:/run/otel.sock"),
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
    }
    for text in ["", "https://otel:4317", "otel:4317", "unix:relative", "http://", "http://otel/v1/traces", "http:///x"]
    {
        assert!(text.parse::<Endpoint>().is_err(), "{text}");
    }
}

/// A collector that hands over each message and answers with gRPC status `code`.
async fn collect(listener: UnixListener, code: &'static str, got: mpsc::Sender<ExportTraceServiceRequest>) {
    while let Ok((stream, _)) = listener.accept().await {
        let got = got.clone();
        let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let got = got.clone();
            async move {
                assert_eq!(request.uri().path(), EXPORT);
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let _ = got.send(ExportTraceServiceRequest::decode(&body[5..]).unwrap()).await;
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", code.parse().unwrap());
                let frames =
                    [Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
                let body = StreamBody::new(futures::stream::iter(frames));
                Ok::<_, Infallible>(
                    http::Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
                )
            }
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

fn metric(metrics: &Metrics, series: &str) -> u64 {
    metrics.render().lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap()
}

#[tokio::test]
async fn spans_arrive_in_batches_with_resource_and_parent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("otel.sock");
    let (got, mut received) = mpsc::channel(8);
    tokio::spawn(collect(UnixListener::bind(&path).unwrap(), "0", got));
    let metrics = Metrics::new(1);
    let (tracer, queue) = Tracer::new(&metrics);
    let resource = vec![("service.name", "shop/web".to_owned())];
    tracer.configure(ExportTarget { endpoint: Some(Endpoint::Unix(path)), sampling: 1.0, resource });
    let root = tracer.root();
    for context in [root.clone(), root.child()] {
        let mut span = context.span(Kind::Client, "outbound", tracer.now_ns()).unwrap();
        span.set("isthmus.link", "circuit");
        tracer.record(span);
    }
    let shutdown = CancellationToken::new();
    let exporter = tokio::spawn(run_exporter(queue, DialOptions::default(), shutdown.clone()));
    let message = received.recv().await.unwrap();
    let [of] = &message.resource_spans[..] else { panic!("{message:?}") };
    assert_eq!(of.resource.as_ref().unwrap().attributes[0].key, "service.name");
    let spans = &of.scope_spans[0].spans;
    assert_eq!(spans.len(), 2);
    assert_eq!(spans[1].parent_span_id, spans[0].span_id);
    assert_eq!(spans[1].trace_id, root.trace_id.0);
    shutdown.cancel();
    exporter.await.unwrap();
    assert_eq!(metric(&metrics, "isthmus_spans_exported_total"), 2);
}

#[tokio::test]
async fn a_refused_batch_is_dropped_and_counted_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("otel.sock");
    let (got, mut received) = mpsc::channel(8);
    tokio::spawn(collect(UnixListener::bind(&path).unwrap(), "3", got));
    let metrics = Metrics::new(1);
    let (tracer, queue) = Tracer::new(&metrics);
    tracer.configure(ExportTarget { endpoint: Some(Endpoint::Unix(path)), sampling: 1.0, resource: Vec::new() });
    tracer.record(tracer.root().span(Kind::Client, "outbound", 1).unwrap());
    let shutdown = CancellationToken::new();
    let exporter = tokio::spawn(run_exporter(queue, DialOptions::default(), shutdown.clone()));
    received.recv().await.unwrap();
    shutdown.cancel();
    exporter.await.unwrap();
    assert!(received.try_recv().is_err());
    let lost = metric(&metrics, "isthmus_spans_dropped_total{reason=\"export-failed\"}");
    assert_eq!(lost, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_a_bounded_time_and_every_span_is_counted() {
    let metrics = Metrics::new(1);
    let (tracer, queue) = Tracer::with_capacity(&metrics, 4);
    let endpoint = Some(Endpoint::Unix("/nowhere/at/all.sock".into()));
    tracer.configure(ExportTarget { endpoint, sampling: 1.0, resource: Vec::new() });
    for _ in 0..10 {
        tracer.record(tracer.root().span(Kind::Client, "outbound", 1).unwrap());
    }
    let shutdown = CancellationToken::new();
    let exporter = tokio::spawn(run_exporter(queue, DialOptions::default(), shutdown.clone()));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(metric(&metrics, "isthmus_spans_dropped_total{reason=\"queue-full\"}"), 6);
    assert_eq!(metric(&metrics, "isthmus_spans_dropped_total{reason=\"export-failed\"}"), 4);
    shutdown.cancel();
    exporter.await.unwrap();
}
