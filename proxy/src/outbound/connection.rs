//! A connection of the app, from top to bottom: where it wanted to go, what that is, what it speaks, and then per request or
//! as a stream. An address of the mesh that nobody answers for never passes as "outside".

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use isthmus_proto::model::hint::by_port;
use tokio::net::TcpStream;

use super::balance::{Tried, pick, pick_healthy};
use super::carried::{self, Traced};
use super::first::{First, detect};
use super::pin::Pin;
use super::stage::{Next, Stage};
use super::told::{self, Whom};
use super::tunnel::Reached;
use super::{Outbound, egress, request, stream};
use crate::detect::peek::DETECTION_LIMIT;
use crate::detect::{Peeked, Prefixed, Protocol, peek};
use crate::http::server::{self, serve_http2};
use crate::http::{Asked, h1};
use crate::reason::Reason;
use crate::state::{
    AppProtocol, Connect, Destination, Endpoint, Enforcement, HeaderNames, Service, ServicePort, Snapshot, Workload,
};
use crate::tcp::copy::{Copied, copy_both, write_all};
use crate::tcp::{self, dial};
use crate::telemetry::{B3Headers, ConnectionSpan, Direction};

/// An app may connect long before it asks (pools do). On a port where the client speaks first, nobody else waits.
const FIRST_BYTES: Duration = Duration::from_secs(24 * 3600);

/// Whom the app called, in one snapshot.
pub(super) struct Route {
    pub(super) mesh: Snapshot,
    pub(super) to: Callee,
    /// `None`: a workload's port that no service declares.
    pub(super) port: Option<Arc<ServicePort>>,
    pub(super) destination: SocketAddr,
    pub(super) traced: Traced,
}

pub(super) enum Callee {
    Service(Arc<Service>),
    Workload(Arc<Workload>),
}

/// Where a connection goes.
pub(super) enum Way {
    Route(Route),
    /// In none of the mesh's ranges: EgressPolicies decide.
    Outside(Snapshot),
    /// To ourselves, or to what is not known where nothing is enforced.
    Passing,
    Refused(Reason),
}

impl Route {
    /// The service, where it is one.
    pub(super) fn service(&self) -> Option<&Arc<Service>> {
        match &self.to {
            Callee::Service(service) => Some(service),
            Callee::Workload(_) => None,
        }
    }

    /// The next endpoint, its place, and the app's port there.
    pub(super) fn pick(&self, outbound: &Outbound, turn: usize, tried: Tried) -> Option<(&Arc<Endpoint>, usize, u16)> {
        match &self.to {
            Callee::Service(service) => {
                let (endpoints, to) = (&service.endpoints, self.destination);
                let failing = outbound.needs.state.state().failing().of(service);
                service.with_order(self.mesh.site(), |order| match failing {
                    Some(failing) => pick_healthy(endpoints, order, to, turn, tried, |at| failing.has(at)),
                    None => pick(endpoints, order, to.port(), to.ip(), turn, tried),
                })
            }
            Callee::Workload(workload) => {
                (tried == Tried::default()).then(|| (&workload.endpoint, 0, self.destination.port()))
            }
        }
    }

    /// Of a port that nobody declares, its number alone may speak.
    pub(super) fn protocol(&self) -> AppProtocol {
        self.port.as_ref().map_or_else(|| by_port(self.destination.port()).protocol, |port| port.protocol)
    }

    pub(super) fn connect(&self) -> Connect {
        self.port.as_ref().map_or_else(|| by_port(self.destination.port()).connect, |port| port.options.connect)
    }

    /// How long an answer's head may take, where the service says it.
    pub(super) fn request_timeout(&self) -> Option<Duration> {
        self.port.as_ref().and_then(|port| port.options.request_timeout)
    }

    /// How B3 is written for it, where it asks for that.
    pub(super) fn b3(&self) -> Option<B3Headers> {
        self.port.as_ref().and_then(|port| port.options.b3)
    }

