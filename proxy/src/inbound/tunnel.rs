//! One tunnel to the app: CONNECT with the app's address, then bytes. The address must be this workload's own; the port is
//! never one of the proxy's. The app's own TLS inside is checked on ports that are declared TLS. A tunnel lives as long
//! as policy allows it: each new snapshot is asked again.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use isthmus_http2::{RecvStream, SendResponse, SendStream};
use tokio::net::TcpStream;

use super::authorize::{Caller, Question, Refusal};
use super::live::{Entry, Signal};
use super::mesh::Peer;
use super::{Inbound, spans, told};
use crate::detect::{Protocol, WireVersion, peek};
use crate::http::internal::{DECISION, DENIED};
use crate::http::stream_io::{BorrowedTcp, StreamIo};
use crate::http::tunnel::{copy_tunnel, send_all};
use crate::reason::Reason;
use crate::state::policy::Arrived;
use crate::state::{AppProtocol, InboundPort, Mesh, TlsVersion, Transport};
use crate::tcp;
use crate::tcp::copy::{Copied, write_all};
use crate::telemetry::{ConnectionSpan, Direction, MeshSide, TraceContext};
use crate::tls::MeshProtocol;
use crate::tls::gate::{self, GATE_DEADLINE, GateError};

/// A tunnel whose app is connected and whose gate, if any, is open.
struct Tunnel {
    app: SocketAddr,
    stream: TcpStream,
    from_peer: RecvStream,
    to_peer: SendStream,
    copied: Copied,
    span: ConnectionSpan,
}

/// Each half in a box of its own: what only the beginning needs is given back, since a tunnel may then idle for days. No
/// `async fn` here, which would keep its arguments twice.
pub(super) fn serve(
    inbound: &Rc<Inbound>,
    peer: &Rc<Peer>,
    request: Request<RecvStream>,
    respond: SendResponse,
) -> impl Future<Output = ()> + use<> {
    let (inbound, peer) = (Rc::clone(inbound), Rc::clone(peer));
    let open = inbound.needs.metrics.stream(MeshSide::Server);
    let beginning = Box::pin(begin(Rc::clone(&inbound), Rc::clone(&peer), request, respond));
    async move {
        if let Some(tunnel) = beginning.await {
            tunnel.await;
        }
        drop(open);
    }
}

fn of(peer: &Peer, app: SocketAddr) -> told::Connection<'_> {
    told::Connection { peer: Some(&peer.identity.id), source: peer.source.ip(), app, arrived: Arrived::Mesh }
}

/// Begins a tunnel: gives the future that carries it.
async fn begin(
    inbound: Rc<Inbound>,
    peer: Rc<Peer>,
    request: Request<RecvStream>,
    respond: SendResponse,
) -> Option<Pin<Box<impl Future<Output = ()>>>> {
    let tunnel = open(&inbound, &peer, request, respond).await?;
    Some(Box::pin(carry(inbound, peer, tunnel)))
}

/// Authorizes, reaches the app, answers, and lets the app's own TLS through its gate.
async fn open(
    inbound: &Inbound,
    peer: &Peer,
    request: Request<RecvStream>,
    mut respond: SendResponse,
) -> Option<Tunnel> {
    let context = inbound.needs.tracer.next_hop(request.headers());
    let began = Instant::now();
    let open = |context: &TraceContext, app| {
        spans::connection(inbound, context, (peer.source, app), (Some(peer), Arrived::Mesh), began)
    };
    let (app, port, noted) = match authorized_address(inbound, peer, &request) {
        Ok(authorized) => authorized,
        Err(refusal) => {
            let named = request.uri().authority().and_then(|authority| authority.as_str().parse().ok());
            let app = named.unwrap_or_else(|| SocketAddr::new(peer.local.ip(), 0));
            told::refused_connection(inbound, &of(peer, app), &refusal);
            spans::refused(inbound, &context, &refusal, |context| open(context, app));
            refuse(&mut respond, peer, &refusal);
            return None;
        }
    };
    let span = open(&context, app);
    span.with(|span| spans::note(span, noted.as_ref()));
    let stream = match super::app::reach(inbound, app, peer.source, &port).await {
        Ok(stream) => stream,
        Err(error) => {
            let detail = format!("the app at {app} cannot be reached: {error}");
            let refusal = inbound.refuse(Reason::AppUnreachable, peer.source.ip(), &detail);
            told::refused_connection(inbound, &of(peer, app), &refusal);
            span.discard();
            spans::refused(inbound, &context, &refusal, |context| open(context, app));
            refuse(&mut respond, peer, &refusal);
            return None;
        }
    };
    let mut to_peer = respond.send_response(Response::new(()), false).ok()?;
    let mut from_peer = request.into_body();
    let copied = Copied::default();
    if let Some(minimum) = minimum_tls(&port) {
        let mesh = inbound.needs.state.snapshot();
        let enforced = inbound.is_enforced(&mesh, &port);
        let question = question(&mesh, peer, app.port(), &port);
        let gate = Gate { inbound, app, minimum, enforced, question, refused: Cell::default() };
        match gate.pass(&stream, &mut from_peer, &mut to_peer, &copied).await {
            Ok(Passed::Settled) => {
                span.end("refused by the app's TLS", None);
                return None;
            }
            Ok(Passed::Open) => {}
            Err(error) => {
                tracing::debug!(caller = %peer.identity.id, %app, "tunnel broke: {error}");
                let Some(refusal) = gate.refused.take() else {
                    span.ended(&Err(error));
                    return None;
                };
                span.discard();
                spans::refused(inbound, &context, &refusal, |context| open(context, app));
                return None;
            }
        }
    }
    Some(Tunnel { app, stream, from_peer, to_peer, copied, span })
}

