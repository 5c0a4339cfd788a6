//! What is told of a request to the app, once it has its answer: the counts of its edge, a line of the access log, and
//! whoever looks at what passes now.

use std::time::Duration;

use http::{Method, Uri};
use isthmus_certs::SpiffeId;

use super::Inbound;
use super::request::{Hop, Outcome};
use crate::state::policy::Arrived;
use crate::telemetry::{AccessEntry, Direction, EdgeOf, Passed, TraceContext, cut, micros};

/// Of callers without a certificate: their addresses are as many as there are hosts.
const UNKNOWN: &str = "unknown";

/// What was asked for, kept where somebody is to be told: the request itself is sent on.
pub(super) type Told = Option<(Method, Uri)>;

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
    told: Told,
    total: Duration,
    outcome: &Outcome,
) {
    let name = hop.peer.map_or(UNKNOWN, SpiffeId::as_str);
    let edge = EdgeOf { direction: Direction::Inbound, namespace: "", name, port: hop.app.port(), site: "" };
    inbound.edges.request(edge, outcome.status, total);
    let Some((method, uri)) = told else { return };
    log(inbound, hop, trace, (&method, &uri), (total, outcome));
    if inbound.needs.metrics.live().looks() {
        show(inbound, hop, trace, (&method, &uri), (total, outcome));
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
        peer: hop.peer.map(ToString::to_string),
        destination: hop.app,
        total,
        app: outcome.times.map(|(_, app)| app),
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
        app_us: outcome.times.map_or(0, |(_, app)| micros(app)),
        reason: refused.map_or("", |(reason, _)| reason.word()).to_owned(),
        decision: refused.and_then(|(_, decision)| decision.clone()).unwrap_or_default(),
        trace_id: trace.id_in_words(),
        site: mesh.site_of(hop.source).map(|site| site.name.to_string()).unwrap_or_default(),
        transport: match hop.arrived {
            Arrived::Mesh => "mesh",
            Arrived::AppTls { .. } => "tls",
            Arrived::Plain => "plaintext",
        }
        .to_owned(),
        ..Passed::default()
    });
}
