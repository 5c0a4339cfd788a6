//! One try of a request: a stream on a mesh connection, what the two sidecars say to each other with it, and its answer.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, request};
use isthmus_http2::{Answering, SendStream, StreamError};
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
use crate::http::patience;
use crate::http::spans::{agrees_to_change, counted};
use crate::http::stream::{Awaited, SendHalf};
use crate::reason::Reason;
use crate::state::{Endpoint, MeshPeer};
use crate::telemetry::{ConnectionSpan, KeptTrace, MeshSide, SpanId};

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
    spans::not_the_last(outbound, hop);
    hop.kept = false;
    hop.tried = Some(Try::begin(hop.tries, to.endpoint));
    hop.tries = hop.tries.saturating_add(1);
    hop.way = hop.trace.sampled.then(SpanId::random);
    let mut carried = ConnectionSpan::default();
    let result = send(outbound, hop, route, to, unsent, &mut carried).await;
    let (fate, reset) = (fate(&result), hop.reset);
    hop.note(|tried| (tried.fate, tried.reset) = (fate, reset));
    match hop.changed {
        true => spans::agreed(outbound, hop, &carried),
        false => carried.discard(),
    }
    spans::way(outbound, hop);
    result
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
    carried: &mut ConnectionSpan,
) -> Result<Answer, Missed> {
    let line = line(outbound, hop, to).await?;
    let slot = line.slot();
    let Some((mut head, mut body)) = unsent.take() else {
        return Err(Missed::Unreachable(Reason::ConnectFailed, "nothing is left to send".to_owned()));
    };
    let protocol = head.extensions.get().filter(|_| hop.http2);
    let changes = protocol.is_some();
    if let Some(protocol) = protocol {
        *carried = spans::carried(outbound, hop, protocol);
        body = counted(body, carried, true);
    }
    let limit = patience::limit(route.request_timeout(), &head.headers).saturating_add(CALLEE_FIRST);
    let mut wait = outbound.plain.wait(limit);
    add_mesh_headers(&mut head, hop, to.port);
    write_trace(hop, &mut head.headers);
    if let Line::Tied(tie) = &line {
        head.headers.insert(PIN, tie.id.clone());
    }
    let ends = body.is_empty();
    let _open = outbound.needs.metrics.stream(MeshSide::Client);
    let sent = Instant::now();
    hop.note(|tried| (tried.sent, tried.tls) = (Some(sent), Some(slot.negotiated())));
    let (response, stream) = match slot.send_request(Request::from_parts(head, ()), ends) {
        Ok(begun) => on_its_way(outbound, hop, slot, begun),
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
    hop.note(|tried| (tried.back, tried.tcp) = (Some(slot.last_read()), slot.tcp()));
    if let Some(reason) = turned_away(&response).filter(|_| later.is_some() || upload.is_whole(ends)) {
        unsent.body = later.map_or_else(|| upload.rewind(ends), |(body, _)| Some(body));
        return Err(Missed::Unreachable(reason, "the callee's sidecar takes nothing now".to_owned()));
    }
    note_link(outbound, hop, (to.endpoint, sent, slot.last_read()), &mut response);
    let agreed = for_the_app(&mut response, route);
    if let Some((body, stream)) = later {
        carried_on(outbound, hop, agreed, carried);
        upload = change_protocol(agreed, carried, (body, stream), &mut response);
    } else if changes && agrees_to_change(response.status(), true) {
        hop.changed = true;
        response = response.map(|body| counted(body, carried, false));
    }
    Ok(Answer { response, upload: upload.into_rest(), reset: None, held: held(line) })
}

/// An HTTP/1 app's connection changes its protocol, if the callee's agreed: from here on it has a span of its own.
fn carried_on(outbound: &Outbound, hop: &mut Hop<'_>, agreed: bool, carried: &mut ConnectionSpan) {
    if let Some(protocol) = hop.upgrade.as_ref().filter(|_| agreed) {
        *carried = spans::carried(outbound, hop, protocol);
        hop.changed = true;
    }
}

/// The connection is busy up to the end of the answer. A tie counts for itself.
fn held(line: Line) -> Option<Box<dyn Any>> {
    match line {
        Line::Own(slot) => Some(Box::new(slot)),
        Line::Tied(_) => None,
    }
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
    agreed: bool,
    carried: &ConnectionSpan,
    (body, mut stream): (Body, SendHalf),
    response: &mut Response<Body>,
) -> Upload {
    if agreed {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let answer = std::mem::take(response.body_mut());
        *response.body_mut() = counted(answer, carried, false);
        return upload_into(counted(body, carried, true), stream);
    }
    // The answer is on its way already, and its end is the stream's.
    let _ = stream.send_data(Bytes::new(), true);
    Upload::default()
}

/// What the other sidecar is told with the head.
fn add_mesh_headers(head: &mut request::Parts, hop: &Hop<'_>, port: u16) {
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
}

fn write_trace(hop: &Hop<'_>, headers: &mut HeaderMap) {
    match hop.way {
        Some(way) => hop.trace.child_at(way).write(headers),
        None => hop.trace.write(headers),
    }
}

/// The stream has begun: it is known where the callee's sidecar puts what it keeps of it, should it keep anything.
fn on_its_way(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    slot: &Slot,
    (response, stream): (Answering, SendStream),
) -> (Awaited, SendHalf) {
    if !hop.trace.sampled && outbound.needs.tracer.may_keep() {
        let shared = slot.in_common().and_then(|common| KeptTrace::of(common, response.stream_id()));
        hop.note(|tried| tried.shared = shared);
    }
    (Awaited::Mesh(response), SendHalf::Mesh(stream))
}

fn note_link(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    (endpoint, sent, back): (&Endpoint, Instant, Instant),
    response: &mut Response<Body>,
) {
    hop.kept = response.headers_mut().remove(KEPT).is_some();
    if let Some(callee) = &hop.callee {
        let site = endpoint.site.as_ref().map_or("", SiteName::as_str);
        hop.edge = Some(outbound.edges.known(told::edge_to(callee, hop.destination.port(), site)));
    }
    let Some(callee) = Elapsed::take(response.headers_mut()) else {
        return;
    };
    let elapsed = back.saturating_duration_since(sent).saturating_sub(Duration::from_micros(callee.total_us));
    outbound.needs.metrics.link_time(elapsed, outbound.needs.tracer.exemplar(&hop.trace, back));
    hop.note(|tried| tried.link = Some(Link { elapsed, callee }));
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
