//! One request of the app: where it goes now, to which endpoint, over which mesh connection; then the answer, freed of what
//! sidecars say to each other. A request that was certainly not processed is sent again, so that no rotation and no drain
//! costs one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, request};

use super::balance::Tried;
use super::connection::{Route, Way, way};
use super::exchange::{Missed, Target, exchange};
use super::going::{Going, refused_later};
use super::hop::Hop;
use super::pin::Pin;
use super::stream::check_plain;
use super::waiting::Waiting;
use super::{Outbound, denied, egress, external, spans};
use crate::http::body::{Body, Ending};
use crate::http::client::{AppClient, To};
use crate::http::h1::Names;
use crate::http::h1::head::{HeadError, parse_request};
use crate::http::headers::{are_connection_bound, sanitize};
use crate::http::spans::{agrees_to_change, asked_to_change, counted};
use crate::http::{Answer, Asked, patience, respond, target};
use crate::reason::Reason;
use crate::state::Mesh;
use crate::state::egress::host_of;
use crate::state::policy::Arrived;
use crate::telemetry::{AskedFor, ConnectionSpan, Remembered};

/// Of what was sent to an address inside of the mesh's ranges.
pub(super) const NOBODY: &str = "nobody in the mesh answers for this address";

/// Tries, the first one included, while the request is certainly unprocessed.
const ATTEMPTS: usize = 4;

/// `pin`: of the app's HTTP/1 connection; streams of HTTP/2 share theirs, and carry no such credentials.
pub(super) async fn serve(
    outbound: &Rc<Outbound>,
    destination: SocketAddr,
    pin: Option<&Pin>,
    asked: Asked<'_>,
) -> Answer {
    answer(outbound, destination, (pin, None), asked).await
}

/// One to an address that nobody answers for: told of like any other.
pub(super) async fn refuse(
    outbound: &Rc<Outbound>,
    destination: SocketAddr,
    (pin, reason): (Option<&Pin>, Reason),
    asked: Asked<'_>,
) -> Answer {
    answer(outbound, destination, (pin, Some(reason)), asked).await
}

/// What is refused before it is a request.
pub(super) fn unread(outbound: &Outbound, destination: SocketAddr, reason: Reason, error: &HeadError) {
    outbound.refuse(reason, destination, &error.to_string());
    spans::unread(outbound, destination, reason);
}

