//! The counters of the page, pushed to the OTLP collector where MeshConfig asks for it: for sites whose hosts nobody may
//! scrape. Whole counts each time, so that a push that is lost costs nothing but its moment. Runs on the control runtime.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, exemplar, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::tcp::DialOptions;

use super::cells::BUCKETS_US;
use super::collector::{Collector, Delivery, Endpoint, Message, Signal};
use super::gzip::Piece;
use super::page::{Durations, Number, Page, Sample, Samples};
use super::tracer::Tracer;

/// One push, connecting included. It is not tried again: the next one says more.
const ATTEMPT: Duration = Duration::from_secs(5);
/// What stopping may take.
const LAST: Duration = Duration::from_secs(1);

/// Where the counters are pushed to, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct PushTarget {
    pub endpoint: Endpoint,
    pub every: Duration,
    /// As of the spans.
    pub resource: Vec<(Cow<'static, str>, String)>,
}

/// Pushes until `stop`, and once more then, so that what a short life has counted is not lost.
pub async fn run_metrics_push(tracer: Tracer, options: DialOptions, stop: CancellationToken) {
    let mut target = tracer.metrics().pushed_to();
    let (began_ns, mut failing) = (tracer.now_ns(), false);
    let mut connection: Option<Collector> = None;
    loop {
        let wanted = target.borrow_and_update().clone();
        let stopping = wait(wanted.as_ref().map(|to| to.every), &mut target, &stop).await;
        if let Some(to) = wanted {
            let kept = connection.take().filter(|collector| collector.at == to.endpoint);
            let mut collector = kept.unwrap_or_else(|| Collector::new(to.endpoint.clone(), Signal::Metrics, options));
            let message = request(&tracer.metrics().page(), &to.resource, began_ns, tracer.now_ns());
            let within = if stopping { LAST } else { ATTEMPT };
            let message = Message::of([Piece::of(&message.encode_to_vec(), [])].iter());
            let pushed = timeout(within, collector.deliver(&message)).await;
            let why = match pushed {
                Ok(Delivery::Taken(_)) => {
                    (failing, connection) = (false, Some(collector));
                    None
                }
                Ok(Delivery::Refused(why) | Delivery::Later(why, _)) => Some(why),
                Err(_) => Some("no answer in time".to_owned()),
            };
            // Said once, and not each time.
            if let Some(why) = why.filter(|_| !std::mem::replace(&mut failing, true)) {
                tracing::warn!(why, "metrics cannot be pushed; check that the OTLP collector takes them there");
            }
        }
        if stopping {
            return;
        }
    }
}

/// True: the proxy stops.
async fn wait(
    every: Option<Duration>,
    target: &mut watch::Receiver<Option<PushTarget>>,
    stop: &CancellationToken,
) -> bool {
    let due = async {
        match every {
            Some(every) => sleep(every).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => true,
        () = due => false,
        Ok(()) = target.changed() => false,
    }
}

fn request(
    page: &Page,
    resource: &[(Cow<'static, str>, String)],
    began_ns: u64,
    now_ns: u64,
) -> ExportMetricsServiceRequest {
    let times = Times { began_ns, now_ns };
    let scope = InstrumentationScope {
        name: "isthmus-proxy".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    // What target_info says is the resource here.
    let families = page.families.iter().filter(|of| !of.samples.is_empty() && of.family.name != "target_info");
    let metrics = families.map(|of| metric(of, times)).collect();
    let attributes = resource.iter().map(|(name, text)| attribute(name, text)).collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    }
}

#[derive(Clone, Copy)]
struct Times {
    began_ns: u64,
    now_ns: u64,
}

/// By the name that it has in Prometheus, but for `_total`, which a collector that writes for Prometheus adds.
fn metric(of: &Samples, times: Times) -> Metric {
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match of.family.kind {
        "histogram" => {
            let data_points = of.samples.iter().filter_map(|sample| histogram(sample, times)).collect();
            metric::Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
        }
        "counter" => metric::Data::Sum(Sum {
            data_points: of.samples.iter().filter_map(|sample| number(sample, times)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        _ => metric::Data::Gauge(Gauge {
            data_points: of.samples.iter().filter_map(|sample| number(sample, times)).collect(),
        }),
    };
    let name = of.family.name;
    let name = if of.family.kind == "counter" { name.strip_suffix("_total").unwrap_or(name) } else { name };
    let unit = match name {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "",
    };
    Metric {
        name: name.to_owned(),
        description: of.family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(sample: &Sample, times: Times) -> Option<NumberDataPoint> {
    let value = match &sample.value {
        Number::Whole(count) => number_data_point::Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX)),
        Number::Real(number) => number_data_point::Value::AsDouble(*number),
        Number::Durations(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: labels(sample),
        start_time_unix_nano: times.began_ns,
        time_unix_nano: times.now_ns,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(sample: &Sample, times: Times) -> Option<HistogramDataPoint> {
    let Number::Durations(durations) = &sample.value else { return None };
    Some(HistogramDataPoint {
        attributes: labels(sample),
        start_time_unix_nano: times.began_ns,
        time_unix_nano: times.now_ns,
        count: durations.total(),
        sum: Some(durations.sum_seconds()),
        bucket_counts: durations.counts.to_vec(),
        explicit_bounds: BUCKETS_US.iter().map(|us| *us as f64 / 1e6).collect(),
        exemplars: exemplars(durations),
        ..HistogramDataPoint::default()
    })
}

fn exemplars(durations: &Durations) -> Vec<Exemplar> {
    let traced = durations.exemplars.iter().flatten();
    traced
        .map(|(of, us)| Exemplar {
            time_unix_nano: of.at_ms.saturating_mul(1_000_000),
            trace_id: of.trace.0.to_vec(),
            value: Some(exemplar::Value::AsDouble(*us as f64 / 1e6)),
            ..Exemplar::default()
        })
        .collect()
}

fn labels(sample: &Sample) -> Vec<KeyValue> {
    sample.labels.iter().map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, text: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
#[path = "otlp_metrics_test.rs"]
mod otlp_metrics_test;
