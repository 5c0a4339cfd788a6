//! A mesh connection, accepted: TLS, the peer's identity, then HTTP/2 whose every stream is authorized for itself and runs
//! as its own task on this worker. New streams end with the peer's certificate or with the proxy; those under
//! way finish within `maxStreamAge`, unless the peer is revoked.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use h2::ext::Protocol;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use isthmus_certs::{Negotiated, PeerIdentity};
use isthmus_http2::{Connection, Http2Settings, RecvStream, SendResponse, StreamError};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::live::Watched;
use super::{Inbound, pin, request, spans, tunnel};
use crate::http::Asked;
use crate::http::body::Body;
use crate::http::h1::exchange::Home;
use crate::http::internal::PIN_PROTOCOL;
use crate::http::keepalive::{Event, Keepalive};
use crate::http::server::{answer, stopped};
use crate::http::stream::Respond;
use crate::reason::Reason;
use crate::state::outlived::outlived;
use crate::state::policy::Arrived;
use crate::telemetry::MeshSide;
use crate::tls::{self, InCommon, LastRead, MeshProtocol, Stamped, mesh::HANDSHAKE_DEADLINE};

/// How often the end of the peer's certificate is looked at anew: our clock may be set while we wait.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// What all streams of one mesh connection have in common.
pub(super) struct Peer {
    pub(super) identity: PeerIdentity,
    pub(super) source: SocketAddr,
    /// The own address that the peer dialled.
    pub(super) local: SocketAddr,
    pub(super) last_read: LastRead,
    /// What it may send: [`MeshProtocol::Hbone`] is tunnels without internal headers, in either direction.
    pub(super) protocol: MeshProtocol,
    /// What its sidecar and this one know of the connection, and nobody else.
    pub(super) in_common: Option<InCommon>,
    /// What apps are told of it; the same for each of its requests.
    pub(super) forwarded: Option<HeaderValue>,
    /// Connections to the app that belong to one connection of the caller's app each.
    pub(super) pins: RefCell<HashMap<u64, Rc<Home>>>,
}

pub(super) async fn serve(inbound: &Rc<Inbound>, stream: TcpStream, source: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let began = Instant::now();
    let (stream, identity, protocol) = match tls::accept(stream, inbound.server.now()).await {
        Ok(accepted) => accepted,
        Err(error) => {
            let error = error.with_own_fault(&inbound.needs.identity);
            inbound.needs.metrics.mesh_handshake_failed(MeshSide::Server, error.word());
            tracing::info!(reason = error.word(), caller_address = %source, "no mesh connection: {error}");
            return;
        }
    };
    let took = began.elapsed();
    let (last_read, negotiated) = (stream.get_ref().0.last_read(), Negotiated::of(stream.get_ref().1));
    let (forwarded, in_common) = (forwarded_client_cert(inbound, &identity), tls::in_common(stream.get_ref().1));
    let pins = RefCell::default();
    let peer = Rc::new(Peer { identity, source, local, last_read, protocol, in_common, forwarded, pins });
    let handshake = isthmus_http2::accept(stream, Http2Settings::MESH);
    let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await else {
        inbound.needs.metrics.mesh_handshake_failed(MeshSide::Server, "not-http2");
        return;
    };
    inbound.needs.metrics.mesh_negotiated(MeshSide::Server, negotiated, took);
    tracing::debug!(caller = %peer.identity.id, caller_address = %source, %negotiated, "mesh connection accepted");
    let _open = inbound.needs.metrics.mesh_connection(MeshSide::Server);
    serve_streams(inbound, connection, &peer).await;
}

fn forwarded_client_cert(inbound: &Inbound, peer: &PeerIdentity) -> Option<HeaderValue> {
    let own = inbound.needs.identity.current()?;
    HeaderValue::try_from(format!("By={};URI={}", own.id, peer.id)).ok()
}

type Wire = Connection<TlsStream<Stamped>>;
type Stream = (Request<RecvStream>, SendResponse);

async fn serve_streams(inbound: &Rc<Inbound>, mut connection: Wire, peer: &Rc<Peer>) {
    let mut draining = false;
    let drain = drain(inbound, peer);
    tokio::pin!(drain);
    let mut keepalive = Keepalive::new(connection.pings(), peer.last_read.clone());
    let mut revoked = inbound.revoked.when(&peer.identity);
    let (state, own) = (Arc::clone(inbound.needs.state.state()), Arc::clone(&inbound.needs.identity));
    let mut outlived = Box::pin(outlived(state, own, peer.identity.not_after.as_secs()));
    loop {
        let accepted = tokio::select! {
            biased;
            // Its streams end with the connection.
            () = revoked.as_mut() => Next::Revoked,
            () = outlived.as_mut() => Next::Outlived,
            accepted = poll_fn(|cx| poll_stream(&mut connection, &mut keepalive, cx)) => accepted,
            () = drain.as_mut(), if !draining => {
                draining = true;
                // GOAWAY, a ping, then the last GOAWAY: streams that cross it on the wire are still taken.
                connection.drain();
                continue;
            }
        };
        match accepted {
            Next::Stream(stream) => {
                begin(inbound, peer, stream);
                // What came with it, without asking for everything else in between.
                while let Some(stream) = connection.next_accepted() {
                    begin(inbound, peer, stream);
                }
            }
            Next::End(Some(error)) => {
                tracing::debug!(caller = %peer.identity.id, "mesh connection ended: {error}");
                return;
            }
            Next::End(None) => return,
            Next::Revoked => {
                inbound.needs.metrics.mesh_event("peer-revoked");
                tracing::warn!(caller = %peer.identity.id, caller_address = %peer.source, "mesh connection ended: the peer was revoked");
                return;
            }
            Next::Outlived => {
                inbound.needs.metrics.mesh_event("outlived-certificate");
                tracing::info!(caller = %peer.identity.id, caller_address = %peer.source, "mesh connection ended: its streams have outlived the peer's certificate by maxStreamAge");
                return;
            }
            Next::Dead => {
                inbound.needs.metrics.mesh_event("peer-silent");
                tracing::info!(caller = %peer.identity.id, caller_address = %peer.source, "mesh connection given up: the peer answers no ping");
                return;
            }
        }
    }
}

