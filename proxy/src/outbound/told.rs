//! What is told of a request that the app sent, once it has its answer, and of a connection of bytes that has ended: the
//! counts of its edge, a request's line of the access log, and whoever looks at what passes now.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Response, Uri};
use isthmus_proto::model::{ServiceName, SiteName};

use super::Outbound;
use super::connection::Route;
use super::request::Hop;
use crate::http::body::Body;
use crate::http::internal::{DECISION, DENIED};
use crate::reason::Reason;
use crate::state::{Endpoint, Service};
use crate::tcp::copy::Copied;
use crate::telemetry::{AccessEntry, Direction, EdgeOf, Passed, cut};

/// What was asked for, kept where somebody is to be told: the request itself is sent on.
pub(super) type Told = Option<(Method, Uri)>;

/// How it ended.
pub(super) struct Ended<'a> {
    pub(super) total: Duration,
    pub(super) response: &'a Response<Body>,
    pub(super) reason: Option<&'static str>,
}

impl Outbound {
    /// Whether anybody is told of requests, beside the counts.
    pub(super) fn tells(&self) -> bool {
        self.needs.tracer.tells() || self.needs.metrics.live().looks()
    }
}

/// Why the callee's sidecar refused it, where it did.
pub(super) fn word_of(response: &Response<Body>) -> Option<&'static str> {
    let denied = response.headers().get(DENIED)?.to_str().ok()?;
    Reason::ALL.iter().map(|reason| reason.word()).find(|word| *word == denied)
}

pub(super) fn tell(outbound: &Outbound, hop: &Hop<'_>, told: Told, ended: &Ended<'_>) {
    let site = hop.link.as_ref().and_then(|link| link.site.as_deref()).unwrap_or_default();
    let (status, traced) = (ended.response.status().as_u16(), outbound.needs.tracer.exemplar(&hop.trace));
    match (&hop.edge, &hop.callee) {
        (Some(edge), _) => edge.request(status, ended.total, traced),
        (None, Some(callee)) => {
            let edge = edge_to(callee, hop.destination.port(), "");
            outbound.edges.request(edge, status, ended.total, traced);
        }
        (None, None) => {}
    }
    let Some((method, uri)) = told else { return };
    log(outbound, hop, (&method, &uri), ended);
    if outbound.needs.metrics.live().looks() {
        show(outbound, hop, (&method, &uri), site, ended);
    }
}

/// The edge to a service at a site; outside, or where nobody answered, at none.
pub(super) fn edge_to<'a>(callee: &'a Service, port: u16, site: &'a str) -> EdgeOf<'a> {
    let (namespace, name) = (callee.name.namespace(), callee.name.name());
    EdgeOf { direction: Direction::Outbound, namespace, name, port, site }
}

fn log(outbound: &Outbound, hop: &Hop<'_>, (method, uri): (&Method, &Uri), ended: &Ended<'_>) {
    let link = hop.link.as_ref();
    outbound.needs.tracer.tell(&AccessEntry {
        direction: Direction::Outbound,
        http2: hop.http2,
        method,
        uri,
        status: ended.response.status().as_u16(),
        reason: ended.reason,
        decision: decision(ended.response),
        trace: hop.trace.sampled.then_some(hop.trace.trace_id),
        caller: None,
        peer: link.and_then(|link| link.peer.clone()),
        destination: hop.destination,
        total: ended.total,
        app: link.map(|link| Duration::from_micros(link.callee.app_us)),
        link: link.map(|link| link.elapsed),
    });
}

