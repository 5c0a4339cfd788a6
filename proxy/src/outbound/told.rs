//! What is told of a request that the app sent, once it has its answer, and of a connection of bytes that has ended: the
//! counts of its edge, a request's line of the access log, and whoever looks at what passes now.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{Method, Response, Uri};
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{ServiceName, SiteName};

use super::Outbound;
use super::connection::Route;
use super::hop::Hop;
use crate::http::body::Body;
use crate::http::internal::{DECISION, DENIED};
use crate::reason::Reason;
use crate::state::{Endpoint, Service};
use crate::tcp::copy::Copied;
use crate::telemetry::{AccessEntry, Direction, EdgeOf, Exemplar, Passed, cut, micros};

/// How it ended.
pub(super) struct Ended {
    pub(super) total: Duration,
    pub(super) status: u16,
    /// Of a refusal by either sidecar.
    pub(super) reason: Option<Reason>,
    pub(super) decision: Option<String>,
}

impl Outbound {
    /// Whether anybody is told of requests, beside the counts.
    pub(super) fn tells(&self) -> bool {
        self.needs.tracer.tells() || self.needs.metrics.live().looks()
    }
}

/// Why the callee's sidecar refused it, where it did.
fn reason_of(response: &Response<Body>) -> Option<Reason> {
    let denied = response.headers().get(DENIED)?.as_bytes();
    Reason::ALL.iter().copied().find(|reason| reason.word().as_bytes() == denied)
}

/// `wanted`: somebody may be told why.
pub(super) fn ended(response: &Response<Body>, total: Duration, refused: Option<Reason>, wanted: bool) -> Ended {
    // The callee's sidecar may have refused it: its word came with an answer that has a status of its own, or, for gRPC,
    // nothing but a head.
    let may_be = response.status().as_u16() >= 300 || response.body().is_empty();
    let reason = refused.or_else(|| if wanted && may_be { reason_of(response) } else { None });
    let id = reason.and_then(|_| response.headers().get(DECISION)?.to_str().ok());
    Ended { total, status: response.status().as_u16(), reason, decision: id.map(str::to_owned) }
}

pub(super) fn tell(
    outbound: &Outbound,
    hop: &Hop<'_>,
    told: Option<(&Method, &Uri)>,
    ended: &Ended,
    traced: Option<Exemplar>,
) {
    match (&hop.edge, &hop.callee) {
        (Some(edge), _) => edge.request(ended.status, ended.total, traced),
        (None, Some(callee)) => {
            // Whoever left has waited for somebody.
            let awaited = hop.tried.as_ref().filter(|_| ended.status == 0);
            let site = awaited.and_then(|tried| tried.endpoint.site.as_ref()).map_or("", SiteName::as_str);
            let edge = edge_to(callee, hop.destination.port(), site);
            outbound.edges.request(edge, ended.status, ended.total, traced);
        }
        (None, None) => {}
    }
    let Some(asked) = told else { return };
    log(outbound, hop, asked, ended);
    if outbound.needs.metrics.live().looks() {
        show(outbound, hop, asked, ended);
    }
}

/// The edge to a service at a site; outside, or where there was nobody, at none.
pub(super) fn edge_to<'a>(callee: &'a Service, port: u16, site: &'a str) -> EdgeOf<'a> {
    let (namespace, name) = (callee.name.namespace(), callee.name.name());
    EdgeOf { direction: Direction::Outbound, namespace, name, port, site }
}

fn log(outbound: &Outbound, hop: &Hop<'_>, (method, uri): (&Method, &Uri), ended: &Ended) {
    let link = hop.link();
    outbound.needs.tracer.tell(&AccessEntry {
        direction: Direction::Outbound,
        http2: hop.http2,
        method,
        uri,
        status: ended.status,
        reason: ended.reason.map(Reason::word),
        decision: ended.decision.as_deref(),
        trace: hop.trace.sampled.then_some(hop.trace.trace_id),
        caller: None,
        peer: link.and_then(|(endpoint, _)| identity(endpoint)),
        destination: hop.destination,
        total: ended.total,
        app: link.map(|(_, link)| Duration::from_micros(link.callee.app_us)),
        link: link.map(|(_, link)| link.elapsed),
    });
}

fn identity(endpoint: &Endpoint) -> Option<&str> {
    endpoint.mesh.as_ref()?.identities.first().map(SpiffeId::as_str)
}

fn show(outbound: &Outbound, hop: &Hop<'_>, (method, uri): (&Method, &Uri), ended: &Ended) {
    let (link, identity) = (hop.link(), &outbound.needs.identity);
    let site = link.and_then(|(endpoint, _)| endpoint.site.as_ref().map(ToString::to_string));
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
        status: ended.status.into(),
        duration_us: micros(ended.total),
        link_us: link.map_or(0, |(_, link)| micros(link.elapsed)),
        app_us: link.map_or(0, |(_, link)| link.callee.app_us),
        reason: ended.reason.map(Reason::word).unwrap_or_default().to_owned(),
        decision: ended.decision.clone().unwrap_or_default(),
        trace_id: hop.trace.id_in_words(),
        site: site.unwrap_or_default(),
        transport: if link.is_some() { "mesh" } else { "plaintext" }.to_owned(),
        ..Passed::default()
    });
}

/// Whom a connection of bytes is with. Names and no more: it may live for days, and a snapshot must not.
#[derive(Debug, Clone)]
pub(super) struct Whom {
    callee: Option<ServiceName>,
    site: Option<SiteName>,
    ip: IpAddr,
    port: u16,
    /// There is a sidecar in front of it.
    meshed: bool,
}

impl Whom {
    /// Where the app wanted to go; nobody that the mesh knows.
    pub(super) fn at(destination: SocketAddr) -> Whom {
        Whom { callee: None, site: None, ip: destination.ip(), port: destination.port(), meshed: false }
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
        let (namespace, name, port) = (callee.namespace(), callee.name(), to.port);
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
        callee: callee.unwrap_or_else(|| to.ip.to_string()),
        port: to.port.into(),
        protocol: "tcp".to_owned(),
        site: to.site.as_ref().map(ToString::to_string).unwrap_or_default(),
        transport: if to.meshed { "mesh" } else { "plaintext" }.to_owned(),
        ..Passed::default()
    }
}
