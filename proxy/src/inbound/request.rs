//! One request to the app: internal headers read and removed, authorized, the caller's identity and trace added, sent to
//! the app at its own address, the answer sent back with how long it took.

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use h2::ext::Protocol;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use isthmus_certs::SpiffeId;

use super::Inbound;
use super::authorize::{Caller, Question, Refusal};
use super::live::{Entry, Head, Watched};
use super::matched;
use super::mesh::Peer;
use super::spans::{self, Between};
use super::told::Outcome;
use super::waiting::Waiting;
use crate::http::body::Body;
use crate::http::client::To;
use crate::http::h1::Names;
use crate::http::h1::exchange::Home;
use crate::http::h1::head::is_upgrade;
use crate::http::headers::{FORWARDED_CLIENT_CERT, are_connection_bound, sanitize};
use crate::http::internal::{self, Elapsed};
use crate::http::spans::{agrees_to_change, asked_to_change, counted};
use crate::http::{Answer, Asked, Caller as Asker, patience, respond, target};
use crate::reason::Reason;
use crate::state::policy::{Arrived, HttpFacts};
use crate::state::{HeaderNames, TrafficOptions};
use crate::telemetry::{AskedFor, Direction, KeptTrace, Remembered, TraceContext};
use crate::tls::InCommon;

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
    let port = internal::take_port(request.headers_mut());
    let http2 = internal::take_is_http2(request.headers_mut());
    let (peer_id, forwarded, source) = (Some(&peer.identity.id), peer.forwarded.as_ref(), peer.source.ip());
    let absolute = internal::take_is_absolute(request.headers_mut());
    let upgrade = if http2 == Ok(true) { Ok(None) } else { take_upgrade(&mut request) };
    let own = take_own(inbound, peer, &mut request);
    let names = Names::take(request.headers_mut());
    let read =
        || -> Result<_, Reason> { Ok((app_address(inbound, peer, port?)?, upgrade?, own?, names?, http2?, absolute?)) };
    let (formed, (app, upgrade, own, names, http2, absolute)) = match read() {
        Ok(read) => (Ok(()), read),
        Err(reason) => {
            let app = SocketAddr::new(peer.local.ip().to_canonical(), port.unwrap_or(0));
            (
                Err((reason, "a mesh request that names no port of this workload")),
                (app, None, None, Names::default(), false, false),
            )
        }
    };
    let (arrived, reset, sent) = (Arrived::Mesh, Cell::new(None), Cell::new(None));
    let hop = Hop {
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
        in_common: peer.in_common,
    };
    forward(inbound, hop, request, formed).await
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
    let (came, arrived) = (Instant::now(), Arrived::Plain);
    let (reset, sent) = (Cell::new(None), Cell::new(None));
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
        in_common: None,
    };
    let formed = if http2 { Ok(()) } else { target::into_http2(&mut request, destination) };
    let formed = formed.map_err(|reason| (reason, "a request whose host can be read in more than one way"));
    let mut answer = forward(inbound, hop, request, formed).await;
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
    /// When the app was asked, if it was.
    sent: Cell<Option<Instant>>,
    caller: Asker<'a>,
    /// What the app reset its stream with.
    reset: Cell<Option<h2::Reason>>,
    pub(super) watched: &'a Watched,
    in_common: Option<InCommon>,
}

impl Hop<'_> {
    pub(super) fn between(&self) -> Between<'_> {
        let Hop { peer, source, app, arrived, http2, came, .. } = *self;
        Between { peer, source, app, arrived, http2, came }
    }

    /// What the app has taken of the `total` until now, if it was asked.
    pub(super) fn app_time(&self, total: Duration) -> Option<Duration> {
        self.sent.get().map(|sent| (self.came + total).saturating_duration_since(sent))
    }

    /// Where the caller's sidecar puts what it keeps of this.
    pub(super) fn shared(&self) -> Option<KeptTrace> {
        KeptTrace::of(self.in_common?, self.caller.stream_id())
    }
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

