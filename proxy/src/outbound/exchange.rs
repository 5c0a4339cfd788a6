//! One try of a request: a stream on a mesh connection, what the two sidecars say to each other with it, and its answer.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, Request, Response, StatusCode, request};
use isthmus_certs::Negotiated;
use isthmus_proto::model::SiteName;

use super::connection::Route;
use super::hop::{Hop, Link};
use super::pin::{Pin, Tie};
use super::pool::{Slot, is_unprocessed};
use super::request::Unsent;
use super::tries::{Try, TryFate};
use super::{Outbound, spans, told};
use crate::http::Answer;
use crate::http::body::{Body, BodyError};
use crate::http::exchange::{NoAnswer, Upload, over_http2, upload as upload_into};
use crate::http::h1::Names;
use crate::http::headers::sanitize;
use crate::http::internal::{
    ABSOLUTE, DECISION, DENIED, Elapsed, KEPT, METHOD, NAMES, PIN, PORT, UPGRADED, VERSION, port_value,
};
use crate::http::mesh::StreamError;
use crate::http::patience;
use crate::http::stream::{Awaited, SendHalf};
use crate::reason::Reason;
use crate::state::{Endpoint, MeshPeer};
use crate::telemetry::{KeptTrace, MeshSide, TraceContext};

/// The callee's sidecar knows better what it waited for, and says so first.
const CALLEE_FIRST: Duration = Duration::from_secs(5);

/// One endpoint behind its sidecar.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) peer: &'a MeshPeer,
    pub(super) port: u16,
}

/// Why one try brought no answer.
pub(super) enum Missed {
    /// No connection: another endpoint may have one.
    Unreachable(Reason, String),
    /// Certainly not processed.
    Unprocessed(StreamError),
    /// Perhaps processed.
    Lost(StreamError),
    /// Neither the app nor its sidecar said anything in time.
    Late,
    /// The caller did not send all of it.
    Body(BodyError),
}

/// One try: a stream on a mesh connection. What is certainly unprocessed is back in `unsent` afterwards, as far as its body
/// was held. Each is told of by itself.
pub(super) async fn exchange(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    route: &Route,
    to: Target<'_>,
    unsent: &mut Unsent,
) -> Result<Answer, Missed> {
    let mut going = Going { trace: hop.trace.child(), began: Instant::now(), sent: None, tcp: None, tls: None };
    (hop.link, hop.kept) = (None, None);
    let number = hop.tries;
    hop.tries = number.saturating_add(1);
    let result = send(outbound, hop, route, to, unsent, &mut going).await;
    if hop.trace.sampled || outbound.needs.tracer.may_keep() {
        let Going { trace, began, sent, tcp, tls } = going;
        let tried = Try {
            request: hop.number,
            number,
            endpoint: Arc::clone(to.endpoint),
            began,
            sent,
            ended: Instant::now(),
            link: hop.link.as_ref().map(|link| link.elapsed),
            tcp,
            tls,
            fate: fate(&result),
            reset: hop.reset,
        };
        spans::tried(outbound, &trace, tried);
    }
    result
}

/// What is known of a try while it is made.
struct Going {
    trace: TraceContext,
    began: Instant,
    sent: Option<Instant>,
    tcp: Option<(u32, u32, u64)>,
    tls: Option<Negotiated>,
}

fn fate(result: &Result<Answer, Missed>) -> TryFate {
    match result {
        Ok(answer) => TryFate::Answered(answer.response.status().as_u16()),
        Err(Missed::Unreachable(reason, _)) => TryFate::Unreachable(*reason),
        Err(Missed::Unprocessed(_)) => TryFate::Unprocessed,
        Err(Missed::Lost(_)) => TryFate::Lost,
        Err(Missed::Late) => TryFate::Late,
        Err(Missed::Body(error)) => TryFate::Body(error.reason()),
    }
}