fn show(outbound: &Outbound, hop: &Hop<'_>, (method, uri): (&Method, &Uri), site: &str, ended: &Ended<'_>) {
    let (link, identity) = (hop.link.as_ref(), &outbound.needs.identity);
    let callee = hop.callee.as_ref().map(|callee| callee.name.to_string());
    outbound.needs.metrics.live().passed(&Passed {
        at_unix_ms: identity.clock().now_ms(),
        direction: Direction::Outbound.word().to_owned(),
        caller: identity.current().map(|own| own.id.to_string()).unwrap_or_default(),
        callee: callee.unwrap_or_else(|| hop.destination.ip().to_string()),
        port: hop.destination.port().into(),
        protocol: "http".to_owned(),
        method: method.to_string(),
        host: cut(uri.authority().map_or("", |authority| authority.as_str())),
        path: cut(uri.path()),
        status: ended.response.status().as_u16().into(),
        duration_us: micros(ended.total),
        link_us: link.map_or(0, |link| micros(link.elapsed)),
        app_us: link.map_or(0, |link| link.callee.app_us),
        reason: ended.reason.unwrap_or_default().to_owned(),
        decision: decision(ended.response).unwrap_or_default().to_owned(),
        trace_id: hop.trace.id_in_words(),
        site: site.to_owned(),
        transport: if link.is_some() { "mesh" } else { "plaintext" }.to_owned(),
        ..Passed::default()
    });
}

/// Whom a connection of bytes is with. Names and no more: it may live for days, and a snapshot must not.
#[derive(Debug, Clone)]
pub(super) struct Whom {
    callee: Option<ServiceName>,
    site: Option<SiteName>,
    destination: SocketAddr,
    /// There is a sidecar in front of it.
    meshed: bool,
}

impl Whom {
    /// Where the app wanted to go; nobody that the mesh knows.
    pub(super) fn at(destination: SocketAddr) -> Whom {
        Whom { callee: None, site: None, destination, meshed: false }
    }

    /// No sidecar, or none yet.
    pub(super) fn of(route: &Route) -> Whom {
        Whom { callee: route.service().map(|service| service.name.clone()), ..Whom::at(route.destination) }
    }

    pub(super) fn behind(route: &Route, endpoint: &Endpoint) -> Whom {
        Whom { site: endpoint.site.clone(), meshed: true, ..Whom::of(route) }
    }
}

/// It has ended.
pub(super) fn connection(outbound: &Outbound, to: &Whom, copied: &Copied, lasted: Duration) {
    let (to_callee, from_callee) = (copied.sent.get(), copied.received.get());
    outbound.needs.metrics.bytes(Direction::Outbound, to_callee, from_callee);
    if let Some(callee) = &to.callee {
        let (namespace, name, port) = (callee.namespace(), callee.name(), to.destination.port());
        let site = to.site.as_ref().map_or("", SiteName::as_str);
        outbound.edges.connection(
            EdgeOf { direction: Direction::Outbound, namespace, name, port, site },
            to_callee,
            from_callee,
        );
    }
    if outbound.needs.metrics.live().looks() {
        let duration_us = micros(lasted);
        outbound.needs.metrics.live().passed(&Passed { to_callee, from_callee, duration_us, ..passed(outbound, to) });
    }
}

/// There was none: counted and said by whoever decided it, and here shown to who looks.
pub(super) fn refused_connection(outbound: &Outbound, to: Whom, reason: Reason, decision: Option<&str>) {
    if outbound.needs.metrics.live().looks() {
        let (reason, decision) = (reason.word().to_owned(), decision.unwrap_or_default().to_owned());
        outbound.needs.metrics.live().passed(&Passed { reason, decision, ..passed(outbound, &to) });
    }
}

fn passed(outbound: &Outbound, to: &Whom) -> Passed {
    let (identity, callee) = (&outbound.needs.identity, to.callee.as_ref().map(ToString::to_string));
    Passed {
        at_unix_ms: identity.clock().now_ms(),
        direction: Direction::Outbound.word().to_owned(),
        caller: identity.current().map(|own| own.id.to_string()).unwrap_or_default(),
        callee: callee.unwrap_or_else(|| to.destination.ip().to_string()),
        port: to.destination.port().into(),
        protocol: "tcp".to_owned(),
        site: to.site.as_ref().map(ToString::to_string).unwrap_or_default(),
        transport: if to.meshed { "mesh" } else { "plaintext" }.to_owned(),
        ..Passed::default()
    }
}

fn decision(response: &Response<Body>) -> Option<&str> {
    response.headers().get(DECISION).and_then(|id| id.to_str().ok())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