/// `formed`: or why it is no request that can go on, in a word and in a sentence.
async fn forward(
    inbound: &Rc<Inbound>,
    hop: Hop<'_>,
    mut request: Request<Body>,
    formed: Result<(), (Reason, &'static str)>,
) -> Answer {
    let grpc = respond::is_grpc(request.headers());
    let trace = trace_of(inbound, &hop, request.headers());
    sanitize(request.headers_mut());
    let asks_to_change = asked_to_change(hop.upgrade.as_ref(), &request).is_some();
    let mut https = None;
    let asked_for = AskedFor { method: request.method(), uri: request.uri(), http2: hop.http2, grpc };
    let asked = Remembered::of(asked_for, inbound.tells() || trace.sampled, inbound.needs.tracer.may_keep());
    let mut waiting = Waiting::begin(inbound, (hop, trace), asked, grpc);
    let (hop, trace) = (&waiting.hop, &waiting.trace);
    let formed = formed.map_err(|(reason, detail)| inbound.refuse(reason, hop.source, detail));
    let mut noted = None;
    let answered = match formed.and_then(|()| authorize(inbound, hop, &mut request)) {
        Ok((options, would)) => {
            noted = would;
            if options.header_names == HeaderNames::Preserve && !hop.http2 {
                request.extensions_mut().insert(hop.names.clone());
            }
            tokio::select! {
                biased;
                sent = send(inbound, hop, request, trace, options) => sent,
                refusal = hop.watched.signal.ended() => Err(refusal),
            }
        }
        Err(refusal) => {
            https = https_location(inbound, hop, &request, refusal.reason);
            Err(refusal)
        }
    };
    let total = hop.came.elapsed();
    let (mut answer, outcome) = match answered {
        Ok(mut answer) => {
            sanitize(answer.response.headers_mut());
            let status = answer.response.status();
            let changed = asks_to_change && agrees_to_change(status, hop.http2);
            (answer, Outcome { changed, ..Outcome::answered(status.as_u16()) })
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
    let outcome = Outcome { noted, app: hop.app_time(total), ..outcome };
    let (refused, app_time) = (outcome.refused.is_some(), outcome.app.unwrap_or_default());
    let wanted = waiting.answered(total, outcome, &mut answer);
    let (hop, trace) = (&waiting.hop, &waiting.trace);
    // Looked at anew and last: what span and line have cost is ours, and not the link's.
    let total = if wanted && !refused { hop.came.elapsed() } else { total };
    finish(inbound, hop, trace, answer, (Elapsed::new(total, app_time), total))
}

/// What a sidecar sent has its decision; who comes past one may begin a trace here.
fn trace_of(inbound: &Inbound, hop: &Hop<'_>, headers: &HeaderMap) -> TraceContext {
    match hop.peer {
        Some(_) => inbound.needs.tracer.next_hop(headers),
        None => inbound.needs.tracer.hop_at(headers, || inbound.ratio_of(hop.app.port())),
    }
}

/// The elapsed times go to sidecars only.
fn finish(
    inbound: &Inbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    mut answer: Answer,
    (elapsed, total): (Elapsed, Duration),
) -> Answer {
    let traced = inbound.needs.tracer.exemplar(trace, hop.came + total);
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

/// Also tells how the app's port wants its requests, and the no that this yes would have been.
fn authorize(
    inbound: &Inbound,
    hop: &Hop<'_>,
    request: &mut Request<Body>,
) -> Result<(TrafficOptions, Option<Refusal>), Refusal> {
    target::keep_one_host(request).map_err(|reason| {
        inbound.refuse(reason, hop.source, "a request whose host can be read in more than one way")
    })?;
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
    let noted = inbound.authorize(&Question { mesh: &mesh, number, port, caller, http: Some(http), may_probe })?;
    let head = Head::of(request, port.policy.needs_headers() || hop.upgrade.is_some());
    let (peer, signal) = (hop.peer.cloned(), Rc::clone(&hop.watched.signal));
    let (address, arrived) = (hop.source, hop.arrived);
    let entry = Entry { port: number, peer, address, arrived, head: Some(head), may_probe, signal };
    hop.watched.admit(&inbound.live, entry);
    Ok((port.options, noted))
}

/// Sends to the app in the version that the caller's app speaks.
async fn send(
    inbound: &Rc<Inbound>,
    hop: &Hop<'_>,
    mut request: Request<Body>,
    trace: &TraceContext,
    options: TrafficOptions,
) -> Result<Answer, Refusal> {
    let limit = patience::limit(options.request_timeout, request.headers());
    if let Some(identity) = hop.forwarded {
        request.headers_mut().insert(FORWARDED_CLIENT_CERT, identity.clone());
    }
    // Spans of the app are below ours.
    trace.next(options.b3).write(request.headers_mut());
    if !hop.http2 {
        target::into_http1(&mut request, hop.absolute)
            .map_err(|reason| inbound.refuse(reason, hop.source, "no valid host"))?;
    }
    let protocol = asked_to_change(hop.upgrade.as_ref(), &request);
    let carried = protocol.map(|protocol| spans::carried(inbound, hop, trace, protocol)).unwrap_or_default();
    let request = request.map(|body| counted(body, &carried, false));
    hop.sent.set(Some(Instant::now()));
    let to = To { address: hop.app, http2: hop.http2, own: hop.own.as_ref(), limit };
    let result = inbound.app.send(to, request, hop.upgrade.as_ref(), hop.caller).await;
    match result {
        Ok(mut answer) => {
            match agrees_to_change(answer.response.status(), hop.http2) {
                true => answer.response = answer.response.map(|body| counted(body, &carried, true)),
                false => carried.discard(),
            }
            Ok(answer)
        }
        Err(error) => {
            carried.discard();
            hop.reset.set(error.reset());
            Err(inbound.refuse(error.reason(), hop.source, &error.to_string()))
        }
    }
}
