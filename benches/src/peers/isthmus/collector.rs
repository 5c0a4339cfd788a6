//! A collector that counts what it is sent, and no more. It shares the processors with the proxies that are measured: one
//! that made something of each span would take as much of them as the proxies do, and leave them fewer requests to a
//! batch. It is over gRPC, and compressed, as collectors take it.

use std::error::Error;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Request, Response};
use isthmus_world::{Host, Task};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tokio::net::{UnixListener, UnixStream};

type Failure = Box<dyn Error + Send + Sync>;

/// The way to a span: resource_spans of the request, scope_spans of those, spans of these (OTLP's trace_service.proto).
const TO_A_SPAN: &[u32] = &[1, 2, 2];
/// A message's flag and length.
const FRAME: usize = 5;
const WINDOW: u32 = 8 << 20;

/// It ends when it is dropped.
pub(super) struct Collector {
    counted: Arc<Counted>,
    _listener: Task<()>,
}

#[derive(Debug, Default)]
struct Counted {
    spans: AtomicU64,
    bytes: AtomicU64,
}

impl Collector {
    /// Listens on a unix socket, which both hosts reach. Every user may connect: proxies have users of their own.
    pub(super) fn listen(host: &Host, path: &Path) -> std::io::Result<Collector> {
        let socket = path.to_owned();
        let listener = host.block_on(async move {
            let listener = UnixListener::bind(&socket)?;
            std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
            Ok::<_, std::io::Error>(listener)
        })?;
        let counted = Arc::<Counted>::default();
        let serving = serve(listener, counted.clone());
        Ok(Collector { counted, _listener: host.tokio(serving) })
    }

    /// Spans that came, and as how many bytes of messages.
    pub(super) fn received(&self) -> (u64, u64) {
        (self.counted.spans.load(Relaxed), self.counted.bytes.load(Relaxed))
    }
}

async fn serve(listener: UnixListener, counted: Arc<Counted>) {
    while let Ok((stream, _)) = listener.accept().await {
        let counted = counted.clone();
        // Owned by its connection: it ends when the proxy does, or with this program.
        tokio::spawn(
            async move { converse(stream, &counted).await.inspect_err(|error| eprintln!("collector: {error}")) },
        );
    }
}

async fn converse(stream: UnixStream, counted: &Arc<Counted>) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let mut connection = builder.handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let ((request, respond), counted) = (call?, counted.clone());
        // It ends with its stream.
        tokio::spawn(async move {
            take(request, respond, &counted).await.inspect_err(|error| eprintln!("collector: {error}"))
        });
    }
    Ok(())
}

async fn take(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    counted: &Counted,
) -> Result<(), Failure> {
    let read = message(request).await?;
    counted.bytes.fetch_add(read.len() as u64, Relaxed);
    counted.spans.fetch_add(spans(&read)?, Relaxed);
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut answer = respond.send_response(head, false)?;
    // An ExportTraceServiceResponse that says nothing.
    answer.send_data(Bytes::from_static(&[0; FRAME]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(answer.send_trailers(trailers)?)
}

async fn message(request: Request<h2::RecvStream>) -> Result<Vec<u8>, Failure> {
    let (mut body, mut whole) = (request.into_body(), Vec::new());
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

/// How many are in a gRPC message.
fn spans(message: &[u8]) -> Result<u64, Failure> {
    let (frame, message) = message.split_at_checked(FRAME).ok_or("a message without a frame")?;
    if frame[0] == 0 {
        return Ok(count(message, TO_A_SPAN)?);
    }
    let mut plain = Vec::with_capacity(message.len() * 8);
    GzDecoder::new(message).read_to_end(&mut plain)?;
    Ok(count(&plain, TO_A_SPAN)?)
}

/// Fields at the end of this way of field numbers.
fn count(mut message: &[u8], way: &[u32]) -> Result<u64, DecodeError> {
    let Some((first, rest)) = way.split_first() else { return Ok(1) };
    let mut found = 0;
    while !message.is_empty() {
        let (field, wire) = decode_key(&mut message)?;
        if field != *first || wire != WireType::LengthDelimited {
            skip_field(wire, field, &mut message, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
        let (inner, after) = message.split_at_checked(length).unwrap_or((message, &[]));
        found += count(inner, rest)?;
        message = after;
    }
    Ok(found)
}