async fn answer(
    outbound: &Rc<Outbound>,
    destination: SocketAddr,
    (pin, refused): (Option<&Pin>, Option<Reason>),
    asked: Asked<'_>,
) -> Answer {
    let started = Instant::now();
    let Asked { mut request, raw, upgrade, caller } = asked;
    let grpc = respond::is_grpc(request.headers());
    let trace = outbound.needs.tracer.hop_at(request.headers(), || outbound.ratio_of(destination));
    let http2 = pin.is_none();
    if let Some(pin) = pin.filter(|_| are_connection_bound(request.headers())) {
        pin.bind();
    }
    let pin = pin.filter(|pin| pin.is_bound());
    let absolute = !http2 && request.uri().authority().is_some();
    let hop = Hop { http2, pin, absolute, upgrade, ..Hop::new(outbound, destination, caller, trace) };
    let formed = into_mesh_form(&mut request, destination);
    let asked_for = AskedFor { method: request.method(), uri: request.uri(), http2, grpc };
    let told = outbound.tells() || hop.trace.sampled;
    let asked = Remembered::of(asked_for, told, outbound.needs.tracer.may_keep());
    let mut waiting = Waiting::begin(outbound, hop, started, asked, grpc);
    let hop = &mut waiting.hop;
    let answered = match (refused, formed) {
        (Some(reason), _) => Err((reason, NOBODY.to_owned())),
        (None, Ok(())) => route_and_send(outbound, hop, request, raw).await,
        (None, Err(reason)) => Err((reason, "the request's host can be read in more than one way".to_owned())),
    };
    let (mut answer, refused) = match answered {
        Ok(answer) => (answer, None),
        Err((reason, detail)) => {
            // One with an id was counted and said where it was decided.
            if hop.decision.is_none() {
                outbound.refuse(reason, destination, &detail);
            }
            let mut answer = Answer::from(respond::refusal(reason, hop.decision.as_deref(), grpc));
            answer.reset = hop.reset;
            (answer, Some(reason))
        }
    };
    waiting.answered(&mut answer, refused);
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

type Failure = (Reason, String);

async fn route_and_send(
    outbound: &Rc<Outbound>,
    hop: &mut Hop<'_>,
    request: Request<Body>,
    raw: Option<Bytes>,
) -> Result<Answer, Failure> {
    let route = match way(outbound, hop.destination).await {
        Way::Route(route) => route,
        Way::Refused(reason) => return Err((reason, NOBODY.to_owned())),
        Way::Passing => return plain(outbound, hop, (&outbound.plain, &[hop.destination]), request, None).await,
        Way::Outside(mesh) => return leave(outbound, hop, request, &mesh).await,
    };
    hop.callee = route.service().cloned();
    hop.b3 = route.b3();
    let mut unsent = Unsent::new(request, raw, &route);
    let mut tried = Tried::default();
    let turn = outbound.next_turn();
    let mut failed = (Reason::NoEndpoint, "no endpoint serves this port".to_owned());
    if let Some(answered) = to_tied(outbound, hop, &route, &mut unsent).await {
        return answered;
    }
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            outbound.needs.metrics.retried(true);
        }
        let Some((endpoint, place, port)) = route.pick(outbound, turn, tried) else {
            if route.is_by_name()
                && let Some((head, body)) = unsent.take()
            {
                return outside(outbound, hop, &route, None, Request::from_parts(head, body)).await;
            }
            break;
        };
        let Some(peer) = &endpoint.mesh else {
            let Some((head, body)) = unsent.take() else { break };
            let to = Some(SocketAddr::new(endpoint.ip, port));
            return outside(outbound, hop, &route, to, Request::from_parts(head, body)).await;
        };
        // Of this try, and not of one before it.
        hop.reset = None;
        match exchange(outbound, hop, &route, Target { endpoint, peer, port }, &mut unsent).await {
            Ok(answer) => return Ok(answer),
            Err(Missed::Unreachable(reason, detail)) => {
                tried.add(place);
                failed = (reason, detail);
            }
            Err(Missed::Unprocessed(error)) => {
                outbound.pool.forget_closed(endpoint);
                failed = (Reason::ConnectFailed, error.to_string());
                // Where this stays the last word, a caller in HTTP/2 may send it again by itself.
                hop.reset = Some(h2::Reason::REFUSED_STREAM);
                // More of its body has gone than was held.
                if !unsent.is_whole() {
                    break;
                }
            }
            Err(Missed::Lost(error)) => {
                outbound.pool.forget_closed(endpoint);
                return Err((Reason::ConnectFailed, format!("the callee's answer was lost: {error}")));
            }
            Err(Missed::Late) => return Err((Reason::Timeout, "nothing came back in time".to_owned())),
            Err(Missed::Body(error)) => return Err((error.reason(), error.to_string())),
        }
    }
    Err(failed)
}

/// Where the app's connection is tied to one of the callee's, over that one. Nothing: it is not, or no longer, and the
/// request is whole.
async fn to_tied(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    route: &Route,
    unsent: &mut Unsent,
) -> Option<Result<Answer, Failure>> {
    let tie = hop.pin.and_then(Pin::tie)?;
    let Some(peer) = &tie.endpoint.mesh else {
        return Some(Err((Reason::NoEndpoint, "no endpoint serves this port".to_owned())));
    };
    let to = Target { endpoint: &tie.endpoint, peer, port: tie.port };
    match exchange(outbound, hop, route, to, unsent).await {
        Ok(answer) => Some(Ok(answer)),
        Err(Missed::Unprocessed(_)) if unsent.is_whole() => {
            // The app will ask its user to prove himself again, on a new connection.
            hop.pin.into_iter().for_each(Pin::forget);
            None
        }
        Err(_) => {
            // A reset ends the app's connection as well: it begins anew.
            hop.reset = Some(h2::Reason::CANCEL);
            Some(Err((Reason::ConnectFailed, "the connection of the app's session is gone".to_owned())))
        }
    }
}

/// A request that may have to be sent again: its head as it came (HTTP/1), or a copy (HTTP/2); its body as far as it is
/// still here.
pub(super) struct Unsent {
    destination: SocketAddr,
    head: Option<request::Parts>,
    again: Again,
    /// How the app spelled its header names, where the service asks for it.
    names: Option<Names>,
    pub(super) body: Option<Body>,
}

enum Again {
    /// Parsed anew only where another try is needed: the good path copies nothing.
    Raw(Bytes),
    Parts(Box<request::Parts>),
}

impl Unsent {
    fn new(request: Request<Body>, raw: Option<Bytes>, route: &Route) -> Unsent {
        let names = raw.as_ref().filter(|_| route.keeps_names()).map(|raw| Names::of(raw));
        let (head, body) = request.into_parts();
        let again = match raw {
            Some(raw) => Again::Raw(raw),
            None => Again::Parts(Box::new(head.clone())),
        };
        Unsent { destination: route.destination, head: Some(head), again, names, body: Some(body) }
    }

    fn is_whole(&self) -> bool {
        self.body.is_some()
    }

