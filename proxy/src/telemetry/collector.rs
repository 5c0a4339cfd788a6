//! One OTLP collector: where it is, in which of OTLP's two protocols it is spoken to, and one delivery to it. Compressed,
//! unless the collector has said that it does not read that.

use std::fmt;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_http2::{GRPC_MESSAGE, GRPC_STATUS};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;

use super::gzip::{Piece, gzip};
use crate::tcp::{DialOptions, dial};

/// An answer has a few words at most.
const MAX_ANSWER: usize = 64 * 1024;
/// What a collector may ask us to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Where a collector listens, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port`: gRPC without TLS, with a collector beside the proxy, or one behind the mesh. With a path: protobuf
    /// over HTTP/1.1.
    Http { host: String, port: u16, path: Option<String> },
    /// `unix:/path`: gRPC.
    Unix(PathBuf),
}

/// Why a text names no collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no OTLP endpoint: write http://host:4317 or unix:/path (gRPC), or http://host:4318/v1/traces (HTTP); \
     https is not spoken to collectors"
)]
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
        let plain = uri.scheme_str() == Some("http") && uri.query().is_none() && !text.contains('@');
        let host = uri.host().filter(|host| plain && !host.is_empty()).ok_or_else(error)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = Some(uri.path().to_owned()).filter(|path| path != "/");
        // Registered for OTLP: 4317 over gRPC, 4318 over HTTP.
        let port = uri.port_u16().unwrap_or(if path.is_some() { 4318 } else { 4317 });
        Ok(Endpoint::Http { host, port, path })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Http { host, port, path } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                write!(f, "http://{host}:{port}{}", path.as_deref().unwrap_or_default())
            }
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    const fn grpc(self) -> &'static str {
        match self {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }

    /// The configured path is that of traces; OTLP's own has one beside it for each signal.
    fn http(self, path: &str) -> String {
        match (self, path.strip_suffix("/v1/traces")) {
            (Signal::Metrics, Some(base)) => format!("{base}/v1/metrics"),
            _ => path.to_owned(),
        }
    }
}

/// What is delivered, as gzip has it.
pub(super) struct Message(Vec<u8>);

/// What became of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It took all but so many spans or points.
    Taken(u64),
    /// It will never take these.
    Refused(String),
    /// It may take them later; it may have said when.
    Later(String, Option<Duration>),
}

/// A connection to a collector, made when it is first needed.
pub(super) struct Collector {
    pub(super) at: Endpoint,
    signal: Signal,
    options: DialOptions,
    open: Option<Open>,
    /// It has said that it does not read gzip.
    plain: bool,
}

enum Open {
    Grpc(http2::SendRequest<Full<Bytes>>),
    Http(http1::SendRequest<Full<Bytes>>),
}

impl Collector {
    pub(super) fn new(at: Endpoint, signal: Signal, options: DialOptions) -> Collector {
        Collector { at, signal, options, open: None, plain: false }
    }

    /// One attempt. It ends when its future is dropped: the caller bounds its time.
    pub(super) async fn deliver(&mut self, message: &Message) -> Delivery {
        let answer = self.attempt(message, !self.plain).await;
        match answer {
            Ok(Answered { compression_unknown: true, .. }) if !self.plain => {
                self.plain = true;
                self.attempt(message, false).await.map_or_else(|error| self.broken(&error), |answer| answer.delivery)
            }
            Ok(answer) => answer.delivery,
            Err(error) => self.broken(&error),
        }
    }

    fn broken(&mut self, error: &dyn fmt::Display) -> Delivery {
        self.open = None;
        Delivery::Later(format!("{}: {error}", self.at), None)
    }

    async fn attempt(&mut self, message: &Message, compress: bool) -> Result<Answered, Failed> {
        let authority = match &self.at {
            Endpoint::Http { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Http { host, port, .. } => format!("{host}:{port}"),
            Endpoint::Unix(_) => "localhost".to_owned(),
        };
        let path = match &self.at {
            Endpoint::Http { path: Some(path), .. } => Some(self.signal.http(path)),
            _ => None,
        };
        let signal = self.signal;
        match self.opened(path.is_some()).await? {
            Open::Grpc(sender) => {
                let frame = grpc_frame(message, compress);
                let request = grpc_request(&authority, signal.grpc(), frame, compress)?;
                grpc_answer(sender.send_request(request).await?).await
            }
            Open::Http(sender) => {
                let (path, mut body) = (path.unwrap_or_default(), Vec::new());
                message.write(compress, &mut body);
                http_answer(sender.send_request(http_request(&authority, &path, body, compress)?).await?).await
            }
        }
    }

    async fn opened(&mut self, http: bool) -> Result<&mut Open, Failed> {
        let closed = match &self.open {
            None => true,
            Some(Open::Grpc(sender)) => sender.is_closed(),
            Some(Open::Http(sender)) => sender.is_closed(),
        };
        if closed {
            let io = TokioIo::new(reach(&self.at, self.options).await?);
            // The driving task ends with its sender or its connection.
            self.open = Some(if http {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Open::Http(sender)
            } else {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Open::Grpc(sender)
            });
        }
        let open = self.open.as_mut().ok_or(io::Error::from(io::ErrorKind::NotConnected))?;
        if let Open::Http(sender) = &mut *open {
            sender.ready().await?;
        }
        Ok(open)
    }
}

/// Why an attempt has no answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("its answer: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
}

