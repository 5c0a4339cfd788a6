//! One request of the app: where it goes now, to which endpoint, over which mesh connection; then the answer, freed of what
//! sidecars say to each other. A request that was certainly not processed is sent again, so that no rotation and no drain
//! costs one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::HeaderValue;
use http::{Method, Request, Response, StatusCode, request};

use super::Outbound;
use super::balance::Tried;
use super::connection::{Route, Way, way};
use super::pin::Pin;
use super::pool::is_unprocessed;
use super::stream::check_plain;
use crate::http::body::{Body, BodyError};
use crate::http::exchange::{NoAnswer, Upload, over_http2, upload as upload_into};
use crate::http::h1::head::parse_request;
use crate::http::headers::{are_connection_bound, sanitize};
use crate::http::internal::{ABSOLUTE, DECISION, DENIED, Elapsed, METHOD, PIN, PORT, UPGRADED, VERSION, port_value};
use crate::http::{Answer, Asked, Caller, respond, target};
use crate::reason::Reason;
use crate::state::{Endpoint, MeshPeer};
use crate::telemetry::{Direction, Kind, MeshSide, Span, Status, TraceContext};

/// Tries, the first one included, while the request is certainly unprocessed.
const ATTEMPTS: usize = 4;

/// `pin`: of the app's HTTP/1 connection; streams of HTTP/2 share theirs, and carry no such credentials.
pub(super) async fn serve(
    outbound: &Rc<Outbound>,
    destination: SocketAddr,
    pin: Option<&Pin>,
    asked: Asked<'_>,
) -> Answer {
    let started = Instant::now();
    let Asked { mut request, raw, upgrade, caller } = asked;
    let grpc = respond::is_grpc(request.headers());
    let trace = outbound.needs.tracer.hop(request.headers());
    let start_ns = if trace.sampled { outbound.needs.tracer.now_ns() } else { 0 };
    let http2 = pin.is_none();
    if let Some(pin) = pin.filter(|_| are_connection_bound(request.headers())) {
        pin.bind();
    }
    let pin = pin.filter(|pin| pin.is_bound());
    let absolute = !http2 && request.uri().authority().is_some();
    let mut hop = Hop { destination, http2, pin, absolute, upgrade, caller, trace, link: None, reset: None };
    let answered = match into_mesh_form(&mut request, destination) {
        Ok(()) => route_and_send(outbound, &mut hop, request, raw).await,
        Err(reason) => Err((reason, "the request's host can be read in more than one way".to_owned())),
    };
    let (answer, refused) = match answered {
        Ok(answer) => (answer, None),
        Err((reason, detail)) => {
            outbound.refuse(reason, destination, &detail);
            let mut answer = Answer::from(respond::refusal(reason, None, grpc));
            answer.reset = hop.reset;
            (answer, Some(reason))
        }
    };
    let elapsed = started.elapsed();
    outbound.needs.metrics.request(Direction::Outbound, answer.response.status().as_u16(), elapsed);
    record_span(outbound, &hop, start_ns, elapsed, &answer.response, refused);
    answer
}

fn into_mesh_form<B>(request: &mut Request<B>, destination: SocketAddr) -> Result<(), Reason> {
    sanitize(request.headers_mut());
    if *request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none() {
        // On a mesh connection it would be a tunnel, to where the app likes.
        return Err(Reason::MalformedRequest);
    }
    target::into_http2(request, destination)
}

/// What is known of a request on its way.
struct Hop<'a> {
    destination: SocketAddr,
    http2: bool,
    /// Set where the app's connection is tied to one of the callee's.
    pin: Option<&'a Pin>,
    /// The request line names the whole URI: the app believes that it speaks to a proxy.
    absolute: bool,
    /// What the app wants to change to.
    upgrade: Option<Protocol>,
    caller: Caller<'a>,
    trace: TraceContext,
    link: Option<Link>,
    /// The callee's app reset the stream: a caller in HTTP/2 gets the same.
    reset: Option<h2::Reason>,
}

/// How long the way between the two sidecars took, and which it was.
struct Link {
    elapsed: Duration,
    callee: Elapsed,
    name: Option<Arc<str>>,
    site: Option<String>,
    peer: Option<String>,
}

type Failure = (Reason, String);

