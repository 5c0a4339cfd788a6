//! A connection whose bytes we do not read: one tunnel to one endpoint. Its data leaves with the CONNECT, so that a new
//! connection across a link costs one round trip; where the service asks for `connect: confirm`, nothing is taken from
//! the app before the callee's was reached. A refusal reaches the app as RST, never as FIN; a PostgreSQL client that
//! may try another host is told so in its own words.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Outbound;
use super::balance::Tried;
use super::carried;
use super::connection::{Carried, Route, copy};
use super::external::{self, Unreached};
use super::going::{Going, refused_later};
use super::tunnel::{Opened, Prefix, TunnelError, open};
use super::{denied, postgres, told};
use crate::detect::WireVersion;
use crate::detect::client_hello::{self, Parsed};
use crate::reason::Reason;
use crate::state::policy::{Arrived, check_required};
use crate::state::{AppProtocol, Connect, Endpoint, ProxyProtocol, ServicePort, TlsVersion, Transport};
use crate::tcp::copy::write_all;
use crate::tcp::{self, proxy_protocol};
use crate::tls::gate;

/// Tries on other endpoints or connections, while nothing was lost.
const ATTEMPTS: usize = 3;

/// A way to the callee's app.
enum Far {
    Mesh(Box<Opened>),
    /// An endpoint without sidecar.
    /// With what an EgressPolicy asks of the app's TLS.
    Plain(TcpStream, SocketAddr, Option<TlsVersion>),
}

/// Opaque bytes; `held` was read from the app already.
pub(super) async fn serve(
    outbound: &Rc<Outbound>,
    mut app: TcpStream,
    held: BytesMut,
    route: Route,
) -> io::Result<Carried> {
    let mut prefix = Prefix::new(held);
    if route.connect() == Connect::Early && route.protocol() != AppProtocol::ServerFirst {
        prefix.take_early(&mut app).await?;
    }
    serve_attempts(outbound, app, prefix, route, None).await
}

/// The same on a tunnel that was opened while the app was silent, and that the app has said nothing to yet.
pub(super) async fn serve_opened(
    outbound: &Rc<Outbound>,
    app: TcpStream,
    held: BytesMut,
    route: Route,
    mut opened: Opened,
) -> io::Result<Carried> {
    let prefix = Prefix::new(held);
    match opened.send(&prefix) {
        Ok(()) => serve_attempts(outbound, app, prefix, route, Some(opened)).await,
        Err(error) => end(outbound, app, &route, &error).await.map(|()| None),
    }
}

async fn serve_attempts(
    outbound: &Rc<Outbound>,
    mut app: TcpStream,
    mut prefix: Prefix,
    route: Route,
    mut opened: Option<Opened>,
) -> io::Result<Carried> {
    let mut tried = Tried::default();
    let turn = outbound.next_turn();
    let mut failed = undecided(Reason::NoEndpoint, "no endpoint serves this port".to_owned());
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            outbound.needs.metrics.retried(false);
        }
        let far = match opened.take() {
            Some(opened) => Ok(Far::Mesh(Box::new(opened))),
            None => match route.pick(outbound, turn, tried) {
                None if route.is_by_name() && tried == Tried::default() => {
                    tried.add(0);
                    reach_plain(outbound, &route, None, &prefix).await
                }
                None => break,
                Some(to) => {
                    let far = reach(outbound, &route, to, &prefix).await;
                    if far.is_err() {
                        tried.add(to.1);
                    }
                    far
                }
            },
        };
        match far {
            Ok(Far::Plain(far, address, min_tls)) => {
                return Box::pin(plain(outbound, app, prefix, &route, (far, address, min_tls))).await.map(|()| None);
            }
            Ok(Far::Mesh(opened)) => {
                let (endpoint, place) = (Arc::clone(&opened.endpoint), opened.place);
                match opened.begin(&mut app, &mut prefix, route.connect()).await {
                    Ok(reached) => {
                        carried::reached(outbound, route.span(outbound), &endpoint);
                        return Ok(Some((app, reached)));
                    }
                    Err(error) if error.may_try_another() => {
                        match &error {
                            TunnelError::Stream(_) => outbound.pool.forget_closed(&endpoint),
                            _ => tried.add(place),
                        }
                        failed = error;
                    }
                    Err(error) => return end(outbound, app, &route, &error).await.map(|()| None),
                }
            }
            // Counted and said where it was decided.
            Err(Unreached { reason, decision: Some(decision), .. }) => {
                route.refused(outbound, reason, Some(&decision));
                told::refused_connection(outbound, told::Whom::of(&route), reason, Some(&decision));
                tcp::reset(app);
                return Ok(None);
            }
            Err(Unreached { reason, detail, .. }) => {
                failed = undecided(reason, detail);
            }
        }
    }
    end(outbound, app, &route, &failed).await.map(|()| None)
}