struct Answered {
    delivery: Delivery,
    compression_unknown: bool,
}

impl From<Delivery> for Answered {
    fn from(delivery: Delivery) -> Self {
        Answered { delivery, compression_unknown: false }
    }
}

impl Message {
    pub(super) fn of<'p>(pieces: impl Iterator<Item = &'p Piece> + Clone) -> Message {
        Message(gzip(pieces))
    }

    /// Adds it to `out`, as it is sent.
    pub(super) fn write(&self, compress: bool, out: &mut Vec<u8>) {
        if compress {
            out.extend_from_slice(&self.0);
        } else {
            // Nothing but what was compressed here is read here.
            let _ = GzDecoder::new(&self.0[..]).read_to_end(out);
        }
    }
}

/// The message as gRPC has it on the wire: whether it is compressed, and its length, before it.
fn grpc_frame(message: &Message, compress: bool) -> Bytes {
    let mut frame = vec![u8::from(compress), 0, 0, 0, 0];
    message.write(compress, &mut frame);
    let length = u32::try_from(frame.len() - 5).unwrap_or(u32::MAX);
    frame[1..5].copy_from_slice(&length.to_be_bytes());
    frame.into()
}

fn grpc_request(
    authority: &str,
    path: &str,
    frame: Bytes,
    compressed: bool,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{authority}{path}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers");
    if compressed {
        request = request.header("grpc-encoding", "gzip");
    }
    request.body(Full::new(frame))
}

fn http_request(
    authority: &str,
    path: &str,
    body: Vec<u8>,
    compressed: bool,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/x-protobuf");
    if compressed {
        request = request.header(CONTENT_ENCODING, "gzip");
    }
    request.body(Full::new(body.into()))
}

async fn grpc_answer(response: http::Response<Incoming>) -> Result<Answered, Failed> {
    const UNIMPLEMENTED: u32 = 12;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Ok(by_status(head.status, &head.headers));
    }
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(Failed::Answer)?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    // A refusal may have its status in the head.
    let said = |name: &HeaderName| trailers.get(name).or_else(|| head.headers.get(name));
    let code = said(&GRPC_STATUS).and_then(|code| code.to_str().ok()?.parse::<u32>().ok());
    let detail = said(&GRPC_MESSAGE).and_then(|text| text.to_str().ok()).unwrap_or_default().to_owned();
    Ok(match code {
        Some(0) => {
            let bytes = body.to_bytes();
            Delivery::Taken(rejected(bytes.get(5..).unwrap_or_default())).into()
        }
        Some(code) if is_retryable(code) => Delivery::Later(format!("gRPC status {code} {detail}"), None).into(),
        Some(code) => Answered {
            delivery: Delivery::Refused(format!("gRPC status {code} {detail}")),
            compression_unknown: code == UNIMPLEMENTED,
        },
        None => Delivery::Later("no gRPC status".to_owned(), None).into(),
    })
}

async fn http_answer(response: http::Response<Incoming>) -> Result<Answered, Failed> {
    let (head, body) = response.into_parts();
    // Read to its end even where nobody wants it: the connection is used again.
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(Failed::Answer)?.to_bytes();
    if head.status.is_success() {
        return Ok(Delivery::Taken(rejected(&body)).into());
    }
    Ok(by_status(head.status, &head.headers))
}

/// OTLP's own list of what a client tries again after.
fn by_status(status: StatusCode, headers: &HeaderMap) -> Answered {
    let detail = format!("HTTP {status}");
    if matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        let after = headers.get(RETRY_AFTER).map(HeaderValue::as_bytes);
        let seconds = after.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let pause = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        return Delivery::Later(detail, pause).into();
    }
    Answered { delivery: Delivery::Refused(detail), compression_unknown: status == StatusCode::UNSUPPORTED_MEDIA_TYPE }
}

/// The same for gRPC: CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
fn is_retryable(code: u32) -> bool {
    matches!(code, 1 | 4 | 8 | 10 | 11 | 14 | 15)
}

/// What the collector took no part of; for each signal the answer has it in the same place.
fn rejected(answer: &[u8]) -> u64 {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0))
}

async fn reach(to: &Endpoint, options: DialOptions) -> io::Result<CollectorStream> {
    match to {
        Endpoint::Unix(path) => Ok(Box::pin(tokio::net::UnixStream::connect(path).await?)),
        Endpoint::Http { host, port, .. } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
                match dial(address, options).await {
                    Ok(stream) => return Ok(Box::pin(stream)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

type CollectorStream = Pin<Box<dyn Duplex>>;

trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send> Duplex for T {}
