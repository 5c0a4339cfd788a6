//! What the access log is told of a request to the app.

use std::time::Duration;

use http::{Method, Uri};

use super::Inbound;
use super::request::{Hop, Outcome};
use crate::telemetry::{AccessEntry, Direction, TraceContext};

/// A line of the access log; `told`: what was asked for, where there is a log.
pub(super) fn tell(
    inbound: &Inbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    told: Option<(Method, Uri)>,
    total: Duration,
    outcome: &Outcome,
) {
    let Some((method, uri)) = told else { return };
    let refused = outcome.refused.as_ref();
    inbound.needs.tracer.tell(&AccessEntry {
        direction: Direction::Inbound,
        http2: hop.http2,
        method: &method,
        uri: &uri,
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