    /// Whether HTTP/1 apps see header names as their sender spelled them.
    pub(super) fn keeps_names(&self) -> bool {
        self.port.as_ref().is_some_and(|port| port.options.header_names == HeaderNames::Preserve)
    }
}

/// A connection that became a tunnel; otherwise it has ended.
pub(super) type Carried = Option<(TcpStream, Reached)>;

pub(super) fn serve(
    outbound: &Rc<Outbound>,
    app: TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
) -> impl Future<Output = ()> {
    tcp::prepare(&app);
    let open = outbound.needs.metrics.connection(Direction::Outbound);
    let mut stage = Stage::new(begin(outbound, app, destination));
    async move {
        if let Err(error) = stage.run().await {
            tracing::debug!(%source, %destination, "the app's connection ended: {error}");
            if let Some(reason) = server::refused(&error) {
                broke_rules(outbound, destination, reason, &error);
            }
        }
        drop(open);
    }
}

async fn begin(outbound: &Rc<Outbound>, mut app: TcpStream, destination: SocketAddr) -> io::Result<Next<'_>> {
    let route = match way(outbound, destination).await {
        Way::Outside(mesh) => return Box::pin(egress::serve(outbound, app, destination, mesh)).await.map(|()| None),
        Way::Passing => return Box::pin(pass_through(outbound, app, destination)).await.map(|()| None),
        Way::Refused(reason) => return Box::pin(refuse(outbound, app, destination, reason)).await.map(|()| None),
        Way::Route(route) => route,
    };
    let carried = match first_bytes(outbound, &mut app, &route).await? {
        First::App(peeked) => return serve_mesh(outbound, app, peeked, route).await,
        First::Opened(bytes, opened) => Box::pin(stream::serve_opened(outbound, app, bytes, route, *opened)).await?,
        First::Server(first, reached) => {
            write_all(&app, &first).await?;
            Some((app, *reached))
        }
    };
    Ok(Stage::tunnel(outbound, carried))
}

/// Looks the address up; asks the control plane where the snapshot has no answer.
pub(super) async fn way(outbound: &Outbound, destination: SocketAddr) -> Way {
    let mut mesh = outbound.needs.state.snapshot();
    if mesh.is_own_address(destination.ip()) {
        return Way::Passing;
    }
    let mut found = mesh.destination(destination);
    if matches!(found, Destination::Pending) {
        mesh = outbound.needs.state.resolve(destination.ip()).await;
        found = mesh.destination(destination);
    }
    let refused = match found {
        Destination::Outside => return Way::Outside(mesh),
        Destination::Service { service, port } => {
            return Way::Route(Route {
                mesh,
                to: Callee::Service(service),
                port: Some(port),
                destination,
                traced: Traced::new(),
            });
        }
        Destination::Workload { workload, port } => {
            return Way::Route(Route {
                mesh,
                to: Callee::Workload(workload),
                port,
                destination,
                traced: Traced::new(),
            });
        }
        Destination::Pending if !mesh.is_ready() => Reason::NotReady,
        Destination::Pending | Destination::Absent => Reason::DestinationUnknown,
        Destination::UnknownFeature => Reason::UnknownFeature,
    };
    if mesh.enforcement() == Enforcement::Enforce {
        return Way::Refused(refused);
    }
    outbound.needs.metrics.would_refuse(refused, Direction::Outbound);
    Way::Passing
}

/// Where the server speaks first, or the bytes mean nothing to us, nothing is waited for.
async fn first_bytes(outbound: &Outbound, app: &mut TcpStream, route: &Route) -> io::Result<First> {
    let peeked = match route.protocol() {
        AppProtocol::ServerFirst | AppProtocol::Tcp | AppProtocol::Postgres => {
            Peeked { protocol: Protocol::Opaque, bytes: BytesMut::new(), ended: false }
        }
        AppProtocol::Detect => return Box::pin(detect(outbound, app, route)).await,
        AppProtocol::Tls => peek(app, FIRST_BYTES).await?,
        AppProtocol::Http | AppProtocol::Http2 => {
            let mut peeked = peek(app, FIRST_BYTES).await?;
            // What is no HTTP gets its 400 from the HTTP parser.
            if peeked.protocol == Protocol::Opaque && !peeked.bytes.is_empty() {
                peeked.protocol = Protocol::Http1;
            }
            peeked
        }
    };
    Ok(First::App(peeked))
}

