//! A connection whose bytes we do not read: one tunnel to one endpoint. Its data leaves with the CONNECT, so that a new
//! connection across a link costs one round trip. A refusal reaches the app as RST.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::HeaderName;
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::net::TcpStream;

use super::Outbound;
use super::balance::Tried;
use super::connection::{Route, copy};
use super::pool::{Slot, is_unprocessed};
use crate::detect::WireVersion;
use crate::http::internal::{DECISION, DENIED};
use crate::reason::Reason;
use crate::state::policy::{Arrived, check_required};
use crate::state::{Endpoint, Enforcement, MeshPeer, TlsVersion, Transport};
use crate::tcp::copy::Copied;
use crate::tcp::tunnel::copy_tunnel;
use crate::tcp::{self, dial};
use crate::telemetry::{Direction, MeshSide};
use crate::tls::gate;

/// Tries on other endpoints or connections, while nothing was lost.
const ATTEMPTS: usize = 3;

/// Why a tunnel is not.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("the callee's sidecar refused: {word} (decision {decision})")]
    Refused { reason: Reason, word: String, decision: String },
    #[error("the stream to the callee broke before its answer: {0}")]
    Stream(h2::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opaque bytes; `held` was read from the app already.
pub(super) async fn serve(outbound: &Rc<Outbound>, app: TcpStream, held: BytesMut, route: Route) -> io::Result<()> {
    let held = held.freeze();
    let mut tried = Tried::default();
    let turn = outbound.next_turn();
    let mut failed = (Reason::NoEndpoint, "no endpoint serves this port".to_owned());
    for _ in 0..ATTEMPTS {
        let Some((endpoint, place, port)) = route.pick(turn, tried) else {
            break;
        };
        let Some(peer) = &endpoint.mesh else {
            return plain(outbound, app, held, &route, endpoint, port).await;
        };
        match open(outbound, endpoint, peer, port, &held).await {
            Ok((_slot, response, to_peer)) => {
                let tunnel = Tunnel { outbound, app: &app, response, to_peer };
                match tunnel.run().await {
                    // Nothing of it was processed, and all that was sent is still held.
                    Err(Ended::Unsent(error)) => {
                        outbound.pool.forget_closed(endpoint);
                        failed = (Reason::ConnectFailed, error.to_string());
                    }
                    Err(Ended::For(error)) => return end(outbound, &app, &route, error),
                    Ok(()) => return Ok(()),
                }
            }
            Err((reason, detail)) => {
                tried.add(place);
                failed = (reason, detail);
            }
        }
    }
    outbound.refuse(failed.0, route.destination, &failed.1);
    tcp::reset(app);
    Ok(())
}

/// The app's own TLS: its version is checked before a byte leaves the host.
pub(super) async fn serve_tls(
    outbound: &Rc<Outbound>,
    mut app: TcpStream,
    mut held: BytesMut,
    route: Route,
) -> io::Result<()> {
    let minimum = minimum_tls(&route);
    let checked = gate::read_client_hello(&mut app, &mut held, minimum.unwrap_or(WireVersion(0))).await;
    match checked {
        Ok(_) => {}
        // Without a minimum it is bytes like any others.
        Err(gate::GateError::NotTls(_)) if minimum.is_none() => {}
        Err(error) => {
            if let Some(reason) = error.reason() {
                outbound.refuse(reason, route.destination, &error.to_string());
            }
            tcp::reset(app);
            return Ok(());
        }
    }
    serve(outbound, app, held, route).await
}

fn minimum_tls(route: &Route) -> Option<WireVersion> {
    let port = route.port.as_ref()?;
    let closed = route.mesh.enforcement() == Enforcement::Enforce
        && matches!(port.transport, Some(Transport::HttpsOnly | Transport::MeshOnly));
    port.min_tls_version.filter(|_| closed).map(wire_version)
}

fn wire_version(version: TlsVersion) -> WireVersion {
    match version {
        TlsVersion::V1_0 => WireVersion::TLS1_0,
        TlsVersion::V1_1 => WireVersion::TLS1_1,
        TlsVersion::V1_2 => WireVersion::TLS1_2,
        TlsVersion::V1_3 => WireVersion::TLS1_3,
    }
}

/// Sends CONNECT and the held bytes with it.
async fn open(
    outbound: &Outbound,
    endpoint: &Arc<Endpoint>,
    peer: &MeshPeer,
    port: u16,
    held: &Bytes,
) -> Result<(Slot, ResponseFuture, h2::SendStream<Bytes>), (Reason, String)> {
    let slot = outbound.pool.acquire(endpoint, peer).await.map_err(|error| (error.reason(), error.to_string()))?;
    let broken = |error: h2::Error| (Reason::ConnectFailed, error.to_string());
    let (response, mut to_peer) = slot.send_request(connect_request(endpoint, port)?, false).map_err(broken)?;
    if !held.is_empty() {
        // Bounded by what detection read: no need to wait for the window.
        to_peer.send_data(held.clone(), false).map_err(broken)?;
    }
    Ok((slot, response, to_peer))
}

fn connect_request(endpoint: &Endpoint, port: u16) -> Result<Request<()>, (Reason, String)> {
    let authority = SocketAddr::new(endpoint.ip, port).to_string();
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::try_from(authority).map_err(|error| (Reason::NoEndpoint, error.to_string()))?;
    Ok(request)
}

/// A tunnel that was asked for; the answer is under way.
struct Tunnel<'a> {
    outbound: &'a Outbound,
    app: &'a TcpStream,
    response: ResponseFuture,
    to_peer: h2::SendStream<Bytes>,
}

