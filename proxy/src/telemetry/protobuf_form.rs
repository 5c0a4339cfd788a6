//! A page as protocol buffers: what Prometheus asks for where it takes native histograms. Messages of
//! `io.prometheus.client`, by the field numbers of that published schema; only the fields that we fill.

use prost::Message;

use super::cells::{BUCKETS_US, FINE_FIRST, FINE_SCHEMA, FINE_ZERO};
use super::exemplar::Exemplar;
use super::page::{Durations, Number, Page, Sample, Samples};

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) help: String,
    #[prost(enumeration = "Kind", tag = "3")]
    pub(super) kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub(super) metrics: Vec<Metric>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    Counter = 0,
    Gauge = 1,
    Untyped = 3,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<Value>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Value>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LabelPair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// `Gauge` and `Counter` alike.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Histogram {
    #[prost(uint64, tag = "1")]
    pub(super) count: u64,
    #[prost(double, tag = "2")]
    pub(super) sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub(super) buckets: Vec<Bucket>,
    #[prost(sint32, tag = "5")]
    pub(super) schema: i32,
    #[prost(double, tag = "6")]
    pub(super) zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    pub(super) zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    pub(super) spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub(super) deltas: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    #[prost(uint64, tag = "1")]
    pub(super) cumulative_count: u64,
    #[prost(double, tag = "2")]
    pub(super) upper_bound: f64,
    #[prost(message, optional, tag = "3")]
    pub(super) exemplar: Option<ExemplarMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct BucketSpan {
    #[prost(sint32, tag = "1")]
    pub(super) offset: i32,
    #[prost(uint32, tag = "2")]
    pub(super) length: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExemplarMessage {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    pub(super) value: f64,
    #[prost(message, optional, tag = "3")]
    pub(super) at: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

/// Each family with its length before it.
pub(super) fn write(page: &Page) -> Vec<u8> {
    page.families.iter().filter(|of| !of.samples.is_empty()).fold(Vec::new(), |mut bytes, of| {
        bytes.extend(family(of).encode_length_delimited_to_vec());
        bytes
    })
}

fn family(of: &Samples) -> MetricFamily {
    let kind = match of.family.kind {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        _ => Kind::Untyped,
    };
    MetricFamily {
        name: of.family.name.to_owned(),
        help: of.family.help.to_owned(),
        kind: kind.into(),
        metrics: of.samples.iter().map(|sample| metric(sample, kind)).collect(),
    }
}

fn metric(sample: &Sample, kind: Kind) -> Metric {
    let pair = |(name, value): &(String, String)| LabelPair { name: name.clone(), value: value.clone() };
    let mut metric = Metric { labels: sample.labels.iter().map(pair).collect(), ..Metric::default() };
    let value = match &sample.value {
        Number::Whole(count) => Value { value: *count as f64 },
        Number::Real(number) => Value { value: *number },
        Number::Durations(durations) => {
            metric.histogram = Some(histogram(durations));
            return metric;
        }
    };
    match kind {
        Kind::Counter => metric.counter = Some(value),
        _ => metric.gauge = Some(value),
    }
    metric
}

/// Both kinds of buckets: who takes no native ones reads the others.
fn histogram(of: &Durations) -> Histogram {
    // Both kinds were read while workers counted on: a reader refuses a native histogram whose buckets are not its count.
    let (mut total, whole) = (0, of.zero + of.fine.iter().sum::<u64>());
    let buckets = of.counts.iter().enumerate().map(|(at, count)| {
        total += count;
        let bound = BUCKETS_US.get(at).map(|us| *us as f64 / 1e6);
        let cumulative_count = if bound.is_some() { total.min(whole) } else { whole };
        let upper_bound = bound.unwrap_or(f64::INFINITY);
        Bucket { cumulative_count, upper_bound, exemplar: of.exemplars[at].map(exemplar) }
    });
    let buckets: Vec<Bucket> = buckets.collect();
    let (spans, deltas) = sparse(&of.fine);
    Histogram {
        count: whole,
        sum: of.sum_seconds(),
        buckets,
        schema: FINE_SCHEMA,
        zero_threshold: FINE_ZERO,
        zero_count: of.zero,
        spans,
        deltas,
    }
}

/// Runs of buckets that have something in them, each by its distance from the end of the one before, and their counts as
/// differences.
fn sparse(fine: &[u64]) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas): (Vec<BucketSpan>, Vec<i64>) = (Vec::new(), Vec::new());
    let (mut end, mut before) = (0, 0);
    for (at, count) in fine.iter().enumerate().filter(|(_, count)| **count > 0) {
        let index = FINE_FIRST + i32::try_from(at).unwrap_or(i32::MAX);
        match spans.last_mut() {
            Some(span) if index == end => span.length += 1,
            Some(_) => spans.push(BucketSpan { offset: index - end, length: 1 }),
            None => spans.push(BucketSpan { offset: index, length: 1 }),
        }
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        deltas.push(count - before);
        (end, before) = (index + 1, count);
    }
    if spans.is_empty() {
        // Says that it is a native one, though nothing is in it.
        spans.push(BucketSpan { offset: 0, length: 0 });
    }
    (spans, deltas)
}

fn exemplar((exemplar, us): (Exemplar, u64)) -> ExemplarMessage {
    let at = Timestamp {
        seconds: i64::try_from(exemplar.at_ms / 1_000).unwrap_or(0),
        nanos: i32::try_from(exemplar.at_ms % 1_000 * 1_000_000).unwrap_or(0),
    };
    let label = LabelPair { name: "trace_id".to_owned(), value: exemplar.trace.to_string() };
    ExemplarMessage { labels: vec![label], value: us as f64 / 1e6, at: Some(at) }
}

#[cfg(test)]
#[path = "forms_test.rs"]
mod forms_test;
