//! One request to the app: internal headers read and removed, authorized, the caller's identity and trace added, sent to
//! the app at its own address, the answer sent back with how long it took.

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use h2::ext::Protocol;
use http::header::HeaderValue;
use http::{Method, Request, StatusCode};
use isthmus_certs::SpiffeId;

use super::Inbound;
use super::authorize::{Caller, Question, Refusal};
use super::live::{Entry, Head, Watched};
use super::matched;
use super::mesh::Peer;
use super::{spans, told};
use crate::http::body::Body;
use crate::http::client::To;
use crate::http::h1::Names;
use crate::http::h1::exchange::Home;
use crate::http::h1::head::is_upgrade;
use crate::http::headers::{FORWARDED_CLIENT_CERT, are_connection_bound, sanitize};
use crate::http::internal::{self, Elapsed};
use crate::http::{Answer, Asked, Caller as Asker, patience, respond, target};
use crate::reason::Reason;
use crate::state::policy::{Arrived, HttpFacts};
use crate::state::{HeaderNames, TrafficOptions};
use crate::telemetry::{AskedFor, Brief, Direction, TraceContext};

/// A request on a mesh connection. Host and `:authority` never select the address: the port is an internal header, the
/// address is our own.
///
/// `came`: when the bytes of its head were there.
pub(super) async fn from_mesh(
    inbound: &Rc<Inbound>,
    peer: &Peer,
    came: Instant,
    watched: &Watched,
    asked: Asked<'_>,
) -> Answer {
    let Asked { mut request, caller, .. } = asked;
    let grpc = respond::is_grpc(request.headers());
    let port = internal::take_port(request.headers_mut());
    let http2 = internal::take_is_http2(request.headers_mut());
    let (peer_id, forwarded, source) = (Some(&peer.identity.id), peer.forwarded.as_ref(), peer.source.ip());
    let absolute = internal::take_is_absolute(request.headers_mut());
    let upgrade = if http2 == Ok(true) { Ok(None) } else { take_upgrade(&mut request) };
    let own = take_own(inbound, peer, &mut request);
    let names = Names::take(request.headers_mut());
    let hop = port.and_then(|port| {
        let (app, upgrade, own, names) = (app_address(inbound, peer, port)?, upgrade?, own?, names?);
        let (http2, absolute) = (http2?, absolute?);
        let arrived = Arrived::Mesh;
        let (reset, sent) = (Cell::new(None), Cell::new(None));
        Ok(Hop {
            peer: peer_id,
            forwarded,
            source,
            app,
            arrived,
            http2,
            absolute,
            upgrade,
            own,
            names,
            came,
            sent,
            caller,
            reset,
            watched,
        })
    });
    match hop {
        Ok(hop) => forward(inbound, hop, request).await,
        Err(reason) => {
            let refusal = inbound.refuse(reason, source, "a mesh request that names no port of this workload");
            respond::refusal(refusal.reason, None, grpc).into()
        }
    }
}

/// A request that came in plain, past any sidecar; its destination is where it was sent to.
pub(super) async fn from_plain(
    inbound: &Rc<Inbound>,
    source: IpAddr,
    destination: SocketAddr,
    http2: bool,
    pin: &OnceCell<Rc<Home>>,
    watched: Watched,
    asked: Asked<'_>,
) -> Answer {
    let Asked { mut request, raw, upgrade, caller } = asked;
    if !http2 && are_connection_bound(request.headers()) {
        pin.get_or_init(|| inbound.app.home_of_one());
    }
    let own = pin.get().cloned();
    let (came, arrived, reset, sent) = (Instant::now(), Arrived::Plain, Cell::new(None), Cell::new(None));
    let absolute = !http2 && request.uri().authority().is_some();
    let hop = Hop {
        peer: None,
        forwarded: None,
        source,
        app: destination,
        arrived,
        http2,
        absolute,
        upgrade,
        own,
        names: raw.map(|raw| Names::of(&raw)).unwrap_or_default(),
        came,
        sent,
        caller,
        reset,
        watched: &watched,
    };
    if !http2 && let Err(reason) = target::into_http2(&mut request, destination) {
        let refusal = inbound.refuse(reason, source, "a request whose host can be read in more than one way");
        return respond::refusal(refusal.reason, None, respond::is_grpc(request.headers())).into();
    }
    let mut answer = forward(inbound, hop, request).await;
    // The answer's body is still to come; until its end this is a live stream.
    answer.held = watched.into_admitted().map(|admitted| Box::new(admitted) as _);
    answer
}