/// A refusal of our own that has no id.
fn undecided(reason: Reason, word: String) -> TunnelError {
    TunnelError::Refused { reason, word, decision: "none".to_owned() }
}

/// A tunnel that was asked for, or a connection to an endpoint without sidecar.
async fn reach(
    outbound: &Rc<Outbound>,
    route: &Route,
    to: (&Arc<Endpoint>, usize, u16),
    prefix: &Prefix,
) -> Result<Far, Unreached> {
    if let Some(peer) = &to.0.mesh {
        let opened = open(outbound, route, to, peer, prefix).await;
        let unreached = |(reason, detail)| Unreached { reason, detail, decision: None };
        return opened.map(|opened| Far::Mesh(Box::new(opened))).map_err(unreached);
    }
    reach_plain(outbound, route, Some(SocketAddr::new(to.0.ip, to.2)), prefix).await
}

/// On the heap: rare, and each connection would hold its room.
async fn reach_plain(
    outbound: &Rc<Outbound>,
    route: &Route,
    endpoint: Option<SocketAddr>,
    prefix: &Prefix,
) -> Result<Far, Unreached> {
    let newest = prefix.first().and_then(newest_of);
    // Before anybody is connected to: not even that is to be seen of what is refused.
    if let Err(reason) = check_plain(outbound, route, newest.or_else(|| postgres_may_ask(outbound, route))) {
        let detail = "the endpoint has no sidecar, and the service's transport does not take these bytes";
        let decision = Some(denied::say_transport(outbound, reason, route, detail));
        return Err(Unreached { reason, detail: detail.to_owned(), decision });
    }
    let arrived = match newest {
        Some(newest) => app_tls(newest),
        // It asks for TLS first; the gate will see.
        None if route.protocol() == AppProtocol::Postgres => app_tls(WireVersion::TLS1_3),
        None => Arrived::Plain,
    };
    let places = Box::pin(external::places(outbound, route, endpoint, arrived)).await?;
    if let Some(noted) = &places.noted {
        route.span(outbound).with(|span| noted.note(span));
    }
    let (far, address) = Box::pin(external::connect(outbound, route, &places.addresses)).await?;
    Ok(Far::Plain(far, address, places.min_tls))
}

/// The newest version that a ClientHello offers.
fn newest_of(bytes: &[u8]) -> Option<WireVersion> {
    match client_hello::parse(bytes) {
        Parsed::Hello(hello, _) => Some(hello.newest),
        _ => None,
    }
}

/// PostgreSQL's client may ask for TLS first; the gate will see which, and stays shut without.
fn postgres_may_ask(outbound: &Outbound, route: &Route) -> Option<WireVersion> {
    let gated = minimum_tls(outbound, route).is_some() && route.server_name().is_none();
    (gated && route.protocol() == AppProtocol::Postgres).then_some(WireVersion::TLS1_3)
}

fn app_tls(version: WireVersion) -> Arrived {
    Arrived::AppTls { version: TlsVersion::from_wire(version.0), declared: true }
}

/// There is no way to the app.
async fn end(outbound: &Rc<Outbound>, app: TcpStream, route: &Route, error: &TunnelError) -> io::Result<()> {
    if let Some(reason) = error.reason() {
        outbound.refuse(reason, route.destination, &error.to_string());
        route.refused(outbound, reason, error.decision());
        told::refused_connection(outbound, told::Whom::of(route), reason, error.decision());
        let unreached = matches!(reason, Reason::AppUnreachable | Reason::ConnectFailed | Reason::NoEndpoint);
        if unreached && route.protocol() == AppProtocol::Postgres && route.connect() == Connect::Confirm {
            return Box::pin(postgres::cannot_connect_now(app, reason)).await;
        }
    }
    tcp::reset(app);
    Ok(())
}

/// The app's own TLS: its version is checked before a byte leaves the host.
pub(super) async fn serve_tls(
    outbound: &Rc<Outbound>,
    mut app: TcpStream,
    mut held: BytesMut,
    route: Route,
) -> io::Result<Carried> {
    let minimum = minimum_tls(outbound, &route);
    let checked = gate::read_client_hello(&mut app, &mut held, minimum.unwrap_or(WireVersion(0))).await;
    match checked {
        Ok(hello) => route.span(outbound).with(|span| {
            span.set("network.protocol.name", "tls");
            span.set("tls.protocol.name", "tls");
            span.set_some("tls.client.server_name", hello.server_name.as_deref());
        }),
        // Without a minimum it is bytes like any others.
        Err(gate::GateError::NotTls(_)) if minimum.is_none() => {}
        Err(error) => {
            if let Some(reason) = error.reason() {
                let decision = denied::say_transport(outbound, reason, &route, &error.to_string());
                route.refused(outbound, reason, Some(&decision));
                told::refused_connection(outbound, told::Whom::of(&route), reason, Some(&decision));
            }
            tcp::reset(app);
            return Ok(None);
        }
    }
    serve(outbound, app, held, route).await
}