async fn route_and_send(
    outbound: &Rc<Outbound>,
    hop: &mut Hop<'_>,
    request: Request<Body>,
    raw: Option<Bytes>,
) -> Result<Answer, Failure> {
    let route = match way(outbound, hop.destination).await {
        Way::Route(route) => route,
        Way::Refused(reason) => return Err((reason, "nobody in the mesh answers for this address".to_owned())),
        Way::Outside => return plain(outbound, hop, hop.destination, request).await,
    };
    let mut unsent = Unsent::new(request, raw, hop.destination);
    let mut tried = Tried::default();
    let turn = outbound.next_turn();
    let mut failed = (Reason::NoEndpoint, "no endpoint serves this port".to_owned());
    if let Some(tie) = hop.pin.and_then(Pin::tie) {
        let Some(peer) = &tie.endpoint.mesh else { return Err(failed) };
        let to = Target { endpoint: &tie.endpoint, peer, port: tie.port };
        match exchange(outbound, hop, &route, to, &mut unsent).await {
            Ok(answer) => return Ok(answer),
            // The app will ask its user to prove himself again, on a new connection.
            Err(Missed::Unprocessed(_)) if unsent.is_whole() => hop.pin.into_iter().for_each(Pin::forget),
            Err(_) => {
                // A reset ends the app's connection as well: it begins anew.
                hop.reset = Some(h2::Reason::CANCEL);
                return Err((Reason::ConnectFailed, "the connection of the app's session is gone".to_owned()));
            }
        }
    }
    for _ in 0..ATTEMPTS {
        let Some((endpoint, place, port)) = route.pick(turn, tried) else {
            break;
        };
        let Some(peer) = &endpoint.mesh else {
            check_plain(&route, None).map_err(|reason| {
                (reason, "the endpoint has no sidecar, and the service takes no plain bytes".into())
            })?;
            let Some((head, body)) = unsent.take() else { break };
            return plain(outbound, hop, SocketAddr::new(endpoint.ip, port), Request::from_parts(head, body)).await;
        };
        match exchange(outbound, hop, &route, Target { endpoint, peer, port }, &mut unsent).await {
            Ok(answer) => return Ok(answer),
            Err(Missed::Unreachable(reason, detail)) => {
                tried.add(place);
                failed = (reason, detail);
            }
            Err(Missed::Unprocessed(error)) if unsent.is_whole() => {
                outbound.pool.forget_closed(endpoint);
                failed = (Reason::ConnectFailed, error.to_string());
            }
            Err(Missed::Unprocessed(error) | Missed::Lost(error)) => {
                outbound.pool.forget_closed(endpoint);
                return Err((Reason::ConnectFailed, format!("the callee's answer was lost: {error}")));
            }
            Err(Missed::Body(error)) => return Err((error.reason(), error.to_string())),
        }
    }
    Err(failed)
}

/// A request that may have to be sent again: its head as it came (HTTP/1), or a copy (HTTP/2); its body as far as it is
/// still here.
struct Unsent {
    destination: SocketAddr,
    head: Option<request::Parts>,
    again: Again,
    body: Option<Body>,
}

enum Again {
    /// Parsed anew only where another try is needed: the good path copies nothing.
    Raw(Bytes),
    Parts(Box<request::Parts>),
}

impl Unsent {
    fn new(request: Request<Body>, raw: Option<Bytes>, destination: SocketAddr) -> Unsent {
        let (head, body) = request.into_parts();
        let again = match raw {
            Some(raw) => Again::Raw(raw),
            None => Again::Parts(Box::new(head.clone())),
        };
        Unsent { destination, head: Some(head), again, body: Some(body) }
    }

    fn is_whole(&self) -> bool {
        self.body.is_some()
    }

    fn take(&mut self) -> Option<(request::Parts, Body)> {
        let body = self.body.take()?;
        let head = match self.head.take() {
            Some(head) => head,
            None => match &self.again {
                Again::Parts(parts) => (**parts).clone(),
                Again::Raw(raw) => {
                    let mut request = parse_request(raw).ok()?.request;
                    into_mesh_form(&mut request, self.destination).ok()?;
                    request.into_parts().0
                }
            },
        };
        Some((head, body))
    }
}

/// One endpoint behind its sidecar.
#[derive(Clone, Copy)]
struct Target<'a> {
    endpoint: &'a Arc<Endpoint>,
    peer: &'a MeshPeer,
    port: u16,
}

/// Why one try brought no answer.
enum Missed {
    /// No connection: another endpoint may have one.
    Unreachable(Reason, String),
    /// Certainly not processed.
    Unprocessed(h2::Error),
    /// Perhaps processed.
    Lost(h2::Error),
    /// The caller did not send all of it.
    Body(BodyError),
}