/// Where the request came from and where it goes.
pub(super) struct Hop<'a> {
    pub(super) peer: Option<&'a SpiffeId>,
    /// The caller's identity, as the app is told it.
    forwarded: Option<&'a HeaderValue>,
    pub(super) source: IpAddr,
    pub(super) app: SocketAddr,
    pub(super) arrived: Arrived,
    pub(super) http2: bool,
    /// The request line shall name the whole URI.
    absolute: bool,
    /// What the caller's app wants to change to.
    pub(super) upgrade: Option<Protocol>,
    /// The app's connections that this request's caller has for itself.
    own: Option<Rc<Home>>,
    /// How the caller's app spelled its header names.
    names: Names,
    pub(super) came: Instant,
    /// When the app was asked.
    sent: Cell<Option<Instant>>,
    caller: Asker<'a>,
    /// What the app reset its stream with.
    reset: Cell<Option<h2::Reason>>,
    watched: &'a Watched,
}

/// The tie that the request names. Credentials of a connection without one get a connection that is used once.
fn take_own<B>(inbound: &Inbound, peer: &Peer, request: &mut Request<B>) -> Result<Option<Rc<Home>>, Reason> {
    match internal::take_pin(request.headers_mut())? {
        Some(id) => peer.pins.borrow().get(&id).cloned().map(Some).ok_or(Reason::BadInternalHeader),
        None => Ok(are_connection_bound(request.headers()).then(|| inbound.app.home_of_one())),
    }
}

/// RFC 8441: the protocol, which a peer may spell as it likes, and the method that CONNECT stands for.
fn take_upgrade<B>(request: &mut Request<B>) -> Result<Option<Protocol>, Reason> {
    let method = internal::take_method(request.headers_mut())?;
    let Some(protocol) = request.extensions_mut().remove::<Protocol>() else { return Ok(None) };
    if !is_upgrade(protocol.as_str()) {
        return Err(Reason::MalformedRequest);
    }
    *request.method_mut() = method;
    Ok(Some(protocol))
}

/// The address that the peer dialled, if it is still ours, else any of ours: the app is never dialled at loopback.
fn app_address(inbound: &Inbound, peer: &Peer, port: u16) -> Result<SocketAddr, Reason> {
    if inbound.needs.own_ports.contains(&port) {
        return Err(Reason::ForbiddenPort);
    }
    let mesh = inbound.needs.state.snapshot();
    let local = peer.local.ip().to_canonical();
    let ip = if mesh.is_own_address(local) { Some(local) } else { mesh.inbound().addresses().next() };
    ip.map(|ip| SocketAddr::new(ip, port)).ok_or(if mesh.is_ready() { Reason::NotMyAddress } else { Reason::NotReady })
}

