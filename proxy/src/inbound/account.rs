//! What is told of a request once it has been answered, beside its span: the counts of its edge, and whoever looks at what
//! passes now.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use isthmus_certs::SpiffeId;

use super::Inbound;
use super::authorize::Refusal;
use crate::state::policy::Arrived;
use crate::telemetry::{Direction, EdgeOf, Passed, Seen, TraceContext};

/// Of callers without a certificate: their addresses are as many as there are hosts.
const UNKNOWN: &str = "unknown";

/// Who asked what for which port, and how.
pub(super) struct Asked<'a> {
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) source: IpAddr,
    pub(super) app: SocketAddr,
    pub(super) arrived: Arrived,
    pub(super) trace: &'a TraceContext,
    pub(super) seen: Option<Box<Seen>>,
}

/// Counts it, and tells who looks.
///
/// `times`: all that it took here, and the app's part of it.
pub(super) fn request(
    inbound: &Inbound,
    mut asked: Asked<'_>,
    status: u16,
    times: (Duration, Duration),
    refused: Option<&Refusal>,
) {
    let name = asked.peer.map_or(UNKNOWN, SpiffeId::as_str);
    let port = asked.app.port();
    let edge = EdgeOf { direction: Direction::Inbound, namespace: "", name, port, site: "" };
    inbound.edges.request(edge, status, times.0);
    if let Some(seen) = asked.seen.take() {
        tell(inbound, *seen, &asked, (status, times, refused));
    }
}

fn tell(
    inbound: &Inbound,
    seen: Seen,
    asked: &Asked<'_>,
    (status, (total, app_time), refused): (u16, (Duration, Duration), Option<&Refusal>),
) {
    let mesh = inbound.needs.state.snapshot();
    let own = mesh.inbound().workload.as_ref().map(ToString::to_string);
    let passed = Passed {
        at_unix_ms: inbound.needs.identity.clock().now_ms(),
        direction: Direction::Inbound.word().to_owned(),
        caller: asked.peer.map_or_else(|| asked.source.to_string(), ToString::to_string),
        callee: own.unwrap_or_else(|| asked.app.ip().to_string()),
        port: asked.app.port().into(),
        status: status.into(),
        duration_us: micros(total),
        app_us: micros(app_time),
        reason: refused.map_or("", |refusal| refusal.reason.word()).to_owned(),
        decision: refused.and_then(|refusal| refusal.decision.clone()).unwrap_or_default(),
        trace_id: asked.trace.id_in_words(),
        site: mesh.site_of(asked.source).map(|site| site.name.to_string()).unwrap_or_default(),
        transport: match asked.arrived {
            Arrived::Mesh => "mesh",
            Arrived::AppTls { .. } => "tls",
            Arrived::Plain => "plaintext",
        }
        .to_owned(),
        ..Passed::default()
    };
    inbound.needs.metrics.live().request(seen, passed);
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