    pub(super) fn take(&mut self) -> Option<(request::Parts, Body)> {
        let body = self.body.take()?;
        let mut head = match self.head.take() {
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
        if let Some(names) = &self.names {
            head.extensions.insert(names.clone());
        }
        Some((head, body))
    }
}

/// Out of the mesh, if it may.
async fn leave(
    outbound: &Rc<Outbound>,
    hop: &mut Hop<'_>,
    request: Request<Body>,
    mesh: &Mesh,
) -> Result<Answer, Failure> {
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let places = egress::places_of_request(outbound, hop.destination, host.as_deref(), mesh).await;
    let (places, noted) = places.map_err(|denied| {
        hop.decision = Some(denied.decision);
        (denied.reason, "it may not leave the mesh".to_owned())
    })?;
    hop.noted = noted;
    let going = Going {
        destination: hop.destination,
        outside: vec![hop.destination],
        host: host.as_deref().and_then(host_of),
        arrived: Arrived::Plain,
        tls: None,
    };
    let sent = plain(outbound, hop, (&outbound.plain, &places), request, None);
    while_allowed(outbound, going, sent).await
}

/// Sends, and breaks off the answer, wherever it is, when a policy of later says no.
async fn while_allowed(
    outbound: &Rc<Outbound>,
    going: Going,
    sent: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    let mut ending = Ending::new(refused_later(Rc::clone(outbound), going));
    let mut answer = tokio::select! {
        biased;
        answer = sent => answer?,
        reason = ending.wait() => return Err((reason, "a new policy ends it".to_owned())),
    };
    answer.response = answer.response.map(|body| body.until(ending));
    Ok(answer)
}

/// To an endpoint without sidecar, or to where the service's name leads.
async fn outside(
    outbound: &Rc<Outbound>,
    hop: &mut Hop<'_>,
    route: &Route,
    endpoint: Option<SocketAddr>,
    mut request: Request<Body>,
) -> Result<Answer, Failure> {
    spans::not_the_last(outbound, hop);
    check_plain(outbound, route, None).map_err(|reason| {
        let detail = "the endpoint has no sidecar, and the service takes no plain bytes";
        hop.decision = Some(denied::say_transport(outbound, reason, route, detail));
        (reason, detail.to_owned())
    })?;
    let places = Box::pin(external::places(outbound, route, endpoint, Arrived::Plain)).await;
    let external::Places { addresses: places, noted, .. } = places.map_err(|unreached| {
        hop.decision = unreached.decision;
        (unreached.reason, unreached.detail)
    })?;
    hop.noted = noted;
    let client = external::client_for(outbound, route, &mut request)?;
    let client = client.as_ref().unwrap_or(&outbound.plain);
    let going = external::going(route, &places, Arrived::Plain, None);
    let sent = plain(outbound, hop, (client, &places), request, route.request_timeout());
    while_allowed(outbound, going, sent).await
}

/// Plain (TLS, where it is, is the client's), in the version that the app speaks.
async fn plain(
    outbound: &Outbound,
    hop: &mut Hop<'_>,
    (client, places): (&Rc<AppClient>, &[SocketAddr]),
    mut request: Request<Body>,
    configured: Option<Duration>,
) -> Result<Answer, Failure> {
    let limit = patience::limit(configured, request.headers());
    hop.trace.next(hop.b3).write(request.headers_mut());
    let protocol = asked_to_change(hop.upgrade.as_ref(), &request);
    let carried = protocol.map(|protocol| spans::carried(outbound, hop, protocol));
    if let Some(span) = &carried {
        request = request.map(|body| counted(body, span, true));
    }
    if !hop.http2 {
        target::into_http1(&mut request, hop.absolute).map_err(|reason| (reason, "no valid host".to_owned()))?;
    }
    let own = hop.pin.map(|pin| pin.plain(|| client.home_of_one()));
    let upgrade = hop.upgrade.as_ref();
    let sent = match client.reach(places, hop.http2, own.as_ref()).await {
        Ok(address) => {
            let to = To { address, http2: hop.http2, own: own.as_ref(), limit };
            client.send(to, request, upgrade, hop.caller).await
        }
        Err(error) => Err(error),
    };
    let mut answer = match sent {
        Ok(answer) => answer,
        Err(error) => {
            carried.iter().for_each(ConnectionSpan::discard);
            hop.reset = error.reset();
            return Err((error.reason(), error.to_string()));
        }
    };
    match &carried {
        Some(span) if agrees_to_change(answer.response.status(), hop.http2) => {
            hop.changed = true;
            spans::agreed(outbound, hop, span);
            answer.response = answer.response.map(|body| counted(body, span, false));
        }
        _ => carried.iter().for_each(ConnectionSpan::discard),
    }
    sanitize(answer.response.headers_mut());
    Ok(answer)
}