/// Copies until either side ends, or until policy does not allow it any more.
fn carry(inbound: Rc<Inbound>, peer: Rc<Peer>, tunnel: Tunnel) -> impl Future<Output = ()> {
    let Tunnel { app, mut stream, from_peer, mut to_peer, copied, span } = tunnel;
    let open = inbound.needs.metrics.connection(Direction::Inbound);
    let (began, signal) = (Instant::now(), Rc::<Signal>::default());
    let admitted = inbound.live.admit_late(Entry {
        port: app.port(),
        peer: Some(peer.identity.id.clone()),
        address: peer.source.ip(),
        arrived: Arrived::Mesh,
        head: None,
        may_probe: false,
        signal: Rc::clone(&signal),
    });
    async move {
        let copied = span.counts(&copied);
        let refused = tokio::select! {
            ended = copy_tunnel(&mut stream, &mut to_peer, from_peer, copied) => {
                span.ended(&ended);
                if let Err(error) = ended {
                    tracing::debug!(caller = %peer.identity.id, %app, "tunnel broke: {error}");
                }
                None
            }
            refusal = signal.ended() => {
                span.refused(refusal.reason, refusal.decision.as_deref());
                // Dropping the stream's halves resets it; the app learns by RST as well.
                tcp::mark_reset(&stream);
                Some(refusal)
            }
        };
        let bytes = (copied.received.get(), copied.sent.get());
        told::connection(&inbound, &of(&peer, app), bytes, began, refused.as_ref());
        drop((admitted, open));
    }
}

/// `ip:port` of this workload, and a caller that may go there.
fn authorized_address(
    inbound: &Inbound,
    peer: &Peer,
    request: &Request<RecvStream>,
) -> Result<(SocketAddr, Arc<InboundPort>, Option<Refusal>), Refusal> {
    let source = peer.source.ip();
    let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
    let Ok(app) = authority.parse::<SocketAddr>() else {
        return Err(inbound.refuse(Reason::BadInternalHeader, source, "a tunnel to something that is not ip:port"));
    };
    let mesh = inbound.needs.state.snapshot();
    let own = mesh.is_own_address(app.ip());
    if inbound.needs.own_ports.contains(&app.port()) || app.port() == 0 || (app.ip().is_loopback() && !own) {
        let detail = format!("{} asks for {app}: loopback and the proxy's own ports are nobody's", peer.identity.id);
        return Err(inbound.refuse(Reason::ForbiddenPort, source, &detail));
    }
    if !own {
        let detail = format!("{} asks for {app}, which is not this workload's address", peer.identity.id);
        return Err(inbound.refuse(Reason::NotMyAddress, source, &detail));
    }
    let port = mesh.inbound_port(app.port());
    let noted = inbound.authorize(&question(&mesh, peer, app.port(), &port))?;
    Ok((app, port, noted))
}

fn question<'a>(mesh: &'a Mesh, peer: &'a Peer, number: u16, port: &'a InboundPort) -> Question<'a> {
    let caller = Caller { peer: Some(&peer.identity.id), address: peer.source.ip(), arrived: Arrived::Mesh };
    Question { mesh, number, port, caller, http: None, may_probe: false }
}