async fn forward(inbound: &Rc<Inbound>, hop: Hop<'_>, mut request: Request<Body>) -> Answer {
    let grpc = respond::is_grpc(request.headers());
    let tracer = &inbound.needs.tracer;
    let trace = match hop.peer {
        Some(_) => tracer.next_hop(request.headers()),
        None => tracer.hop_at(request.headers(), || inbound.ratio_of(hop.app.port())),
    };
    sanitize(request.headers_mut());
    let mut https = None;
    let told = (inbound.tells() || trace.sampled).then(|| (request.method().clone(), request.uri().clone()));
    let asked_for = AskedFor { method: request.method(), uri: request.uri(), http2: hop.http2, grpc };
    let brief = (told.is_none() && tracer.may_keep()).then(|| Brief::of(asked_for));
    let answered = match authorize(inbound, &hop, &mut request) {
        Ok(options) => {
            if options.header_names == HeaderNames::Preserve && !hop.http2 {
                request.extensions_mut().insert(hop.names.clone());
            }
            tokio::select! {
                biased;
                sent = send(inbound, &hop, request, &trace, options) => sent,
                refusal = hop.watched.signal.ended() => Err(refusal),
            }
        }
        Err(refusal) => {
            https = https_location(inbound, &hop, &request, refusal.reason);
            Err(refusal)
        }
    };
    let total = hop.came.elapsed();
    let (mut answer, outcome) = match answered {
        Ok((mut answer, app_time)) => {
            sanitize(answer.response.headers_mut());
            let outcome = Outcome::answered(answer.response.status().as_u16(), total, app_time);
            (answer, outcome)
        }
        Err(Refusal { reason, decision }) => {
            let response = respond::refusal(reason, decision.as_deref(), grpc);
            let response = https.into_iter().fold(response, respond::sent_to);
            let outcome = Outcome::refused(reason, decision, response.status().as_u16());
            let mut answer = Answer::from(response);
            answer.reset = hop.reset.get();
            (answer, outcome)
        }
    };
    let outcome = Outcome { sent: hop.sent.get(), ..outcome };
    let whole = told.as_ref().map(|(method, uri)| (method, uri));
    let asked = spans::Asked { whole, brief: brief.as_ref(), grpc, total };
    spans::request(inbound, &hop, &trace, &asked, &outcome, &mut answer);
    told::tell(inbound, &hop, &trace, told, total, &outcome);
    // Looked at anew and last: what the span has cost is ours, and not the link's.
    let total = if outcome.refused.is_some() { total } else { hop.came.elapsed() };
    let app_time = outcome.times.map_or(Duration::ZERO, |(_, app)| app);
    finish(inbound, &hop, &trace, answer, (Elapsed::new(total, app_time), total))
}

/// The elapsed times go to sidecars only.
fn finish(
    inbound: &Inbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    mut answer: Answer,
    (elapsed, total): (Elapsed, Duration),
) -> Answer {
    let traced = inbound.needs.tracer.exemplar(trace);
    inbound.needs.metrics.request(Direction::Inbound, answer.response.status().as_u16(), total, traced);
    if hop.peer.is_some() {
        if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // HTTP/2 has no 101: success of CONNECT says the same (RFC 8441 §5).
            *answer.response.status_mut() = StatusCode::OK;
            answer.response.headers_mut().insert(internal::UPGRADED, HeaderValue::from_static("1"));
        }
        if let Some(names) = answer.response.extensions_mut().remove::<Names>().and_then(Names::into_value) {
            answer.response.headers_mut().insert(internal::NAMES, names);
        }
        answer.response.headers_mut().insert(internal::ELAPSED, elapsed.to_value());
    }
    answer
}

/// Where a plain GET or HEAD is sent instead of the 403 alone, where its service asks for that: to the configured place,
/// never to where the request says that it is.
fn https_location(inbound: &Inbound, hop: &Hop<'_>, request: &Request<Body>, reason: Reason) -> Option<HeaderValue> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD) && hop.upgrade.is_none();
    if reason != Reason::Plaintext || !safe {
        return None;
    }
    let mesh = inbound.needs.state.snapshot();
    let authority = mesh.inbound().port(hop.app.port()).https_redirect.as_deref()?;
    let path = request.uri().path_and_query().map(|path| path.as_str()).filter(|path| path.starts_with('/'))?;
    HeaderValue::from_str(&format!("https://{authority}{path}")).ok()
}