fn minimum_tls(outbound: &Outbound, route: &Route) -> Option<WireVersion> {
    let port = route.port.as_ref()?;
    let closed = is_enforced(outbound, route, port)
        && matches!(port.transport, Some(Transport::HttpsOnly | Transport::MeshOnly));
    port.min_tls_version.filter(|_| closed).map(wire_version)
}

fn is_enforced(outbound: &Outbound, route: &Route, port: &ServicePort) -> bool {
    port.standing.is_enforced(route.mesh.enforcement(), || outbound.needs.identity.clock().now_ms())
}

pub(super) fn wire_version(version: TlsVersion) -> WireVersion {
    match version {
        TlsVersion::V1_0 => WireVersion::TLS1_0,
        TlsVersion::V1_1 => WireVersion::TLS1_1,
        TlsVersion::V1_2 => WireVersion::TLS1_2,
        TlsVersion::V1_3 => WireVersion::TLS1_3,
    }
}

/// An endpoint without sidecar. The sender is the only one who can hold the service's transport there.
async fn plain(
    outbound: &Rc<Outbound>,
    mut app: TcpStream,
    prefix: Prefix,
    route: &Route,
    (mut far, address, min_tls): (TcpStream, SocketAddr, Option<TlsVersion>),
) -> io::Result<()> {
    let held = prefix.into_bytes();
    let minimum = minimum_tls(outbound, route).max(min_tls.map(wire_version));
    let asks = minimum.is_some() && route.protocol() == AppProtocol::Postgres && route.server_name().is_none();
    let newest = newest_of(&held).or_else(|| asks.then_some(WireVersion::TLS1_3));
    if route.port.as_ref().is_some_and(|port| port.options.proxy_protocol == ProxyProtocol::V2) {
        far.write_all(&proxy_protocol::header(app.peer_addr()?, address)).await?;
    }
    let arrived = newest.map_or(Arrived::Plain, app_tls);
    let going = external::going(route, &[address], arrived, newest);
    let (Some(_), Some(minimum)) = (newest, minimum) else {
        return carry(outbound, route, (app, far), &held, going).await;
    };
    let held = BytesMut::from(&held[..]);
    let opened = match route.protocol() {
        AppProtocol::Postgres => postgres::open_gate(&mut app, held, &mut far, minimum).await,
        _ => gate::open(&mut app, held, &mut far, minimum).await,
    };
    match opened {
        Ok(gate) => {
            write_all(&app, &gate.to_client).await?;
            let going = Going { arrived: app_tls(gate.version), tls: Some(gate.version), ..going };
            carry(outbound, route, (app, far), &gate.to_server, going).await
        }
        Err(error) => {
            if let Some(reason) = error.reason() {
                let decision = denied::say_transport(outbound, reason, route, &error.to_string());
                route.refused(outbound, reason, Some(&decision));
                told::refused_connection(outbound, told::Whom::of(route), reason, Some(&decision));
                tcp::reset(app);
            }
            Ok(())
        }
    }
}

/// Until both ended, or until a new policy says no.
async fn carry(
    outbound: &Rc<Outbound>,
    route: &Route,
    (mut app, mut far): (TcpStream, TcpStream),
    prefix: &[u8],
    going: Going,
) -> io::Result<()> {
    tokio::select! {
        copied = copy(outbound, &mut app, &mut far, prefix, (told::Whom::of(route), route.span(outbound))) => copied,
        reason = refused_later(Rc::clone(outbound), going) => {
            route.span(outbound).refused(reason, None);
            tcp::reset(app);
            tcp::reset(far);
            Ok(())
        }
    }
}

/// Whether the service's transport lets bytes go to an endpoint without sidecar. `tls`: the newest version that the app
/// offers in its own TLS. In Observe: counted by the callee's side of the table only, so nothing is refused here.
pub(super) fn check_plain(outbound: &Outbound, route: &Route, tls: Option<WireVersion>) -> Result<(), Reason> {
    let Some(port) = route.port.as_ref().filter(|port| is_enforced(outbound, route, port)) else {
        return Ok(());
    };
    let Some(transport) = port.transport else { return Ok(()) };
    let arrived = match tls {
        // It leaves in TLS that we begin.
        _ if route.server_name().is_some() => app_tls(WireVersion::TLS1_3),
        Some(version) => Arrived::AppTls {
            version: TlsVersion::from_wire(version.0),
            declared: matches!(port.protocol, AppProtocol::Tls | AppProtocol::Postgres),
        },
        None => Arrived::Plain,
    };
    check_required(transport, port.min_tls_version.unwrap_or(TlsVersion::V1_2), arrived)
}
