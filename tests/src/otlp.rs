//! An OTLP/gRPC receiver: where the proxies send their spans, and where a test asks for them. Spans are kept as they
//! came, in order, up to a bound.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;

use crate::error::Error;
use crate::host::{Host, Task};

/// Spans that are kept; the oldest go first and are counted.
const KEPT: usize = 200_000;

/// A span, with ids in hexadecimal as in `traceparent`.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// Empty for a root.
    pub parent_id: String,
    /// Its name.
    pub name: String,
    /// OTLP's number: 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// OTLP's status code: 0 unset, 1 ok, 2 error.
    pub status: i32,
    /// Attributes; numbers and truth values as text.
    pub attributes: Vec<(String, String)>,
    /// Attributes of the sender, such as `service.name`.
    pub resource: Arc<[(String, String)]>,
}

impl Span {
    /// An attribute of the span, or of its resource.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter().chain(self.resource.iter());
        all.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// How long it took.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.end_ns.saturating_sub(self.start_ns))
    }
}

/// A receiver. It can listen in several places at once; all spans come together. Dropping it ends them.
#[derive(Default)]
pub struct Receiver {
    store: Arc<Store>,
    listeners: Vec<Task<()>>,
}

#[derive(Default)]
struct Store {
    spans: Mutex<Spans>,
    changed: Condvar,
}

#[derive(Default)]
struct Spans {
    kept: VecDeque<Span>,
    dropped: u64,
}

impl Receiver {
    /// A receiver that does not listen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens on TCP in `host`; returns the address, with the port that was chosen for 0.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen_tcp(&mut self, host: &Host, address: SocketAddr) -> Result<SocketAddr, Error> {
        let doing = format!("listening for spans on {address} in {}", host.name());
        let bound = host.block_on(async move {
            let listener = TcpListener::bind(address).await?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(|error: std::io::Error| Error::system(doing, error))?;
        let service = self.service();
        self.listeners.push(host.tokio(async move {
            let served = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
            report(served.await);
        }));
        Ok(address)
    }

    /// Listens on a unix socket, which every host reaches: namespaces share the file system. `host` lends its runtime.
    /// Every user may connect, because proxies run as users of their own.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen_unix(&mut self, host: &Host, path: &Path) -> Result<(), Error> {
        let doing = format!("listening for spans on {}", path.display());
        let socket = path.to_path_buf();
        let bound = host.block_on(async move {
            let listener = UnixListener::bind(&socket)?;
            std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
            Ok(listener)
        });
        let listener = bound.map_err(|error: std::io::Error| Error::system(doing, error))?;
        let service = self.service();
        self.listeners.push(host.tokio(async move {
            let served = Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
            report(served.await);
        }));
        Ok(())
    }

    /// All spans that are kept, in order of arrival.
    pub fn spans(&self) -> Vec<Span> {
        self.store.lock().kept.iter().cloned().collect()
    }

    /// The spans of one trace (32 hexadecimal digits), in order of their start.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let mut spans: Vec<Span> = self.store.lock().of(trace_id).cloned().collect();
        spans.sort_by_key(|span| span.start_ns);
        spans
    }

    /// How many spans came, including those that are no longer kept.
    pub fn received(&self) -> u64 {
        let spans = self.store.lock();
        spans.dropped + spans.kept.len() as u64
    }

    /// Forgets all spans.
    pub fn clear(&self) {
        *self.store.lock() = Spans::default();
    }

    /// Waits until `predicate` holds of all kept spans; returns a copy of them.
    ///
    /// # Errors
    /// [`Error::Deadline`] with the names of the last spans.
    pub fn wait(
        &self,
        what: &str,
        deadline: Duration,
        predicate: impl Fn(&[Span]) -> bool,
    ) -> Result<Vec<Span>, Error> {
        self.wait_among(what, deadline, |_| true, predicate)
    }

    /// Waits until `predicate` holds of the spans of one trace; returns them in order of their start.
    ///
    /// # Errors
    /// [`Error::Deadline`] with the names of the spans of that trace.
    pub fn wait_for_trace(
        &self,
        trace_id: &str,
        deadline: Duration,
        predicate: impl Fn(&[Span]) -> bool,
    ) -> Result<Vec<Span>, Error> {
        let mut spans = self.wait_among("the trace", deadline, |span| span.trace_id == trace_id, predicate)?;
        spans.sort_by_key(|span| span.start_ns);
        Ok(spans)
    }

    fn wait_among(
        &self,
        what: &str,
        deadline: Duration,
        which: impl Fn(&Span) -> bool,
        predicate: impl Fn(&[Span]) -> bool,
    ) -> Result<Vec<Span>, Error> {
        let until = Instant::now() + deadline;
        let mut spans = self.store.lock();
        loop {
            let chosen: Vec<Span> = spans.kept.iter().filter(|span| which(span)).cloned().collect();
            if predicate(&chosen) {
                return Ok(chosen);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let names: Vec<&str> = chosen.iter().rev().take(20).map(|span| span.name.as_str()).collect();
                let detail = format!("{} spans, {names:?}", chosen.len());
                return Err(Error::Deadline { what: what.to_owned(), after: deadline, detail });
            }
            spans = self.store.changed.wait_timeout(spans, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn service(&self) -> TraceServiceServer<Service> {
        TraceServiceServer::new(Service(Arc::clone(&self.store)))
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spans {
    fn of(&self, trace_id: &str) -> impl Iterator<Item = &Span> {
        self.kept.iter().filter(move |span| span.trace_id == trace_id)
    }
}

struct Service(Arc<Store>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut spans = self.0.lock();
        for group in request.into_inner().resource_spans {
            let resource: Arc<[(String, String)]> = attributes(group.resource.unwrap_or_default().attributes).into();
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if spans.kept.len() == KEPT {
                    spans.kept.pop_front();
                    spans.dropped += 1;
                }
                spans.kept.push_back(from_wire(span, Arc::clone(&resource)));
            }
        }
        drop(spans);
        self.0.changed.notify_all();
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn from_wire(span: WireSpan, resource: Arc<[(String, String)]>) -> Span {
    Span {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_id: hex(&span.parent_span_id),
        name: span.name,
        kind: span.kind,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        status: span.status.map_or(0, |status| status.code),
        attributes: attributes(span.attributes),
        resource,
    }
}

fn attributes(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn report(served: Result<(), tonic::transport::Error>) {
    if let Err(error) = served {
        eprintln!("span receiver: {error}");
    }
}