async fn serve_mesh(outbound: &Rc<Outbound>, app: TcpStream, peeked: Peeked, route: Route) -> io::Result<Next<'_>> {
    let Peeked { protocol, bytes, ended } = peeked;
    if ended && bytes.is_empty() && route.protocol() != AppProtocol::Detect {
        // The client was to speak first, and left instead: there is nothing to carry.
        return Ok(None);
    }
    let is_http = matches!(protocol, Protocol::Http1 | Protocol::Http2);
    if is_http && takes_tunnels_only(outbound, &route).await {
        let carried = Box::pin(stream::serve(outbound, app, bytes, route)).await?;
        return Ok(Stage::tunnel(outbound, carried));
    }
    if is_http && !bytes.starts_with(b"CONNECT ") {
        route.is_no_connection();
    }
    match protocol {
        // An app's own CONNECT is between it and the proxy that it believes to be there.
        Protocol::Http1 if !bytes.starts_with(b"CONNECT ") => {
            Ok(Some(Stage::http1(outbound, app, bytes, route.destination)))
        }
        Protocol::Http2 => {
            let (stop, destination) = (outbound.needs.stop.clone(), route.destination);
            // Each request asks for its own: this one would keep its snapshot for as long as the connection lives.
            drop(route);
            let outbound = Rc::clone(outbound);
            let handle = async move |asked: Asked<'_>| request::serve(&outbound, destination, None, asked).await;
            let served = Box::pin(serve_http2(Prefixed::new(bytes, app), stop, handle));
            served.await.map(|()| None)
        }
        Protocol::Tls => {
            let carried = Box::pin(stream::serve_tls(outbound, app, bytes, route)).await?;
            Ok(Stage::tunnel(outbound, carried))
        }
        Protocol::Http1 | Protocol::PostgresSsl | Protocol::PostgresGss | Protocol::Opaque => {
            let carried = Box::pin(stream::serve(outbound, app, bytes, route)).await?;
            Ok(Stage::tunnel(outbound, carried))
        }
    }
}

pub(super) fn serve_http1(
    outbound: &Rc<Outbound>,
    app: TcpStream,
    bytes: BytesMut,
    destination: SocketAddr,
) -> impl Future<Output = io::Result<Carried>> {
    let connection = h1::Connection::new(app, bytes);
    async move {
        let pin = Pin::default();
        let handle = async |asked: Asked<'_>| request::serve(outbound, destination, Some(&pin), asked).await;
        let refused = |reason, error: &h1::HeadError| request::unread(outbound, destination, reason, error);
        match h1::serve(connection, outbound.needs.stop.clone(), refused, handle).await? {
            h1::Ended::Closed => Ok(None),
            h1::Ended::Tunnel(app, bytes) => Box::pin(tunnel_on(outbound, app, bytes, destination)).await,
        }
    }
}

/// CONNECT after requests: from here on it is bytes, to whom the app called, as far as that is still of the mesh.
async fn tunnel_on(
    outbound: &Rc<Outbound>,
    app: TcpStream,
    bytes: BytesMut,
    destination: SocketAddr,
) -> io::Result<Carried> {
    match way(outbound, destination).await {
        Way::Route(route) => stream::serve(outbound, app, bytes, route).await,
        Way::Refused(reason) => {
            refuse_bytes(outbound, app, destination, reason);
            Ok(None)
        }
        // It was a service's when the connection began.
        Way::Outside(_) | Way::Passing => {
            tcp::reset(app);
            Ok(None)
        }
    }
}

