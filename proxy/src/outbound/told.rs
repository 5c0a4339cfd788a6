//! What the access log is told of a request that the app sent.

use std::time::Duration;

use http::{Method, Response, Uri};

use super::Outbound;
use super::request::Hop;
use crate::http::body::Body;
use crate::http::internal::{DECISION, DENIED};
use crate::reason::Reason;
use crate::telemetry::{AccessEntry, Direction};

/// Why the callee's sidecar refused it, where it did.
pub(super) fn word_of(response: &Response<Body>) -> Option<&'static str> {
    let denied = response.headers().get(DENIED)?.to_str().ok()?;
    Reason::ALL.iter().map(|reason| reason.word()).find(|word| *word == denied)
}

/// A line of the access log; `told`: what was asked for, where there is a log.
pub(super) fn tell(
    outbound: &Outbound,
    hop: &Hop<'_>,
    told: Option<(Method, Uri)>,
    total: Duration,
    response: &Response<Body>,
    reason: Option<&'static str>,
) {
    let Some((method, uri)) = told else { return };
    let link = hop.link.as_ref();
    outbound.needs.tracer.tell(&AccessEntry {
        direction: Direction::Outbound,
        http2: hop.http2,
        method: &method,
        uri: &uri,
        status: response.status().as_u16(),
        reason,
        decision: response.headers().get(DECISION).and_then(|id| id.to_str().ok()),
        trace: hop.trace.sampled.then_some(hop.trace.trace_id),
        caller: None,
        peer: link.and_then(|link| link.peer.clone()),
        destination: hop.destination,
        total,
        app: link.map(|link| Duration::from_micros(link.callee.app_us)),
        link: link.map(|link| link.elapsed),
    });
}