enum Ended {
    /// Certainly not processed, and nothing sent that is not held.
    Unsent(h2::Error),
    For(TunnelError),
}

impl Tunnel<'_> {
    async fn run(mut self) -> Result<(), Ended> {
        let _open = self.outbound.needs.metrics.stream(MeshSide::Client);
        // As long as the app says no more, another try costs it nothing.
        let early = tokio::select! {
            biased;
            answer = &mut self.response => Some(answer),
            _ = self.app.readable() => None,
        };
        let from_peer = match early {
            Some(Err(error)) if is_unprocessed(&error) => return Err(Ended::Unsent(error)),
            Some(answer) => Answer::Here(Some(answered(answer))),
            None => Answer::Coming(self.response),
        };
        let copied = Copied::default();
        let result = copy_tunnel(self.app, &mut self.to_peer, from_peer.stream(), &copied).await;
        self.outbound.needs.metrics.bytes(Direction::Outbound, copied.sent.get(), copied.received.get());
        result.map_err(Ended::For)
    }
}

enum Answer {
    Here(Option<Result<RecvStream, TunnelError>>),
    Coming(ResponseFuture),
}

impl Answer {
    async fn stream(self) -> Result<RecvStream, TunnelError> {
        match self {
            Answer::Here(answer) => answer.unwrap_or(Err(TunnelError::Io(io::ErrorKind::BrokenPipe.into()))),
            Answer::Coming(response) => answered(response.await),
        }
    }
}

fn answered(answer: Result<Response<RecvStream>, h2::Error>) -> Result<RecvStream, TunnelError> {
    let response = answer.map_err(TunnelError::Stream)?;
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

/// A tunnel that ended before its time. The app's connection was marked for RST already.
fn end(outbound: &Outbound, app: &TcpStream, route: &Route, error: TunnelError) -> io::Result<()> {
    tcp::mark_reset(app);
    match error {
        TunnelError::Refused { reason, .. } => {
            outbound.refuse(reason, route.destination, &error.to_string());
            Ok(())
        }
        TunnelError::Stream(_) => {
            outbound.refuse(Reason::ConnectFailed, route.destination, &error.to_string());
            Ok(())
        }
        TunnelError::Io(error) => Err(error),
    }
}

/// An endpoint without sidecar. The sender is the only one who can hold the service's transport there.
async fn plain(
    outbound: &Rc<Outbound>,
    mut app: TcpStream,
    held: Bytes,
    route: &Route,
    endpoint: &Endpoint,
    port: u16,
) -> io::Result<()> {
    let address = SocketAddr::new(endpoint.ip, port);
    let tls = crate::detect::client_hello::parse(&held);
    let newest = match &tls {
        crate::detect::client_hello::Parsed::Hello(hello, _) => Some(hello.newest),
        _ => None,
    };
    if let Err(reason) = check_plain(route, newest) {
        outbound.refuse(reason, route.destination, "the endpoint has no sidecar, and the service takes no plain bytes");
        tcp::reset(app);
        return Ok(());
    }
    let mut far = match dial(address, outbound.dial).await {
        Ok(far) => far,
        Err(error) => {
            outbound.refuse(Reason::ConnectFailed, address, &error.to_string());
            tcp::reset(app);
            return Ok(());
        }
    };
    let (Some(_), Some(minimum)) = (newest, minimum_tls(route)) else {
        return copy(outbound, &app, &far, &held).await;
    };
    match gate::open(&mut app, BytesMut::from(&held[..]), &mut far, minimum).await {
        Ok(gate) => {
            crate::tcp::copy::write_all(&app, &gate.to_client).await?;
            copy(outbound, &app, &far, &gate.to_server).await
        }
        Err(error) => {
            if let Some(reason) = error.reason() {
                outbound.refuse(reason, route.destination, &error.to_string());
                tcp::reset(app);
            }
            Ok(())
        }
    }
}

/// Whether the service's transport lets bytes go to an endpoint without sidecar. `tls`: the newest version that the app
/// offers in its own TLS. In Observe: counted by the callee's side of the table only, so nothing is refused here.
pub(super) fn check_plain(route: &Route, tls: Option<WireVersion>) -> Result<(), Reason> {
    let Some(port) = route.port.as_ref().filter(|_| route.mesh.enforcement() == Enforcement::Enforce) else {
        return Ok(());
    };
    let Some(transport) = port.transport else { return Ok(()) };
    let arrived = match tls {
        Some(version) => Arrived::AppTls {
            version: TlsVersion::from_wire(version.0),
            declared: port.protocol == crate::state::AppProtocol::Tls,
        },
        None => Arrived::Plain,
    };
    check_required(transport, port.min_tls_version.unwrap_or(TlsVersion::V1_2), arrived)
}