/// The answer of a tunnel that is not: the caller's sidecar turns it into RST.
fn refuse(respond: &mut SendResponse, peer: &Peer, refusal: &Refusal) {
    let status = StatusCode::from_u16(refusal.reason.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = Response::builder().status(status);
    if peer.protocol == MeshProtocol::Isthmus {
        response = response.header(DENIED, refusal.reason.word());
        if let Some(decision) = &refusal.decision {
            response = response.header(DECISION, decision);
        }
    }
    if let Ok(response) = response.body(()) {
        // A caller that went away needs no answer. What it still sends is reset once the answer is out; a reset of
        // our own would overtake it.
        let _ = respond.send_response(response, true);
    }
}

/// The version that app TLS inside a tunnel must have, where the port is declared TLS and not left open.
fn minimum_tls(port: &InboundPort) -> Option<WireVersion> {
    (port.protocol == AppProtocol::Tls && port.policy.transport != Transport::Permissive)
        .then(|| wire_version(port.policy.min_tls_version))
}

pub(crate) fn wire_version(version: TlsVersion) -> WireVersion {
    match version {
        TlsVersion::V1_0 => WireVersion::TLS1_0,
        TlsVersion::V1_1 => WireVersion::TLS1_1,
        TlsVersion::V1_2 => WireVersion::TLS1_2,
        TlsVersion::V1_3 => WireVersion::TLS1_3,
    }
}

/// What the app's own TLS inside of a tunnel has to pass.
struct Gate<'a> {
    inbound: &'a Inbound,
    app: SocketAddr,
    minimum: WireVersion,
    enforced: bool,
    question: Question<'a>,
    /// Our no, where it was ours.
    refused: Cell<Option<Refusal>>,
}

#[derive(PartialEq, Eq)]
enum Passed {
    /// The rest may flow.
    Open,
    /// The app refused the handshake by an alert, which was passed on; nothing more comes.
    Settled,
}

impl Gate<'_> {
    /// Lets the hellos pass one by one. Bytes that are no TLS at all pass: mesh mTLS protects them, and that is enough here.
    async fn pass(
        &self,
        app: &TcpStream,
        from_peer: &mut RecvStream,
        to_peer: &mut SendStream,
        copied: &Copied,
    ) -> io::Result<Passed> {
        let mut client = StreamIo::new(from_peer, to_peer);
        let peeked = peek(&mut client, GATE_DEADLINE).await?;
        if peeked.protocol != Protocol::Tls {
            let rest = client.into_rest();
            add(&copied.received, peeked.bytes.len() + rest.len());
            write_all(app, &peeked.bytes).await?;
            write_all(app, &rest).await?;
            return Ok(Passed::Open);
        }
        let minimum = if self.enforced { self.minimum } else { WireVersion(0) };
        let opened = gate::open(&mut client, peeked.bytes, &mut BorrowedTcp(app), minimum).await;
        let rest = client.into_rest();
        match opened {
            Ok(gate) => {
                add(&copied.received, gate.to_server.len() + rest.len());
                add(&copied.sent, gate.to_client.len());
                write_all(app, &gate.to_server).await?;
                write_all(app, &rest).await?;
                send_all(to_peer, gate.to_client.freeze()).await.map_err(io::Error::other)?;
                Ok(Passed::Open)
            }
            Err(GateError::RefusedByServer) => {
                settle(from_peer, to_peer).await?;
                Ok(Passed::Settled)
            }
            Err(error) => Err(self.refuse(app, error)),
        }
    }

    fn refuse(&self, app: &TcpStream, error: GateError) -> io::Error {
        if let Some(reason) = error.reason() {
            let refusal = self.inbound.refuse_after_all(&self.question, reason);
            let Caller { peer, address: source, arrived } = self.question.caller;
            let of = told::Connection { peer, source, app: self.app, arrived };
            told::refused_connection(self.inbound, &of, &refusal);
            self.refused.set(Some(refusal));
        }
        tcp::mark_reset(app);
        io::Error::other(error)
    }
}

/// The end in order: a reset could overtake the alert. What the caller still says is for nobody.
async fn settle(from_peer: &mut RecvStream, to_peer: &mut SendStream) -> io::Result<()> {
    to_peer.send_data(Bytes::new(), true).map_err(io::Error::other)?;
    let heard = async {
        while let Some(Ok(bytes)) = from_peer.data().await {
            from_peer.release(bytes.len());
        }
    };
    // A caller that does not hang up is hung up on.
    let _ = tokio::time::timeout(GATE_DEADLINE, heard).await;
    Ok(())
}

fn add(count: &Cell<u64>, bytes: usize) {
    count.set(count.get() + bytes as u64);
}

#[cfg(test)]
#[path = "tunnel_size_test.rs"]
mod tunnel_size_test;
