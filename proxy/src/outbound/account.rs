//! What is told of a request once it has been answered, beside its span: the counts of its edge, and whoever looks at what
//! passes now.

use std::time::Duration;

use super::Outbound;
use super::request::Hop;
use crate::reason::Reason;
use crate::telemetry::{Direction, EdgeOf, Passed, Seen};

/// Counts it, and tells who looks.
pub(super) fn request(
    outbound: &Outbound,
    hop: &Hop<'_>,
    seen: Option<Box<Seen>>,
    status: u16,
    elapsed: Duration,
    refused: Option<Reason>,
) {
    let site = hop.link.as_ref().and_then(|link| link.site.as_deref()).unwrap_or_default();
    if let Some(callee) = &hop.callee {
        let (namespace, name) = (callee.name.namespace(), callee.name.name());
        let port = hop.destination.port();
        let edge = EdgeOf { direction: Direction::Outbound, namespace, name, port, site };
        outbound.edges.request(edge, status, elapsed);
    }
    if let Some(seen) = seen {
        tell(outbound, hop, *seen, site, (status, elapsed, refused));
    }
}

fn tell(
    outbound: &Outbound,
    hop: &Hop<'_>,
    seen: Seen,
    site: &str,
    (status, elapsed, refused): (u16, Duration, Option<Reason>),
) {
    let link = hop.link.as_ref();
    let mesh = outbound.needs.state.snapshot();
    let own = outbound.needs.identity.current().map(|own| own.id.to_string());
    let passed = Passed {
        at_unix_ms: outbound.needs.identity.clock().now_ms(),
        direction: Direction::Outbound.word().to_owned(),
        caller: own.or_else(|| mesh.inbound().workload.as_ref().map(ToString::to_string)).unwrap_or_default(),
        callee: hop.callee.as_ref().map_or_else(|| hop.destination.ip().to_string(), |callee| callee.name.to_string()),
        port: hop.destination.port().into(),
        status: status.into(),
        duration_us: micros(elapsed),
        link_us: link.map_or(0, |link| micros(link.elapsed)),
        app_us: link.map_or(0, |link| link.callee.app_us),
        reason: refused.map_or("", Reason::word).to_owned(),
        decision: hop.decision.clone().unwrap_or_default(),
        trace_id: hop.trace.id_in_words(),
        site: site.to_owned(),
        transport: if link.is_some() { "mesh" } else { "plaintext" }.to_owned(),
        ..Passed::default()
    };
    outbound.needs.metrics.live().request(seen, passed);
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