/// Whether the endpoint whose turn it is has a sidecar that takes tunnels and no requests (ALPN `h2`, HBONE): then the
/// app's HTTP goes there as the bytes that it is. Which of both a sidecar takes shows when it is connected to.
async fn takes_tunnels_only(outbound: &Rc<Outbound>, route: &Route) -> bool {
    let Some((endpoint, ..)) = route.pick(outbound, outbound.coming_turn(), Tried::default()) else { return false };
    let Some(peer) = &endpoint.mesh else { return false };
    let slot = match outbound.pool.try_acquire(endpoint) {
        Some(slot) => Ok(slot),
        // On the heap: rare, and each connection would hold its room.
        None => Box::pin(outbound.pool.acquire(endpoint, peer)).await,
    };
    // Without a connection the request will learn why.
    slot.is_ok_and(|slot| !slot.takes_requests())
}

/// Nothing is read before, nothing is held.
async fn pass_through(outbound: &Outbound, mut app: TcpStream, destination: SocketAddr) -> io::Result<()> {
    let mut far = match dial(destination, outbound.dial).await {
        Ok(far) => far,
        Err(error) => {
            tcp::reset(app);
            return Err(error);
        }
    };
    let span = carried::outside(outbound, destination, None);
    copy(outbound, &mut app, &mut far, &[], (Whom::at(destination), &span)).await
}

/// Copies until both ended; `prefix` was read from the app already.
pub(super) async fn copy(
    outbound: &Outbound,
    app: &mut TcpStream,
    far: &mut TcpStream,
    prefix: &[u8],
    (to, span): (Whom, &ConnectionSpan),
) -> io::Result<()> {
    let (copied, began) = (Copied::after((prefix.len(), 0)), Instant::now());
    write_all(far, prefix).await?;
    let copied = span.counts(&copied);
    let result = copy_both(app, far, copied).await;
    span.ended(&result);
    told::connection(outbound, &to, copied, began.elapsed());
    result
}

/// HTTP gets an answer that says why, everything else RST.
async fn refuse(
    outbound: &Rc<Outbound>,
    mut app: TcpStream,
    destination: SocketAddr,
    reason: Reason,
) -> io::Result<()> {
    let peeked = peek(&mut app, DETECTION_LIMIT).await?;
    let stop = outbound.needs.stop.clone();
    match peeked.protocol {
        Protocol::Http1 => {
            let pin = Pin::default();
            let why = (Some(&pin), reason);
            let handle = async |asked: Asked<'_>| request::refuse(outbound, destination, why, asked).await;
            let refused = |reason, error: &h1::HeadError| request::unread(outbound, destination, reason, error);
            let connection = h1::Connection::new(app, peeked.bytes);
            if let h1::Ended::Tunnel(app, _) = h1::serve(connection, stop, refused, handle).await? {
                refuse_bytes(outbound, app, destination, reason);
            }
            Ok(())
        }
        Protocol::Http2 => {
            let outbound = Rc::clone(outbound);
            let handle =
                async move |asked: Asked<'_>| request::refuse(&outbound, destination, (None, reason), asked).await;
            Box::pin(serve_http2(Prefixed::new(peeked.bytes, app), stop, handle)).await
        }
        Protocol::Tls | Protocol::PostgresSsl | Protocol::PostgresGss | Protocol::Opaque => {
            refuse_bytes(outbound, app, destination, reason);
            Ok(())
        }
    }
}

/// Of HTTP/2: the connection has ended with what was on it.
fn broke_rules(outbound: &Outbound, destination: SocketAddr, reason: Reason, error: &io::Error) {
    outbound.refuse(reason, destination, &error.to_string());
    told::refused_connection(outbound, Whom::at(destination), reason, None);
    carried::refused(outbound, destination, Instant::now(), (reason, None));
}

fn refuse_bytes(outbound: &Outbound, app: TcpStream, destination: SocketAddr, reason: Reason) {
    outbound.refuse(reason, destination, request::NOBODY);
    told::refused_connection(outbound, Whom::at(destination), reason, None);
    carried::refused(outbound, destination, Instant::now(), (reason, None));
    tcp::reset(app);
}
