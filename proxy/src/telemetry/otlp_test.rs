use std::convert::Infallible;
use std::io::Read as _;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::super::collector::Endpoint;
use super::super::metrics::Metrics;
use super::super::span::{Kind, TraceId};
use super::super::tracer::Tracer;
use super::*;

#[test]
fn endpoints_are_http_or_unix_and_nothing_else() {
    for (text, shown) in [
        ("http://otel:4317", "http://otel:4317"),
        ("http://10.0.0.1", "http://10.0.0.1:4317"),
        ("http://[fd00::1]:99/", "http://[fd00::1]:99"),
        ("http://otel:4318/v1/traces", "http://otel:4318/v1/traces"),
        ("http://otel/v1/traces", "http://otel:4318/v1/traces"),
        ("unix:/run/otel.sock", "unix:/run/otel.sock"),
        ("unix:///run/otel.sock", "unix:/run/otel.sock"),
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
    }
    for text in [
        "",
        "https://otel:4317",
        "otel:4317",
        "unix:relative",
        "http://",
        "http://u@otel/",
        "http://otel/?q",
        "http:///x",
    ] {
        assert!(text.parse::<Endpoint>().is_err(), "{text}");
    }
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// A collector that hands over each message and answers with gRPC status `code`.
async fn collect(listener: UnixListener, code: &'static str, got: mpsc::Sender<ExportTraceServiceRequest>) {
    while let Ok((stream, _)) = listener.accept().await {
        let got = got.clone();
        let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let got = got.clone();
            async move {
                assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
                assert_eq!(request.headers()["grpc-encoding"], "gzip");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!((body[0], u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize), (1, body.len() - 5));
                let _ = got.send(ExportTraceServiceRequest::decode(&unzipped(&body[5..])[..]).unwrap()).await;
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
    let resource = vec![("service.name".into(), "shop/web".to_owned())];
    tracer.configure(ExportTarget {
        endpoint: Some(Endpoint::Unix(path)),
        sampling: 1.0,
        resource,
        ..ExportTarget::default()
    });
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
    tracer.configure(ExportTarget { endpoint: Some(Endpoint::Unix(path)), sampling: 1.0, ..ExportTarget::default() });
    tracer.record(tracer.root().span(Kind::Client, "outbound", 1).unwrap());
    let shutdown = CancellationToken::new();
    let exporter = tokio::spawn(run_exporter(queue, DialOptions::default(), shutdown.clone()));
    received.recv().await.unwrap();
    shutdown.cancel();
    exporter.await.unwrap();
    assert!(received.try_recv().is_err());
    let lost = metric(&metrics, "isthmus_spans_dropped_total{reason=\"refused\"}");
    assert_eq!(lost, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_a_bounded_time_and_every_span_is_counted() {
    let metrics = Metrics::new(1);
    let (tracer, queue) = Tracer::with_capacity(&metrics, 4);
    let endpoint = Some(Endpoint::Unix("/nowhere/at/all.sock".into()));
    tracer.configure(ExportTarget { endpoint, sampling: 1.0, ..ExportTarget::default() });
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

/// What a stand-in for an HTTP collector is told to do, one request after the other: status, `Retry-After`.
type Answers = Vec<(u16, Option<&'static str>)>;

/// HTTP/1, by hand: hands over the head and the body of each request.
async fn collect_http(listener: tokio::net::TcpListener, answers: Answers, got: mpsc::Sender<(String, Vec<u8>)>) {
    let mut answers = answers.into_iter();
    while let Ok((mut stream, _)) = listener.accept().await {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) else { break };
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            got.send((head, body)).await.unwrap();
            let (status, after) = answers.next().unwrap_or((200, None));
            let after = after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{after}\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

async fn over_http(answers: Answers) -> (Metrics, mpsc::Receiver<(String, Vec<u8>)>, CancellationToken, TraceId) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap()).parse().unwrap();
    let (got, received) = mpsc::channel(8);
    tokio::spawn(collect_http(listener, answers, got));
    let metrics = Metrics::new(1);
    let (tracer, queue) = Tracer::new(&metrics);
    tracer.configure(ExportTarget { endpoint: Some(endpoint), sampling: 1.0, ..ExportTarget::default() });
    let root = tracer.root();
    tracer.record(root.span(Kind::Client, "GET", tracer.now_ns()).unwrap());
    let shutdown = CancellationToken::new();
    tokio::spawn(run_exporter(queue, DialOptions::default(), shutdown.clone()));
    (metrics, received, shutdown, root.trace_id)
}

fn trace_ids(message: &[u8]) -> Vec<Vec<u8>> {
    let message = ExportTraceServiceRequest::decode(message).unwrap();
    message.resource_spans[0].scope_spans[0].spans.iter().map(|span| span.trace_id.clone()).collect()
}

async fn told(metrics: &Metrics, series: &str) {
    while metric(metrics, series) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_path_means_protobuf_over_http() {
    let (metrics, mut received, stop, trace) = over_http(vec![(200, None)]).await;
    let (head, body) = received.recv().await.unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    for line in ["content-type: application/x-protobuf", "content-encoding: gzip", "host: 127.0.0.1:"] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert_eq!(trace_ids(&unzipped(&body)), [trace.0.to_vec()]);
    told(&metrics, "isthmus_spans_exported_total").await;
    stop.cancel();
}

#[tokio::test]
async fn a_collector_that_cannot_unzip_is_spoken_to_plainly_from_then_on() {
    let (metrics, mut received, stop, trace) = over_http(vec![(415, None), (200, None)]).await;
    let (zipped, _) = received.recv().await.unwrap();
    let (plain, body) = received.recv().await.unwrap();
    assert!(zipped.contains("content-encoding: gzip") && !plain.contains("content-encoding"), "{plain}");
    assert_eq!(trace_ids(&body), [trace.0.to_vec()]);
    told(&metrics, "isthmus_spans_exported_total").await;
    stop.cancel();
}

#[tokio::test]
async fn a_collector_that_has_too_much_to_do_is_asked_again_and_one_that_refuses_is_not() {
    let (metrics, mut received, stop, _) = over_http(vec![(503, Some("0")), (429, None), (200, None)]).await;
    for _ in 0..3 {
        received.recv().await.unwrap();
    }
    told(&metrics, "isthmus_spans_exported_total").await;
    stop.cancel();
    let (metrics, mut received, stop, _) = over_http(vec![(400, None)]).await;
    received.recv().await.unwrap();
    told(&metrics, "isthmus_spans_dropped_total{reason=\"refused\"}").await;
    assert!(received.try_recv().is_err());
    stop.cancel();
}