/// Also tells how the app's port wants its requests.
fn authorize(inbound: &Inbound, hop: &Hop<'_>, request: &mut Request<Body>) -> Result<TrafficOptions, Refusal> {
    let mesh = inbound.needs.state.snapshot();
    let number = hop.app.port();
    let port = mesh.inbound().port(number);
    if port.policy.needs_path() {
        matched::normalise_path(request).map_err(|reason| inbound.refuse(reason, hop.source, "no valid path"))?;
    }
    let http = HttpFacts {
        host: target::host(request),
        method: request.method().as_str(),
        path: request.uri().path(),
        headers: request.headers(),
    };
    let caller = Caller { peer: hop.peer, address: hop.source, arrived: hop.arrived };
    let may_probe = hop.upgrade.is_none() && request.uri().query().is_none();
    inbound.authorize(&Question { mesh: &mesh, number, port, caller, http: Some(http), may_probe })?;
    let head = Head::of(request, port.policy.needs_headers() || hop.upgrade.is_some());
    let (peer, signal) = (hop.peer.cloned(), Rc::clone(&hop.watched.signal));
    let (address, arrived) = (hop.source, hop.arrived);
    let entry = Entry { port: number, peer, address, arrived, head: Some(head), may_probe, signal };
    hop.watched.admit(&inbound.live, entry);
    Ok(port.options)
}

/// Sends to the app in the version that the caller's app speaks.
async fn send(
    inbound: &Rc<Inbound>,
    hop: &Hop<'_>,
    mut request: Request<Body>,
    trace: &TraceContext,
    options: TrafficOptions,
) -> Result<(Answer, Duration), Refusal> {
    let limit = patience::limit(options.request_timeout, request.headers());
    if let Some(identity) = hop.forwarded {
        request.headers_mut().insert(FORWARDED_CLIENT_CERT, identity.clone());
    }
    let app_trace = trace.child().with_b3(options.b3);
    app_trace.write(request.headers_mut());
    if !hop.http2 {
        target::into_http1(&mut request, hop.absolute)
            .map_err(|reason| inbound.refuse(reason, hop.source, "no valid host"))?;
    }
    let carried = hop.upgrade.as_ref().map(|_| spans::websocket(inbound, hop, trace)).unwrap_or_default();
    let request = request.map(|body| spans::counted(body, &carried, false));
    let sent = Instant::now();
    hop.sent.set(Some(sent));
    let to = To { address: hop.app, http2: hop.http2, own: hop.own.as_ref(), limit };
    let result = inbound.app.send(to, request, hop.upgrade.as_ref(), hop.caller).await;
    let app_time = sent.elapsed();
    let outcome = match &result {
        Ok(answer) => Outcome::answered(answer.response.status().as_u16(), app_time, app_time),
        Err(error) => Outcome::refused(error.reason(), None, 0),
    };
    spans::app(inbound, &app_trace, sent, &outcome);
    if outcome.status != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        carried.discard();
    }
    match result {
        Ok(mut answer) => {
            answer.response = answer.response.map(|body| spans::counted(body, &carried, true));
            Ok((answer, app_time))
        }
        Err(error) => {
            hop.reset.set(error.reset());
            Err(inbound.refuse(error.reason(), hop.source, &error.to_string()))
        }
    }
}

/// How a request ended, for its span.
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) refused: Option<(Reason, Option<String>)>,
    /// The whole and the app's part of it, up to the head of its answer.
    pub(super) times: Option<(Duration, Duration)>,
    /// When the app was asked, if it was.
    pub(super) sent: Option<Instant>,
}

impl Outcome {
    fn refused(reason: Reason, decision: Option<String>, status: u16) -> Self {
        Outcome { status, refused: Some((reason, decision)), times: None, sent: None }
    }

    fn answered(status: u16, total: Duration, app: Duration) -> Self {
        Outcome { status, refused: None, times: Some((total, app)), sent: None }
    }
}
