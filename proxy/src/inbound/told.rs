//! What is told of a request to the app, once it has its answer, and of a connection of bytes that has ended: the counts of
//! its edge, a request's line of the access log, and whoever looks at what passes now.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::{Method, Uri};
use isthmus_certs::SpiffeId;

use super::Inbound;
use super::authorize::Refusal;
use super::request::Hop;
use crate::reason::Reason;
use crate::state::policy::Arrived;
use crate::telemetry::{AccessEntry, Direction, EdgeOf, Passed, TraceContext, cut, micros};

/// Of callers without a certificate: their addresses are as many as there are hosts.
const UNKNOWN: &str = "unknown";

/// How a request ended, up to the head of its answer.
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) refused: Option<(Reason, Option<String>)>,
    /// It passed, and would not have where policy is enforced.
    pub(super) noted: Option<Refusal>,
    /// The app's part of the time, up to the head of its answer or until nobody waited for that any more, if it was asked.
    pub(super) app: Option<Duration>,
    /// What follows is another protocol than HTTP.
    pub(super) changed: bool,
}

impl Outcome {
    pub(super) fn refused(reason: Reason, decision: Option<String>, status: u16) -> Self {
        Outcome { status, refused: Some((reason, decision)), noted: None, app: None, changed: false }
    }

    pub(super) fn answered(status: u16) -> Self {
        Outcome { status, refused: None, noted: None, app: None, changed: false }
    }
}

impl Inbound {
    /// Which share of new traces is recorded, where the service on this port says so.
    pub(super) fn ratio_of(&self, port: u16) -> Option<u32> {
        self.needs.state.snapshot().inbound().port(port).options.sampling_millionths
    }

    /// Whether anybody is told of requests, beside the counts.
    pub(super) fn tells(&self) -> bool {
        self.needs.tracer.tells() || self.needs.metrics.live().looks()
    }
}

pub(super) fn tell(
    inbound: &Inbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    told: Option<(&Method, &Uri)>,
    total: Duration,
    outcome: &Outcome,
) {
    let name = hop.peer.map_or(UNKNOWN, SpiffeId::as_str);
    let edge = EdgeOf { direction: Direction::Inbound, namespace: "", name, port: hop.app.port(), site: "" };
    // None, where the caller named no port.
    if edge.port > 0 {
        inbound.edges.request(edge, outcome.status, total, inbound.needs.tracer.exemplar(trace, hop.came + total));
    }
    let Some(asked) = told else { return };
    log(inbound, hop, trace, asked, (total, outcome));
    if inbound.needs.metrics.live().looks() {
        show(inbound, hop, trace, asked, (total, outcome));
    }
}

fn log(
    inbound: &Inbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    (method, uri): (&Method, &Uri),
    (total, outcome): (Duration, &Outcome),
) {
    let refused = outcome.refused.as_ref();
    inbound.needs.tracer.tell(&AccessEntry {
        direction: Direction::Inbound,
        http2: hop.http2,
        method,
        uri,
        status: outcome.status,
        reason: refused.map(|(reason, _)| reason.word()),
        decision: refused.and_then(|(_, decision)| decision.as_deref()),
        trace: trace.sampled.then_some(trace.trace_id),
        caller: Some(hop.source),
        peer: hop.peer.map(SpiffeId::as_str),
        destination: hop.app,
        total,
        app: outcome.app,
        link: None,
    });
}

fn show(
    inbound: &Inbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    (method, uri): (&Method, &Uri),
    (total, outcome): (Duration, &Outcome),
) {
    let mesh = inbound.needs.state.snapshot();
    let own = mesh.inbound().workload.as_ref().map(ToString::to_string);
    let refused = outcome.refused.as_ref();
    inbound.needs.metrics.live().passed(&Passed {
        at_unix_ms: inbound.needs.identity.clock().now_ms(),
        direction: Direction::Inbound.word().to_owned(),
        caller: hop.peer.map_or_else(|| hop.source.to_string(), ToString::to_string),
        callee: own.unwrap_or_else(|| hop.app.ip().to_string()),
        port: hop.app.port().into(),
        protocol: "http".to_owned(),
        method: method.to_string(),
        host: cut(uri.authority().map_or("", |authority| authority.as_str())),
        path: cut(uri.path()),
        status: outcome.status.into(),
        duration_us: micros(total),
        app_us: outcome.app.map_or(0, micros),
        reason: refused.map_or("", |(reason, _)| reason.word()).to_owned(),
        decision: refused.and_then(|(_, decision)| decision.clone()).unwrap_or_default(),
        trace_id: trace.id_in_words(),
        site: mesh.site_of(hop.source).map(|site| site.name.to_string()).unwrap_or_default(),
        transport: transport(hop.arrived).to_owned(),
        ..Passed::default()
    });
}

/// A connection of bytes.
pub(super) struct Connection<'a> {
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) source: IpAddr,
    /// Of the app; without a port where the caller named none.
    pub(super) app: SocketAddr,
    pub(super) arrived: Arrived,
}

/// It has ended, after so many bytes to and from the app; `refused`: by a policy that came meanwhile.
pub(super) fn connection(
    inbound: &Inbound,
    of: &Connection<'_>,
    (to_callee, from_callee): (u64, u64),
    began: Instant,
    refused: Option<&Refusal>,
) {
    inbound.needs.metrics.bytes(Direction::Inbound, to_callee, from_callee);
    let name = of.peer.map_or(UNKNOWN, SpiffeId::as_str);
    let edge = EdgeOf { direction: Direction::Inbound, namespace: "", name, port: of.app.port(), site: "" };
    inbound.edges.connection(edge, to_callee, from_callee);
    if inbound.needs.metrics.live().looks() {
        let duration_us = micros(began.elapsed());
        let passed = Passed { to_callee, from_callee, duration_us, ..passed(inbound, of, refused) };
        inbound.needs.metrics.live().passed(&passed);
    }
}

/// There was none: counted and said by whoever decided it, and here shown to who looks.
pub(super) fn refused_connection(inbound: &Inbound, of: &Connection<'_>, refusal: &Refusal) {
    if inbound.needs.metrics.live().looks() {
        inbound.needs.metrics.live().passed(&passed(inbound, of, Some(refusal)));
    }
}

fn passed(inbound: &Inbound, of: &Connection<'_>, refused: Option<&Refusal>) -> Passed {
    let mesh = inbound.needs.state.snapshot();
    let own = mesh.inbound().workload.as_ref().map(ToString::to_string);
    Passed {
        at_unix_ms: inbound.needs.identity.clock().now_ms(),
        direction: Direction::Inbound.word().to_owned(),
        caller: of.peer.map_or_else(|| of.source.to_string(), ToString::to_string),
        callee: own.unwrap_or_else(|| of.app.ip().to_string()),
        port: of.app.port().into(),
        protocol: "tcp".to_owned(),
        reason: refused.map_or("", |refusal| refusal.reason.word()).to_owned(),
        decision: refused.and_then(|refusal| refusal.decision.clone()).unwrap_or_default(),
        site: mesh.site_of(of.source).map(|site| site.name.to_string()).unwrap_or_default(),
        transport: transport(of.arrived).to_owned(),
        ..Passed::default()
    }
}

fn transport(arrived: Arrived) -> &'static str {
    match arrived {
        Arrived::Mesh => "mesh",
        Arrived::AppTls { .. } => "tls",
        Arrived::Plain => "plaintext",
    }
}