/// A stream's own task.
fn begin(inbound: &Rc<Inbound>, peer: &Rc<Peer>, (request, respond): Stream) {
    // A task is as large as its largest branch: one that carries bytes for days shall not be one for requests.
    // Extended CONNECT (RFC 8441) is a request.
    if request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none() {
        tokio::task::spawn_local(tunnel::serve(inbound, peer, request, respond));
        return;
    }
    let came = peer.last_read.get();
    let stream = serve_stream(Rc::clone(inbound), Rc::clone(peer), came, request, respond);
    // Boxed first: a task's future is copied once when it begins and once when it ends, and this one is large.
    tokio::task::spawn_local(Box::pin(stream));
}

/// What a mesh connection does next.
#[expect(clippy::large_enum_variant, reason = "lives for one turn of a loop; a box would be an allocation per stream")]
enum Next {
    Stream(Stream),
    End(Option<StreamError>),
    Revoked,
    Outlived,
    Dead,
}

fn poll_stream(connection: &mut Wire, keepalive: &mut Keepalive, cx: &mut Context<'_>) -> Poll<Next> {
    loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(stream))) => return Poll::Ready(Next::Stream(stream)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Next::End(Some(error))),
            Poll::Ready(None) => return Poll::Ready(Next::End(None)),
            Poll::Pending => {}
        }
        match keepalive.poll(cx, || connection.has_streams()) {
            Poll::Ready(Event::Grow(window)) => {
                connection.grow(window.stream, window.connection);
            }
            Poll::Ready(Event::Pong { .. }) => {}
            Poll::Ready(Event::Dead) => return Poll::Ready(Next::Dead),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// A request, where the peer may send one. A plain CONNECT is always a tunnel and does not come here.
pub(super) async fn serve_stream(
    inbound: Rc<Inbound>,
    peer: Rc<Peer>,
    came: Instant,
    request: Request<RecvStream>,
    respond: SendResponse,
) {
    let _open = inbound.needs.metrics.stream(MeshSide::Server);
    if peer.protocol == MeshProtocol::Hbone {
        refuse_request(&inbound, &peer, respond);
    } else if request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == PIN_PROTOCOL) {
        pin::hold(&inbound, &peer, request, respond).await;
    } else {
        let watched = Watched::default();
        let handle = async |asked: Asked<'_>| request::from_mesh(&inbound, &peer, came, &watched, asked).await;
        tokio::select! {
            biased;
            () = answer(request.map(Body::mesh), Respond::Mesh(respond), handle) => {}
            // What is dropped unfinished is reset.
            _ = watched.signal.ended() => {}
        }
    }
}

/// A request on a connection that is for tunnels only. Nothing of it is read: what looks like an internal header there
/// was not put there by a sidecar of ours.
fn refuse_request(inbound: &Inbound, peer: &Peer, mut respond: SendResponse) {
    let (reason, source) = (Reason::BadInternalHeader, peer.source.ip());
    inbound.refuse(reason, source, "a request on a mesh connection with ALPN h2, which carries CONNECT alone");
    let whom = (Some(&peer.identity.id), Arrived::Mesh);
    spans::unread(inbound, source, (SocketAddr::new(peer.local.ip(), 0), None), whom, reason);
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = Response::new(());
    *response.status_mut() = status;
    // A caller that went away needs no answer.
    let _ = respond.send_response(response, true);
}

/// Resolves when no new stream should come: the proxy stops, or the peer's certificate has ended.
async fn drain(inbound: &Inbound, peer: &Peer) {
    let mut stop = inbound.needs.stop.clone();
    let not_after = peer.identity.not_after.as_secs();
    let expired = async {
        loop {
            let now = inbound.needs.identity.now().as_secs();
            if now > not_after {
                return;
            }
            // `not_after` is the last second in which the certificate holds.
            let left = Duration::from_secs(not_after - now + 1);
            tokio::time::sleep(left.min(CLOCK_CHECK)).await;
        }
    };
    tokio::select! {
        () = expired => {}
        () = stopped(&mut stop) => {}
    }
}
