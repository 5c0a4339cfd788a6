use std::convert::Infallible;
use std::io::Read as _;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::super::metrics::{Direction, Metrics};
use super::super::span::TraceId;
use super::*;

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// A collector that hands over each message.
async fn collect(listener: UnixListener, got: mpsc::Sender<ExportMetricsServiceRequest>) {
    while let Ok((stream, _)) = listener.accept().await {
        let got = got.clone();
        let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let got = got.clone();
            async move {
                assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let _ = got.send(ExportMetricsServiceRequest::decode(&unzipped(&body[5..])[..]).unwrap()).await;
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                let frames =
                    [Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
                let body = StreamBody::new(futures::stream::iter(frames));
                let answer = http::Response::builder().header("content-type", "application/grpc").body(body);
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

fn find<'a>(message: &'a ExportMetricsServiceRequest, name: &str) -> &'a Metric {
    let all = &message.resource_metrics[0].scope_metrics[0].metrics;
    all.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn sum(metric: &Metric) -> i64 {
    let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    assert!(sum.is_monotonic && sum.aggregation_temporality == AggregationTemporality::Cumulative as i32);
    let value = |point: &NumberDataPoint| match point.value {
        Some(number_data_point::Value::AsInt(count)) => count,
        ref other => panic!("{other:?}"),
    };
    sum.data_points.iter().map(value).sum()
}

#[tokio::test]
async fn what_is_counted_arrives_whole_each_time_and_once_more_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("otel.sock");
    let (got, mut received) = mpsc::channel(8);
    tokio::spawn(collect(UnixListener::bind(&path).unwrap(), got));
    let metrics = Metrics::new(1);
    let (tracer, _queue) = Tracer::new(&metrics);
    let traced = Some(super::super::exemplar::Exemplar { trace: TraceId([7; 16]), at_ms: 1_700_000_000_123 });
    metrics.request(Direction::Inbound, 200, Duration::from_micros(800), traced);
    metrics.request(Direction::Inbound, 200, Duration::from_secs(60), None);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_metrics_push(tracer.clone(), DialOptions::default(), stop.clone()));
    let resource = vec![("service.name".into(), "shop/web".to_owned())];
    let target = PushTarget { endpoint: Endpoint::Unix(path), every: Duration::from_millis(20), resource };
    metrics.push_to(Some(target));
    let first = received.recv().await.unwrap();
    let of = first.resource_metrics[0].resource.as_ref().unwrap();
    assert_eq!(of.attributes[0].key, "service.name");
    assert_eq!(sum(find(&first, "isthmus_requests")), 2);
    let seconds = find(&first, "isthmus_request_duration_seconds");
    assert_eq!(seconds.unit, "s");
    let Some(metric::Data::Histogram(histogram)) = &seconds.data else { panic!("{seconds:?}") };
    let is_inbound =
        |point: &&HistogramDataPoint| point.attributes.iter().any(|of| of.value == attribute("", "inbound").value);
    let point = histogram.data_points.iter().find(is_inbound).unwrap();
    assert_eq!((point.count, point.bucket_counts.len(), point.explicit_bounds.len()), (2, 17, 16));
    assert_eq!((point.bucket_counts[3], point.bucket_counts[16]), (1, 1));
    assert_eq!((point.exemplars.len(), point.exemplars[0].trace_id.as_slice()), (1, [7; 16].as_slice()));
    assert!(point.start_time_unix_nano > 0 && point.time_unix_nano >= point.start_time_unix_nano);
    let gauge = find(&first, "isthmus_ready");
    assert!(matches!(gauge.data, Some(metric::Data::Gauge(_))));
    // The same again: counts are whole.
    assert_eq!(sum(find(&received.recv().await.unwrap(), "isthmus_requests")), 2);
    metrics.request(Direction::Inbound, 200, Duration::from_micros(800), None);
    stop.cancel();
    running.await.unwrap();
    let mut last = None;
    while let Ok(message) = received.try_recv() {
        last = Some(message);
    }
    assert_eq!(sum(find(&last.unwrap(), "isthmus_requests")), 3, "the last push has the last count");
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_not_there_holds_nothing_up() {
    let metrics = Metrics::new(1);
    let (tracer, _queue) = Tracer::new(&metrics);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_metrics_push(tracer, DialOptions::default(), stop.clone()));
    let endpoint = Endpoint::Unix("/nowhere/at/all.sock".into());
    metrics.push_to(Some(PushTarget { endpoint, every: Duration::from_secs(10), resource: vec![] }));
    sleep(Duration::from_secs(600)).await;
    stop.cancel();
    timeout(Duration::from_secs(2), running).await.expect("ends at once").unwrap();
}

/// A family that has no sample yet is not sent; the rest is, each under its own name once.
#[test]
fn every_family_of_the_page_is_pushed_once() {
    let page = Metrics::new(1).page();
    let message = request(&page, &[], 1, 2);
    let mut names: Vec<&str> =
        message.resource_metrics[0].scope_metrics[0].metrics.iter().map(|metric| metric.name.as_str()).collect();
    let with_samples = page.families.iter().filter(|of| !of.samples.is_empty()).count();
    assert_eq!(names.len(), with_samples - 1, "all but target_info");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), with_samples - 1);
}
