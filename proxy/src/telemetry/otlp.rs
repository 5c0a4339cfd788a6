//! Takes spans from the queue, in batches, to an OTLP/gRPC collector. Runs on the control runtime.
//!
//! A collector that is slow, dead or absent costs no request anything and a bounded amount of memory: the queue and one
//! batch. What cannot be delivered in that bound is dropped and counted by reason.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::redirect::Exemption;

use super::otlp_message::request;
use super::span::Span;
use super::tracer::{DropReason, ExportTarget, SpanQueue};

/// Spans per message: some 200 KiB at most, well under gRPC's 4 MiB.
const BATCH: usize = 512;
/// How long the first span of a batch waits for company.
const LINGER: Duration = Duration::from_millis(250);
/// One attempt, connecting included.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Attempts per batch before it is given up, with back-off between them.
const ATTEMPTS: u32 = 4;
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// What stopping may take: the last spans are worth one short attempt.
const LAST_FLUSH: Duration = Duration::from_secs(2);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Where a collector listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port`, gRPC without TLS: a collector beside the proxy, or one behind the mesh.
    Http { host: String, port: u16 },
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Why a text names no collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no OTLP/gRPC endpoint: write http://host:4317 or unix:/path (https is not spoken to collectors)")]
pub struct EndpointError {
    text: String,
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let error = || EndpointError { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Endpoint::Unix(path.into()))
            } else {
                Err(error())
            };
        }
        let uri: Uri = text.parse().map_err(|_| error())?;
        let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
        let host = uri.host().filter(|host| plain && !host.is_empty()).ok_or_else(error)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        // 4317 is the port registered for OTLP/gRPC.
        Ok(Endpoint::Http {
            host,
            port: uri.port_u16().unwrap_or(4317),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Http { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Endpoint::Http { host, port } => write!(f, "http://{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Exports until `shutdown`, then flushes once and ends.
pub async fn run_exporter(mut queue: SpanQueue, exempt: Exemption, shutdown: CancellationToken) {
    let mut connection = None;
    let mut batch = Vec::with_capacity(BATCH);
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = gather(&mut queue, &mut batch) => {}
        }
        queue.tracer.realign_clock();
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = deliver(&mut queue, &mut connection, exempt, &mut batch) => {}
        }
    }
    flush_last(&mut queue, &mut connection, exempt, batch).await;
}

/// Waits for a span, then for as many as come within [`LINGER`].
async fn gather(queue: &mut SpanQueue, batch: &mut Vec<Span>) {
    if batch.is_empty() && queue.spans.recv_many(batch, BATCH).await == 0 {
        return std::future::pending().await; // Closed: cannot be while the queue itself holds a tracer.
    }
    let deadline = Instant::now() + LINGER;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        if timeout_at(deadline, queue.spans.recv_many(batch, room)).await.is_err() {
            return;
        }
    }
}

/// Sends one batch, with back-off between attempts; leaves `batch` empty, delivered or not.
async fn deliver(queue: &mut SpanQueue, connection: &mut Option<Connection>, exempt: Exemption, batch: &mut Vec<Span>) {
    let mut backoff = BACKOFF_FIRST;
    for attempt in 1..=ATTEMPTS {
        let target = queue.target.borrow_and_update().clone();
        let Some(channel) = connect(connection, &target, exempt) else {
            return give_up(queue, batch, DropReason::NoCollector);
        };
        let error = match timeout(ATTEMPT, export(channel, &target, batch)).await {
            Ok(Ok(rejected)) => return delivered(queue, batch, rejected),
            Ok(Err(status)) if !is_retryable(status.code()) => {
                tracing::warn!(%status, "the OTLP collector refused a batch of spans; it is dropped");
                return give_up(queue, batch, DropReason::ExportFailed);
            }
            Ok(Err(status)) => status.to_string(),
            Err(_) => format!("no answer within {ATTEMPT:?}"),
        };
        if attempt == 1 {
            tracing::warn!(
                error,
                "spans cannot be exported; check that the OTLP collector runs and listens there"
            );
        }
        *connection = None;
        wait_or_new_target(&mut queue.target, backoff.mul_f64(rand::rng().random_range(0.5..1.0))).await;
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
    give_up(queue, batch, DropReason::ExportFailed);
}

/// A new collector is tried at once, not when the old one's back-off ends.
async fn wait_or_new_target(target: &mut watch::Receiver<ExportTarget>, pause: Duration) {
    tokio::select! {
        () = sleep(pause) => {}
        Ok(()) = target.changed() => {}
    }
}

async fn flush_last(
    queue: &mut SpanQueue,
    connection: &mut Option<Connection>,
    exempt: Exemption,
    mut batch: Vec<Span>,
) {
    let deadline = Instant::now() + LAST_FLUSH;
    loop {
        while batch.len() < BATCH
            && let Ok(span) = queue.spans.try_recv()
        {
            batch.push(span);
        }
        if batch.is_empty() {
            return;
        }
        if timeout_at(deadline, deliver(queue, connection, exempt, &mut batch))
            .await
            .is_err()
        {
            return give_up(queue, &mut batch, DropReason::ExportFailed);
        }
    }
}

fn delivered(queue: &SpanQueue, batch: &mut Vec<Span>, rejected: u64) {
    let metrics = queue.tracer.metrics();
    let rejected = rejected.min(batch.len() as u64);
    metrics.spans_exported(batch.len() as u64 - rejected);
    metrics.spans_dropped(DropReason::ExportFailed, rejected);
    batch.clear();
}

fn give_up(queue: &SpanQueue, batch: &mut Vec<Span>, reason: DropReason) {
    queue.tracer.metrics().spans_dropped(reason, batch.len() as u64);
    batch.clear();
}

/// OTLP's own list of codes that a client tries again after.
fn is_retryable(code: tonic::Code) -> bool {
    use tonic::Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    // Unknown is how a connection that broke shows itself here.
    matches!(
        code,
        Cancelled | DeadlineExceeded | Aborted | OutOfRange | Unavailable | DataLoss | ResourceExhausted
    ) || code == tonic::Code::Unknown
}

/// The number of spans that the collector took no part of.
async fn export(channel: Channel, target: &ExportTarget, batch: &[Span]) -> Result<u64, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<ExportTraceServiceRequest, ExportTraceServiceResponse>::default();
    let message = tonic::Request::new(request(&target.resource, batch));
    let answer = client
        .unary(message, PathAndQuery::from_static(EXPORT), codec)
        .await?
        .into_inner();
    Ok(answer
        .partial_success
        .map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
}

struct Connection {
    to: Endpoint,
    channel: Channel,
}

fn connect(connection: &mut Option<Connection>, target: &ExportTarget, exempt: Exemption) -> Option<Channel> {
    let to = target.endpoint.clone()?;
    if let Some(kept) = connection.as_ref().filter(|kept| kept.to == to) {
        return Some(kept.channel.clone());
    }
    let channel = open(to.clone(), exempt);
    *connection = Some(Connection {
        to,
        channel: channel.clone(),
    });
    Some(channel)
}

fn open(to: Endpoint, exempt: Exemption) -> Channel {
    // The URI only fills `:authority`; the connector below decides where the bytes go.
    let authority = match &to {
        Endpoint::Http { .. } => to.to_string(),
        Endpoint::Unix(_) => "http://localhost".to_owned(),
    };
    let endpoint = Channel::from_shared(authority).unwrap_or_else(|_| Channel::from_static("http://localhost"));
    endpoint
        .connect_timeout(ATTEMPT)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| dial(to.clone(), exempt)))
}

async fn dial(to: Endpoint, exempt: Exemption) -> io::Result<TokioIo<CollectorStream>> {
    match to {
        Endpoint::Unix(path) => Ok(TokioIo::new(
            Box::new(tokio::net::UnixStream::connect(path).await?) as CollectorStream
        )),
        Endpoint::Http { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for address in tokio::net::lookup_host((host.as_str(), port)).await? {
                match exempt.connect(address).await {
                    Ok(stream) => return Ok(TokioIo::new(Box::new(stream) as CollectorStream)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

type CollectorStream = Box<dyn AsyncDuplex>;

trait AsyncDuplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> AsyncDuplex for T {}

#[cfg(test)]
#[path = "otlp_test.rs"]
mod otlp_test;
