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
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::tcp::{DialOptions, dial};

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
            return if path.starts_with('/') { Ok(Endpoint::Unix(path.into())) } else { Err(error()) };
        }
        let uri: Uri = text.parse().map_err(|_| error())?;
        let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
        let host = uri.host().filter(|host| plain && !host.is_empty()).ok_or_else(error)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        // 4317 is the port registered for OTLP/gRPC.
        Ok(Endpoint::Http { host, port: uri.port_u16().unwrap_or(4317) })
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
pub async fn run_exporter(queue: SpanQueue, options: DialOptions, shutdown: CancellationToken) {
    let mut exporter = Exporter { queue, options, shutdown, connection: None, batch: Vec::with_capacity(BATCH) };
    loop {
        let stop = exporter.shutdown.clone();
        tokio::select! {
            () = stop.cancelled() => break,
            () = exporter.gather() => {}
        }
        exporter.queue.tracer.realign_clock();
        exporter.deliver().await;
    }
    exporter.flush_last().await;
}

struct Exporter {
    queue: SpanQueue,
    options: DialOptions,
    shutdown: CancellationToken,
    connection: Option<Connection>,
    /// Taken from the queue, not delivered yet.
    batch: Vec<Span>,
}

struct Connection {
    to: Endpoint,
    channel: Channel,
}

impl Exporter {
    /// Waits for a span, then for as many as come within [`LINGER`].
    async fn gather(&mut self) {
        let Exporter { queue, batch, .. } = self;
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

    /// Sends the batch, with back-off between attempts; leaves it empty, delivered or not.
    async fn deliver(&mut self) {
        let mut backoff = BACKOFF_FIRST;
        for attempt in 1..=ATTEMPTS {
            let target = self.queue.target.borrow_and_update().clone();
            let Some(channel) = self.connect(&target) else {
                return self.give_up(DropReason::NoCollector);
            };
            let outcome = tokio::select! {
                outcome = export(channel, &target, &self.batch) => outcome,
                () = too_long(&self.shutdown) => Err(tonic::Status::deadline_exceeded("no answer in time")),
            };
            let status = match outcome {
                Ok(rejected) => return self.delivered(rejected),
                Err(status) if !is_retryable(status.code()) => {
                    tracing::warn!(%status, "the OTLP collector refused a batch of spans; it is dropped");
                    return self.give_up(DropReason::ExportFailed);
                }
                Err(status) => status,
            };
            if attempt == 1 {
                tracing::warn!(%status, "spans cannot be exported; check that the OTLP collector runs and listens there");
            }
            self.connection = None;
            let pause = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
            backoff = (backoff * 2).min(BACKOFF_MOST);
            if !self.wait_or_new_target(pause).await {
                break;
            }
        }
        self.give_up(DropReason::ExportFailed);
    }

    /// Whether to try again. A new collector is tried at once, not when the old one's back-off ends.
    async fn wait_or_new_target(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = sleep(pause) => true,
            Ok(()) = self.queue.target.changed() => true,
        }
    }

    async fn flush_last(&mut self) {
        let deadline = Instant::now() + LAST_FLUSH;
        loop {
            while self.batch.len() < BATCH
                && let Ok(span) = self.queue.spans.try_recv()
            {
                self.batch.push(span);
            }
            if self.batch.is_empty() {
                return;
            }
            if timeout_at(deadline, self.deliver()).await.is_err() {
                return self.give_up(DropReason::ExportFailed);
            }
        }
    }

    fn delivered(&mut self, rejected: u64) {
        let (metrics, sent) = (self.queue.tracer.metrics(), self.batch.len() as u64);
        let rejected = rejected.min(sent);
        metrics.spans_exported(sent - rejected);
        metrics.spans_dropped(DropReason::ExportFailed, rejected);
        self.batch.clear();
    }

    fn give_up(&mut self, reason: DropReason) {
        self.queue.tracer.metrics().spans_dropped(reason, self.batch.len() as u64);
        self.batch.clear();
    }

    fn connect(&mut self, target: &ExportTarget) -> Option<Channel> {
        let to = target.endpoint.clone()?;
        if let Some(kept) = self.connection.as_ref().filter(|kept| kept.to == to) {
            return Some(kept.channel.clone());
        }
        let channel = open(to.clone(), self.options);
        self.connection = Some(Connection { to, channel: channel.clone() });
        Some(channel)
    }
}

/// One attempt's time; less when the proxy is stopping.
async fn too_long(shutdown: &CancellationToken) {
    let stopping = async {
        shutdown.cancelled().await;
        sleep(LAST_FLUSH).await;
    };
    tokio::select! {
        () = sleep(ATTEMPT) => {}
        () = stopping => {}
    }
}

/// OTLP's own list of codes that a client tries again after.
fn is_retryable(code: tonic::Code) -> bool {
    use tonic::Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    // Unknown is how a connection that broke shows itself here.
    matches!(code, Cancelled | DeadlineExceeded | Aborted | OutOfRange | Unavailable | DataLoss | ResourceExhausted)
        || code == tonic::Code::Unknown
}

/// The number of spans that the collector took no part of.
async fn export(channel: Channel, target: &ExportTarget, batch: &[Span]) -> Result<u64, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<ExportTraceServiceRequest, ExportTraceServiceResponse>::default();
    let message = tonic::Request::new(request(&target.resource, batch));
    let answer = client.unary(message, PathAndQuery::from_static(EXPORT), codec).await?.into_inner();
    Ok(answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
}

pub(super) fn open(to: Endpoint, options: DialOptions) -> Channel {
    // The URI only fills `:authority`; the connector below decides where the bytes go.
    let authority = match &to {
        Endpoint::Http { .. } => to.to_string(),
        Endpoint::Unix(_) => "http://localhost".to_owned(),
    };
    let endpoint = Channel::from_shared(authority).unwrap_or_else(|_| Channel::from_static("http://localhost"));
    endpoint
        .connect_timeout(ATTEMPT)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| reach(to.clone(), options)))
}

async fn reach(to: Endpoint, options: DialOptions) -> io::Result<TokioIo<CollectorStream>> {
    match to {
        Endpoint::Unix(path) => {
            Ok(TokioIo::new(Box::new(tokio::net::UnixStream::connect(path).await?) as CollectorStream))
        }
        Endpoint::Http { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for address in tokio::net::lookup_host((host.as_str(), port)).await? {
                match dial(address, options).await {
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
