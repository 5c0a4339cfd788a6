//! One request of the app: where it goes now, to which endpoint, over which mesh connection; then the answer, freed of what
//! sidecars say to each other. A request that was certainly not processed is sent again, so that no rotation and no drain
//! costs one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{Request, Response, request};

use super::Outbound;
use super::balance::Tried;
use super::connection::{Route, Way, way};
use super::pool::is_unprocessed;
use super::stream::check_plain;
use crate::http::body::{Body, pump};
use crate::http::headers::sanitize;
use crate::http::internal::{DECISION, DENIED, Elapsed, PORT, VERSION, port_value};
use crate::http::{respond, target};
use crate::reason::Reason;
use crate::state::{Endpoint, MeshPeer};
use crate::telemetry::{Direction, Kind, MeshSide, Span, Status, TraceContext};

/// Tries, the first one included, while the request is certainly unprocessed.
const ATTEMPTS: usize = 4;

pub(super) async fn serve(
    outbound: &Rc<Outbound>,
    destination: SocketAddr,
    http2: bool,
    mut request: Request<Body>,
) -> Response<Body> {
    let started = Instant::now();
    let grpc = respond::is_grpc(request.headers());
    let trace = outbound.needs.tracer.hop(request.headers());
    let start_ns = if trace.sampled { outbound.needs.tracer.now_ns() } else { 0 };
    sanitize(request.headers_mut());
    let mut hop = Hop { destination, http2, trace, link: None };
    let answered = match target::into_http2(&mut request, &destination.to_string()) {
        Ok(()) => route_and_send(outbound, &mut hop, request).await,
        Err(reason) => Err((reason, "the request's host can be read in more than one way".to_owned())),
    };
    let (response, refused) = match answered {
        Ok(response) => (response, None),
        Err((reason, detail)) => {
            outbound.refuse(reason, destination, &detail);
            (respond::refusal(reason, None, grpc), Some(reason))
        }
    };
    let elapsed = started.elapsed();
    outbound.needs.metrics.request(Direction::Outbound, response.status().as_u16(), elapsed);
    record_span(outbound, &hop, start_ns, elapsed, &response, refused);
    response
}

/// What is known of a request on its way.
struct Hop {
    destination: SocketAddr,
    http2: bool,
    trace: TraceContext,
    link: Option<Link>,
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
    hop: &mut Hop,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let route = match way(outbound, hop.destination).await {
        Way::Route(route) => route,
        Way::Refused(reason) => return Err((reason, "nobody in the mesh answers for this address".to_owned())),
        Way::Outside => return plain(outbound, hop, hop.destination, request).await,
    };
    let (head, body) = request.into_parts();
    let mut unsent = Some(body);
    let mut tried = Tried::default();
    let turn = outbound.next_turn();
    let mut failed = (Reason::NoEndpoint, "no endpoint serves this port".to_owned());
    for _ in 0..ATTEMPTS {
        let Some((endpoint, place, port)) = route.pick(turn, tried) else {
            break;
        };
        let Some(peer) = &endpoint.mesh else {
            check_plain(&route, None).map_err(|reason| {
                (reason, "the endpoint has no sidecar, and the service takes no plain bytes".into())
            })?;
            let Some(body) = unsent.take() else { break };
            return plain(outbound, hop, SocketAddr::new(endpoint.ip, port), Request::from_parts(head, body)).await;
        };
        match exchange(outbound, hop, &route, Target { endpoint, peer, port }, &head, &mut unsent).await {
            Ok(response) => return Ok(response),
            Err(Missed::Unreachable(reason, detail)) => {
                tried.add(place);
                failed = (reason, detail);
            }
            Err(Missed::Unprocessed(error)) if unsent.is_some() => {
                outbound.pool.forget_closed(endpoint);
                failed = (Reason::ConnectFailed, error.to_string());
            }
            Err(Missed::Unprocessed(error) | Missed::Lost(error)) => {
                outbound.pool.forget_closed(endpoint);
                return Err((Reason::ConnectFailed, format!("the callee's answer was lost: {error}")));
            }
        }
    }
    Err(failed)
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
}

/// One try: a stream on a mesh connection. The body stays in `unsent` as long as nothing of it was read.
async fn exchange(
    outbound: &Outbound,
    hop: &mut Hop,
    route: &Route,
    to: Target<'_>,
    head: &request::Parts,
    unsent: &mut Option<Body>,
) -> Result<Response<Body>, Missed> {
    let acquired = outbound.pool.acquire(to.endpoint, to.peer).await;
    let slot = acquired.map_err(|error| Missed::Unreachable(error.reason(), error.to_string()))?;
    if !slot.takes_requests() {
        let detail = "the peer's sidecar takes tunnels only (ALPN h2); declare the port as TCP, or upgrade the sidecar";
        return Err(Missed::Unreachable(Reason::UnknownFeature, detail.to_owned()));
    }
    let link_trace = hop.trace.child();
    let sent_ns = if link_trace.sampled { outbound.needs.tracer.now_ns() } else { 0 };
    let request = Request::from_parts(mesh_head(head, hop, to.port, &link_trace), ());
    let ends = unsent.as_ref().is_none_or(Body::is_empty);
    let _open = outbound.needs.metrics.stream(MeshSide::Client);
    let sent = Instant::now();
    // An error here is about the connection: not a byte of the request was sent.
    let (response, stream) = slot.send_request(request, ends).map_err(Missed::Unprocessed)?;
    if !ends && let Some(body) = unsent.take() {
        // Ends with the body or with the stream, whichever is first.
        tokio::task::spawn_local(pump(body, stream));
    }
    let response = response
        .await
        .map_err(|error| if is_unprocessed(&error) { Missed::Unprocessed(error) } else { Missed::Lost(error) })?;
    let took = slot.last_read().saturating_duration_since(sent);
    let mut response = response.map(Body::http2);
    note_link(outbound, hop, route, to, took, &mut response);
    record_link(outbound, hop, &link_trace, sent_ns);
    clean(&mut response);
    Ok(response)
}

/// The head as the other sidecar gets it. A copy: the original may be needed again.
fn mesh_head(head: &request::Parts, hop: &Hop, port: u16, trace: &TraceContext) -> request::Parts {
    let mut copy = Request::new(()).into_parts().0;
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = http::Version::HTTP_2;
    copy.headers = head.headers.clone();
    copy.headers.insert(PORT, port_value(port));
    if hop.http2 {
        copy.headers.insert(VERSION, HeaderValue::from_static("2"));
    }
    trace.write(&mut copy.headers);
    copy
}

fn note_link(
    outbound: &Outbound,
    hop: &mut Hop,
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
    hop: &Hop,
    address: SocketAddr,
    mut request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    hop.trace.child().write(request.headers_mut());
    if !hop.http2 {
        target::into_http1(&mut request).map_err(|reason| (reason, "no valid host".to_owned()))?;
    }
    let sent = outbound.plain.send(address, request, hop.http2).await;
    let mut response = sent.map_err(|error| (error.reason(), error.to_string()))?;
    sanitize(response.headers_mut());
    Ok(response)
}

fn record_span(
    outbound: &Outbound,
    hop: &Hop,
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
fn record_link(outbound: &Outbound, hop: &Hop, trace: &TraceContext, sent_ns: u64) {
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

fn describe(outbound: &Outbound, hop: &Hop, span: &mut Span) {
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