/// One try: a stream on a mesh connection. What is certainly unprocessed is back in `unsent` afterwards, as far as its body
/// was held.
async fn exchange(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    route: &Route,
    to: Target<'_>,
    unsent: &mut Unsent,
) -> Result<Answer, Missed> {
    let tie = hop.pin.and_then(Pin::tie);
    let mut acquired = None;
    if tie.is_none() {
        let slot = outbound.pool.acquire(to.endpoint, to.peer).await;
        acquired = Some(slot.map_err(|error| Missed::Unreachable(error.reason(), error.to_string()))?);
    }
    if acquired.as_ref().is_some_and(|slot| !slot.takes_requests()) {
        let detail = "the peer's sidecar takes tunnels only (ALPN h2); declare the port as TCP, or upgrade the sidecar";
        return Err(Missed::Unreachable(Reason::UnknownFeature, detail.to_owned()));
    }
    let tie = match (tie, hop.pin, acquired.take_if(|_| hop.pin.is_some())) {
        (None, Some(pin), Some(slot)) => Some(pin.make(slot, to.endpoint, to.port).map_err(Missed::Unprocessed)?),
        (tie, ..) => tie,
    };
    let Some(slot) = tie.as_ref().map(|tie| &tie.slot).or(acquired.as_ref()) else {
        return Err(Missed::Unreachable(Reason::ConnectFailed, "no mesh connection".to_owned()));
    };
    let link_trace = hop.trace.child();
    let sent_ns = if link_trace.sampled { outbound.needs.tracer.now_ns() } else { 0 };
    let Some((mut head, body)) = unsent.take() else {
        return Err(Missed::Unreachable(Reason::ConnectFailed, "nothing is left to send".to_owned()));
    };
    add_mesh_headers(&mut head, hop, to.port, &link_trace);
    if let Some(tie) = &tie {
        head.headers.insert(PIN, tie.id.clone());
    }
    let ends = body.is_empty();
    let _open = outbound.needs.metrics.stream(MeshSide::Client);
    let sent = Instant::now();
    let (response, stream) = match slot.send_request(Request::from_parts(head, ()), ends) {
        Ok(sent) => sent,
        Err(error) => {
            // About the connection: not a byte of the request was sent.
            unsent.body = Some(body);
            return Err(Missed::Unprocessed(error));
        }
    };
    // What follows a change of protocol waits for the answer.
    let mut later = None;
    let mut upload = if hop.upgrade.is_some() {
        later = Some((body, stream));
        Upload::default()
    } else {
        upload_into(body, stream).holding()
    };
    let response = match over_http2(response, &mut upload, hop.caller).await {
        Ok(response) => response,
        Err(NoAnswer::Body(error)) => return Err(Missed::Body(error)),
        Err(NoAnswer::Stream(error)) if is_unprocessed(&error) => {
            unsent.body = match later {
                Some((body, _)) => Some(body),
                None => upload.rewind(),
            };
            return Err(Missed::Unprocessed(error));
        }
        Err(NoAnswer::Stream(error)) => {
            hop.reset = error.is_reset().then(|| error.reason()).flatten();
            return Err(Missed::Lost(error));
        }
    };
    let took = slot.last_read().saturating_duration_since(sent);
    let mut response = response.map(Body::http2);
    note_link(outbound, hop, route, to, took, &mut response);
    record_link(outbound, hop, &link_trace, sent_ns);
    let agreed = response.headers_mut().remove(UPGRADED).is_some() && response.status() == StatusCode::OK;
    clean(&mut response);
    if let Some((body, mut stream)) = later {
        if agreed {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            upload = upload_into(body, stream);
        } else {
            // The answer is on its way already, and its end is the stream's.
            let _ = stream.send_data(Bytes::new(), true);
        }
    }
    Ok(Answer { response, upload: upload.into_rest(), reset: None })
}

/// What the other sidecar is told with the head.
fn add_mesh_headers(head: &mut request::Parts, hop: &Hop<'_>, port: u16, trace: &TraceContext) {
    head.version = http::Version::HTTP_2;
    head.headers.insert(PORT, port_value(port));
    if hop.http2 {
        head.headers.insert(VERSION, HeaderValue::from_static("2"));
    }
    if hop.absolute {
        head.headers.insert(ABSOLUTE, HeaderValue::from_static("1"));
    }
    if let Some(protocol) = &hop.upgrade {
        let method = std::mem::replace(&mut head.method, Method::CONNECT);
        if method != Method::GET
            && let Ok(method) = HeaderValue::from_str(method.as_str())
        {
            head.headers.insert(METHOD, method);
        }
        head.extensions.insert(protocol.clone());
    }
    trace.write(&mut head.headers);
}

