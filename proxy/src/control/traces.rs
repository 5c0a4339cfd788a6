//! Tells the control plane the spans of a few requests a second, while no collector is configured: it keeps the last ones in
//! memory. Over the connection of the discovery stream; while there is none, none are made. Nothing is sent twice: what a
//! call loses is lost, and counted.

use std::time::Duration;

use isthmus_proto::traces::v1 as wire;
use isthmus_proto::traces::v1::traces_client::TracesClient;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tracing::debug;

use super::Context;
use crate::telemetry::{DropReason, KeptSpans, Kind, Span, Status, Value};

/// Traces that one proxy begins in a second, at most, and that it goes on with where others began them.
const BEGIN: u32 = 10;
const GO_ON: u32 = 100;
/// Between two reports, until the control plane says otherwise.
const EVERY: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(600);
const MOST: usize = 512;
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// A control plane that is older, or that has a collector configured, is asked again after this.
const NOT_WANTED: Duration = Duration::from_secs(60);

/// Ends only with the proxy.
pub(super) async fn keep_telling(context: &Context, kept: Option<KeptSpans>) {
    let Some(mut kept) = kept else { return std::future::pending().await };
    let (mut every, mut most) = (EVERY, MOST);
    loop {
        // A fleet that started together does not report together.
        sleep(every.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        let channel = context.channel.borrow().clone();
        let wanted = channel.is_some() && context.state.snapshot().telemetry().otlp.is_none();
        let seconds = u32::try_from(every.as_secs()).unwrap_or(u32::MAX).max(1);
        match wanted {
            true => kept.allow(BEGIN.saturating_mul(seconds), GO_ON.saturating_mul(seconds)),
            false => kept.allow(0, 0),
        }
        let spans = kept.take(most);
        let Some(channel) = channel.filter(|_| !spans.is_empty()) else {
            lose(context, DropReason::NoCollector, spans.len());
            continue;
        };
        let told = spans.len();
        let request =
            wire::ReportRequest { workload: context.workload.clone(), spans: spans.into_iter().map(span).collect() };
        let mut client = TracesClient::new(channel);
        match timeout(ANSWER_DEADLINE, client.report(request)).await {
            Ok(Ok(answer)) => {
                context.metrics.spans_exported(told as u64);
                let wire::ReportResponse { next_ms, most: next_most } = answer.into_inner();
                every = Duration::from_millis(next_ms.into()).clamp(EVERY, LONGEST);
                most = usize::try_from(next_most).unwrap_or(MOST).clamp(1, MOST);
            }
            Ok(Err(status)) => {
                lose(context, DropReason::ExportFailed, told);
                if matches!(status.code(), Code::Unimplemented | Code::FailedPrecondition) {
                    debug!("the control plane keeps no traces: {status}");
                    kept.allow(0, 0);
                    sleep(NOT_WANTED).await;
                }
            }
            Err(_) => lose(context, DropReason::ExportFailed, told),
        }
    }
}

fn lose(context: &Context, reason: DropReason, count: usize) {
    if count > 0 {
        context.metrics.spans_dropped(reason, count as u64);
    }
}

fn span(span: Span) -> wire::Span {
    let (failed, error) = match span.status {
        Status::Error(word) => (true, word.to_owned()),
        Status::Unset | Status::Ok => (false, String::new()),
    };
    wire::Span {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        parent_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        name: span.name.to_string(),
        kind: match span.kind {
            Kind::Internal => wire::Kind::Internal,
            Kind::Server => wire::Kind::Server,
            Kind::Client => wire::Kind::Client,
        }
        .into(),
        start_unix_ns: span.start_ns,
        end_unix_ns: span.end_ns,
        failed,
        error,
        attributes: span.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
    }
}

fn attribute(name: &str, value: Value<'_>) -> wire::Attribute {
    wire::Attribute { name: name.to_owned(), value: value.to_text().into_owned() }
}
