//! One tunnel to one endpoint, up to the answer: CONNECT, and with it the app's first bytes. What was sent is held until
//! the answer is there, so that another endpoint can be tried where the answer says that the app was not reached.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::HeaderName;
use http::{Method, Request, Response, StatusCode, Uri};
use isthmus_http2::{Answering, RecvStream, SendStream, StreamError};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

use super::connection::Route;
use super::pool::{Slot, is_unprocessed};
use super::{Outbound, told};
use crate::http::internal::{DECISION, DENIED};
use crate::http::tunnel::copy_tunnel;
use crate::reason::Reason;
use crate::state::{Connect, Endpoint, MeshPeer};
use crate::tcp::copy::Copied;
use crate::telemetry::{ConnectionSpan, MeshSide};

/// What is sent before the answer, at most: it is held for another try. An app that has more waits for the answer.
const PREFIX: usize = 64 * 1024;
const FIRST_READ: usize = 4 * 1024;
/// The callee's proxy gives its app 3 s; the rest is for the link. After this nobody knows what became of it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The app's bytes that were sent and not answered yet: all of them, in order.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    sent: Vec<Bytes>,
    length: usize,
    /// The app has ended its side; the tunnel's copy will see it again and pass it on.
    ended: bool,
}

impl Prefix {
    pub(super) fn new(held: BytesMut) -> Prefix {
        let mut prefix = Prefix::default();
        prefix.push(held.freeze());
        prefix
    }

    fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        if !bytes.is_empty() {
            self.sent.push(bytes);
        }
    }

    /// Whatever the app has said already, without waiting for it: it leaves in one write with the headers. An app that
    /// has just connected says it within the time that one turn of the worker takes.
    pub(super) async fn take_early(&mut self, app: &mut TcpStream) -> io::Result<()> {
        for turn in 0..2 {
            if self.length > 0 || self.ended {
                return Ok(());
            }
            if turn == 1 {
                tokio::task::yield_now().await;
            }
            let mut buffer = BytesMut::with_capacity(FIRST_READ);
            match app.try_read_buf(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(_) => self.push(buffer.freeze()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What it begins with.
    pub(super) fn first(&self) -> Option<&[u8]> {
        self.sent.first().map(AsRef::as_ref)
    }

    /// For whom no tunnel is: everything in one piece.
    pub(super) fn into_bytes(self) -> Bytes {
        match <[Bytes; 1]>::try_from(self.sent) {
            Ok([one]) => one,
            Err(many) => many.concat().into(),
        }
    }
}

/// A tunnel that was asked for; the answer is under way.
pub(super) struct Opened {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) place: usize,
    to: told::Whom,
    slot: Slot,
    response: Answering,
    to_peer: SendStream,
    span: ConnectionSpan,
}

/// A tunnel whose far end is connected to the app.
pub(super) struct Reached {
    to: told::Whom,
    /// Bytes to and from the callee that have passed already.
    early: (u32, u32),
    _slot: Slot,
    to_peer: SendStream,
    pub(super) from_peer: RecvStream,
    span: ConnectionSpan,
}

/// Why a tunnel is not.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("the callee's sidecar refused: {word} (decision {decision})")]
    Refused { reason: Reason, word: String, decision: String },
    #[error("the stream to the callee broke before its answer: {0}")]
    Stream(#[from] StreamError),
    #[error("no answer of the callee's sidecar within {ANSWER_DEADLINE:?}")]
    NoAnswer,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl TunnelError {
    /// Whether the app certainly got nothing, so that the same may be said to another endpoint. A refusal by policy
    /// holds at every endpoint.
    pub(super) fn may_try_another(&self) -> bool {
        match self {
            TunnelError::Refused { reason, .. } => matches!(
                reason,
                Reason::AppUnreachable
                    | Reason::NotMyAddress
                    | Reason::NotReady
                    | Reason::ShuttingDown
                    | Reason::Overloaded
            ),
            TunnelError::Stream(error) => is_unprocessed(error),
            TunnelError::NoAnswer | TunnelError::Io(_) => false,
        }
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            TunnelError::Refused { reason, .. } => Some(*reason),
            TunnelError::Stream(_) => Some(Reason::ConnectFailed),
            TunnelError::NoAnswer => Some(Reason::Timeout),
            TunnelError::Io(_) => None,
        }
    }

    /// Of the callee's sidecar, where it gave one.
    pub(super) fn decision(&self) -> Option<&str> {
        match self {
            TunnelError::Refused { decision, .. } if decision != "none" => Some(decision),
            _ => None,
        }
    }
}

/// Sends CONNECT and the prefix with it.
pub(super) async fn open(
    outbound: &Outbound,
    route: &Route,
    (endpoint, place, port): (&Arc<Endpoint>, usize, u16),
    peer: &MeshPeer,
    prefix: &Prefix,
) -> Result<Opened, (Reason, String)> {
    let slot = outbound.pool.acquire(endpoint, peer).await.map_err(|error| (error.reason(), error.to_string()))?;
    let broken = |error: StreamError| (Reason::ConnectFailed, error.to_string());
    let (response, mut to_peer) =
        slot.send_request(connect_request(endpoint, port, route.span(outbound))?, false).map_err(broken)?;
    for bytes in &prefix.sent {
        // Bounded by PREFIX: no need to wait for the window.
        to_peer.send_data(bytes.clone(), false).map_err(broken)?;
    }
    let (to, span) = (told::Whom::behind(route, endpoint), route.span(outbound).clone());
    Ok(Opened { endpoint: Arc::clone(endpoint), place, to, slot, response, to_peer, span })
}

fn connect_request(endpoint: &Endpoint, port: u16, span: &ConnectionSpan) -> Result<Request<()>, (Reason, String)> {
    let authority = SocketAddr::new(endpoint.ip, port).to_string();
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::try_from(authority).map_err(|error| (Reason::NoEndpoint, error.to_string()))?;
    if let Some(context) = span.context() {
        context.write(request.headers_mut());
    }
    Ok(request)
}

impl Opened {
    /// Waits for the answer. Early: what the app says meanwhile leaves at once, and is held. Confirm: nothing is read.
    pub(super) async fn begin(
        mut self,
        app: &mut TcpStream,
        prefix: &mut Prefix,
        connect: Connect,
    ) -> Result<Reached, TunnelError> {
        let begun = match connect {
            Connect::Early => tokio::time::timeout(ANSWER_DEADLINE, self.answer_early(app, prefix)).await,
            Connect::Confirm => tokio::time::timeout(ANSWER_DEADLINE, self.answer_confirmed(app)).await,
        };
        match begun {
            Ok(Ok(from_peer)) => Ok(self.reached(from_peer, (prefix.length as u32, 0))),
            // Dropping the stream resets it.
            Ok(Err(error)) => Err(error),
            Err(_) => Err(TunnelError::NoAnswer),
        }
    }

    async fn answer_early(&mut self, app: &mut TcpStream, prefix: &mut Prefix) -> Result<RecvStream, TunnelError> {
        loop {
            let room = PREFIX.saturating_sub(prefix.length);
            let bytes = tokio::select! {
                biased;
                answer = &mut self.response => return answered(answer?),
                read = read_some(app, room), if room > 0 && !prefix.ended => read?,
            };
            prefix.ended = bytes.is_empty();
            if !bytes.is_empty() {
                self.to_peer.send_data(bytes.clone(), false)?;
                prefix.push(bytes);
            }
        }
    }

    async fn answer_confirmed(&mut self, app: &TcpStream) -> Result<RecvStream, TunnelError> {
        tokio::select! {
            biased;
            answer = &mut self.response => answered(answer?),
            gone = app.ready(Interest::ERROR) => {
                gone?;
                Err(TunnelError::Io(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }

    /// Resolves with the server's first bytes, if it speaks before anybody else does.
    pub(super) async fn server_speaks(&mut self) -> Result<(RecvStream, Bytes), TunnelError> {
        let mut from_peer = answered((&mut self.response).await?)?;
        match from_peer.data().await {
            Some(bytes) => {
                let bytes = bytes?;
                from_peer.release(bytes.len());
                Ok((from_peer, bytes))
            }
            None => Ok((from_peer, Bytes::new())),
        }
    }

    /// `early`: bytes to and from the callee that have passed already.
    pub(super) fn reached(self, from_peer: RecvStream, early: (u32, u32)) -> Reached {
        Reached { to: self.to, early, _slot: self.slot, to_peer: self.to_peer, from_peer, span: self.span }
    }

    /// What the app said after the tunnel was opened.
    pub(super) fn send(&mut self, prefix: &Prefix) -> Result<(), TunnelError> {
        prefix.sent.iter().try_for_each(|bytes| self.to_peer.send_data(bytes.clone(), false)).map_err(Into::into)
    }
}

impl Reached {
    /// Carries bytes until both sides ended.
    pub(super) fn carry(mut self, outbound: &Rc<Outbound>, mut app: TcpStream) -> impl Future<Output = io::Result<()>> {
        let open = outbound.needs.metrics.stream(MeshSide::Client);
        let (own, began) = (Copied::after((self.early.0 as usize, self.early.1 as usize)), Instant::now());
        async move {
            let copied = self.span.counts(&own);
            let result = copy_tunnel(&mut app, &mut self.to_peer, self.from_peer, copied).await;
            self.span.ended(&result);
            told::connection(outbound, &self.to, copied, began.elapsed());
            drop(open);
            result
        }
    }
}

/// Holds no buffer while it waits.
async fn read_some(app: &mut TcpStream, room: usize) -> io::Result<Bytes> {
    app.readable().await?;
    let mut buffer = BytesMut::with_capacity(room.min(FIRST_READ));
    app.read_buf(&mut buffer).await?;
    Ok(buffer.freeze())
}

fn answered(response: Response<RecvStream>) -> Result<RecvStream, TunnelError> {
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    let text = |name: HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned()
    };
    let word = text(DENIED);
    let reason = Reason::ALL.iter().copied().find(|reason| reason.word() == word).unwrap_or(Reason::ConnectFailed);
    Err(TunnelError::Refused { reason, word, decision: text(DECISION) })
}