fn note_link(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    route: &Route,
    to: Target<'_>,
    took: Duration,
    response: &mut Response<Body>,
) {
    let Some(callee) = Elapsed::take(response.headers_mut()) else {
        return;
    };
    let elapsed = took.saturating_sub(Duration::from_micros(callee.total_us));
    outbound.needs.metrics.link_time(elapsed);
    if !hop.trace.sampled {
        return;
    }
    let site = to.endpoint.site.as_ref();
    let name = route.mesh.site().zip(site).and_then(|(own, site)| route.mesh.link_between(own, site)).cloned();
    let peer = to.peer.identities.first().map(ToString::to_string);
    hop.link = Some(Link { elapsed, callee, name, site: site.map(ToString::to_string), peer });
}

/// What a sidecar says to a sidecar stays between them; the refusal's word and id pass on to the app.
fn clean(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    let denied = headers.remove(DENIED);
    let decision = headers.remove(DECISION);
    sanitize(headers);
    if let Some(word) = denied {
        headers.insert(DENIED, word);
    }
    if let Some(id) = decision {
        headers.insert(DECISION, id);
    }
}

/// To an endpoint without sidecar, or outside: plain, in the version that the app speaks.
async fn plain(
    outbound: &Rc<Outbound>,
    hop: &Hop<'_>,
    address: SocketAddr,
    mut request: Request<Body>,
) -> Result<Answer, Failure> {
    hop.trace.child().write(request.headers_mut());
    if !hop.http2 {
        target::into_http1(&mut request, hop.absolute).map_err(|reason| (reason, "no valid host".to_owned()))?;
    }
    let own = hop.pin.map(|pin| pin.plain(|| outbound.plain.home_of_one()));
    let upgrade = hop.upgrade.as_ref();
    let sent = outbound.plain.send(address, request, hop.http2, upgrade, own.as_ref(), hop.caller).await;
    let mut answer = sent.map_err(|error| (error.reason(), error.to_string()))?;
    sanitize(answer.response.headers_mut());
    Ok(answer)
}

fn record_span(
    outbound: &Outbound,
    hop: &Hop<'_>,
    start_ns: u64,
    elapsed: Duration,
    response: &Response<Body>,
    refused: Option<Reason>,
) {
    let Some(mut span) = hop.trace.span(Kind::Client, "outbound", start_ns) else {
        return;
    };
    span.end_ns = outbound.needs.tracer.now_ns();
    span.set("http.response.status_code", response.status().as_u16());
    span.set("server.address", hop.destination.to_string());
    describe(outbound, hop, &mut span);
    if let Some(link) = &hop.link {
        let proxy = micros(elapsed).saturating_sub(micros(link.elapsed)).saturating_sub(count(link.callee.app_us));
        span.set("isthmus.time.app_us", count(link.callee.app_us));
        span.set("isthmus.time.link_us", micros(link.elapsed));
        span.set("isthmus.time.proxy_us", proxy);
    }
    let denied = response.headers().get(DENIED).and_then(|word| word.to_str().ok());
    let decision = refused
        .map(Reason::word)
        .or_else(|| Reason::ALL.iter().map(|reason| reason.word()).find(|word| Some(*word) == denied));
    span.set("isthmus.decision", decision.unwrap_or("allowed"));
    if let Some(word) = decision {
        span.status = Status::Error(word);
    }
    outbound.needs.tracer.record(span);
}

/// From the request leaving this sidecar to the answer being back, without what the callee took.
fn record_link(outbound: &Outbound, hop: &Hop<'_>, trace: &TraceContext, sent_ns: u64) {
    let Some(mut span) = trace.span(Kind::Internal, "link", sent_ns) else {
        return;
    };
    span.end_ns = outbound.needs.tracer.now_ns();
    describe(outbound, hop, &mut span);
    if let Some(link) = &hop.link {
        span.set("isthmus.time.link_us", micros(link.elapsed));
    }
    outbound.needs.tracer.record(span);
}

fn describe(outbound: &Outbound, hop: &Hop<'_>, span: &mut Span) {
    if let Some(site) = outbound.needs.state.snapshot().site() {
        span.set("isthmus.site.source", site.to_string());
    }
    let Some(link) = &hop.link else { return };
    if let Some(site) = &link.site {
        span.set("isthmus.site.destination", site.clone());
    }
    if let Some(name) = &link.name {
        span.set("isthmus.link", name.clone());
    }
    if let Some(peer) = &link.peer {
        span.set("isthmus.peer.identity", peer.clone());
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn count(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}