async fn send(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    route: &Route,
    to: Target<'_>,
    unsent: &mut Unsent,
    going: &mut Going,
) -> Result<Answer, Missed> {
    let line = line(outbound, hop, to).await?;
    let slot = line.slot();
    let Some((mut head, body)) = unsent.take() else {
        return Err(Missed::Unreachable(Reason::ConnectFailed, "nothing is left to send".to_owned()));
    };
    let limit = patience::limit(route.request_timeout(), &head.headers).saturating_add(CALLEE_FIRST);
    let mut wait = outbound.plain.wait(limit);
    add_mesh_headers(&mut head, hop, to.port, &going.trace);
    if let Line::Tied(tie) = &line {
        head.headers.insert(PIN, tie.id.clone());
    }
    let ends = body.is_empty();
    let _open = outbound.needs.metrics.stream(MeshSide::Client);
    let sent = Instant::now();
    (going.sent, going.tls) = (Some(sent), Some(slot.negotiated()));
    let (response, stream) = match slot.send_request(Request::from_parts(head, ()), ends) {
        Ok((response, stream)) => (Awaited::Mesh(response), SendHalf::Mesh(stream)),
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
    let mut response = match over_http2(response, &mut upload, hop.caller, &mut wait).await {
        Ok(response) => response,
        Err(why) => {
            let rest = || later.map_or_else(|| upload.rewind(ends), |(body, _)| Some(body));
            return Err(missed(why, hop, unsent, rest));
        }
    };
    let took = slot.last_read().saturating_duration_since(sent);
    going.tcp = slot.tcp();
    if let Some(reason) = turned_away(&response).filter(|_| later.is_some() || upload.is_whole(ends)) {
        unsent.body = later.map_or_else(|| upload.rewind(ends), |(body, _)| Some(body));
        return Err(Missed::Unreachable(reason, "the callee's sidecar takes nothing now".to_owned()));
    }
    note_link(outbound, hop, to, (sent.saturating_duration_since(going.began), took), &mut response);
    let agreed = for_the_app(&mut response, route);
    if let Some((body, stream)) = later {
        upload = change_protocol(outbound, hop, agreed, (body, stream), &mut response);
    }
    // The connection is busy up to the end of the answer. A tie counts for itself.
    let held: Option<Box<dyn Any>> = match line {
        Line::Own(slot) => Some(Box::new(slot)),
        Line::Tied(_) => None,
    };
    Ok(Answer { response, upload: upload.into_rest(), reset: None, held })
}

/// Takes out what sidecars say to each other; true: the callee's app agreed to change the protocol.
fn for_the_app(response: &mut Response<Body>, route: &Route) -> bool {
    let agreed = response.headers_mut().remove(UPGRADED).is_some() && response.status() == StatusCode::OK;
    // Nonsense costs its own answer its spelling, and nothing else.
    if let Ok(names) = Names::take(response.headers_mut())
        && route.keeps_names()
    {
        response.extensions_mut().insert(names);
    }
    clean(response);
    agreed
}

/// A sidecar that has not begun yet, or is ending, has asked nobody: another endpoint may be asked. A refusal by policy
/// holds at every endpoint.
fn turned_away(response: &Response<Body>) -> Option<Reason> {
    // All of these have a status of their own, or, for gRPC, nothing but a head.
    if response.status().as_u16() < 400 && !response.body().is_empty() {
        return None;
    }
    let denied = response.headers().get(DENIED)?.as_bytes();
    let away = [Reason::NotReady, Reason::ShuttingDown, Reason::Overloaded, Reason::NotMyAddress];
    away.into_iter().find(|reason| reason.word().as_bytes() == denied)
}

/// The stream ended without an answer; `rest`: the body, as far as it is still here.
fn missed(why: NoAnswer, hop: &mut Hop<'_>, unsent: &mut Unsent, rest: impl FnOnce() -> Option<Body>) -> Missed {
    match why {
        NoAnswer::Body(error) => Missed::Body(error),
        NoAnswer::Late => Missed::Late,
        NoAnswer::Stream(error) if is_unprocessed(&error) => {
            unsent.body = rest();
            Missed::Unprocessed(error)
        }
        NoAnswer::Stream(error) => {
            hop.reset = error.is_reset().then(|| error.reason()).flatten();
            Missed::Lost(error)
        }
    }
}

/// The way to the callee's sidecar.
enum Line {
    Own(Slot),
    /// The app's connection has this one, and one of the callee's app behind it, for its life.
    Tied(Rc<Tie>),
}

impl Line {
    fn slot(&self) -> &Slot {
        match self {
            Line::Own(slot) => slot,
            Line::Tied(tie) => &tie.slot,
        }
    }
}

async fn line(outbound: &Outbound, hop: &Hop<'_>, to: Target<'_>) -> Result<Line, Missed> {
    if let Some(tie) = hop.pin.and_then(Pin::tie) {
        return Ok(Line::Tied(tie));
    }
    let slot = outbound.pool.acquire(to.endpoint, to.peer).await;
    let slot = slot.map_err(|error| Missed::Unreachable(error.reason(), error.to_string()))?;
    if !slot.takes_requests() {
        let detail = "the peer's sidecar takes tunnels only (ALPN h2); declare the port as TCP, or upgrade the sidecar";
        return Err(Missed::Unreachable(Reason::UnknownFeature, detail.to_owned()));
    }
    match hop.pin {
        Some(pin) => pin.make(slot, to.endpoint, to.port).map(Line::Tied).map_err(Missed::Unprocessed),
        None => Ok(Line::Own(slot)),
    }
}

/// What the app sends after its head is the new protocol's where the callee `agreed`, and the next request where not.
fn change_protocol(
    outbound: &Outbound,
    hop: &Hop<'_>,
    agreed: bool,
    (body, mut stream): (Body, SendHalf),
    response: &mut Response<Body>,
) -> Upload {
    if agreed {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let carried = spans::websocket(outbound, hop, &hop.trace.child());
        let answer = std::mem::take(response.body_mut());
        *response.body_mut() = spans::counted(answer, &carried, false);
        return upload_into(spans::counted(body, &carried, true), stream);
    }
    // The answer is on its way already, and its end is the stream's.
    let _ = stream.send_data(Bytes::new(), true);
    Upload::default()
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
    if let Some(names) = head.extensions.remove::<Names>().and_then(Names::into_value) {
        head.headers.insert(NAMES, names);
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
    to: Target<'_>,
    (connect, took): (Duration, Duration),
    response: &mut Response<Body>,
) {
    hop.kept = response.headers_mut().remove(KEPT).and_then(|value| KeptTrace::parse(value.as_bytes()));
    if let Some(callee) = &hop.callee {
        let site = to.endpoint.site.as_ref().map_or("", SiteName::as_str);
        hop.edge = Some(outbound.edges.known(told::edge_to(callee, hop.destination.port(), site)));
    }
    let Some(callee) = Elapsed::take(response.headers_mut()) else {
        return;
    };
    let elapsed = took.saturating_sub(Duration::from_micros(callee.total_us));
    outbound.needs.metrics.link_time(elapsed, outbound.needs.tracer.exemplar(&hop.trace));
    hop.link = Some(Link { elapsed, connect, callee, endpoint: Arc::clone(to.endpoint) });
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
