//! The spans of a request that the app sent: the whole of it, and its way between the two sidecars.

use std::time::Duration;

use http::StatusCode;

use super::Outbound;
use super::request::Hop;
use crate::telemetry::{Kind, Span, Status, TraceContext};

/// As the app saw it, with the time told apart as far as the callee's sidecar said.
pub(super) fn request(
    outbound: &Outbound,
    hop: &Hop<'_>,
    start_ns: u64,
    elapsed: Duration,
    status: StatusCode,
    reason: Option<&'static str>,
) {
    let Some(mut span) = hop.trace.span(Kind::Client, "outbound", start_ns) else {
        return;
    };
    span.end_ns = outbound.needs.tracer.now_ns();
    span.set("http.response.status_code", status.as_u16());
    span.set("server.address", hop.destination.to_string());
    describe(outbound, hop, &mut span);
    if let Some(link) = &hop.link {
        let proxy = micros(elapsed).saturating_sub(micros(link.elapsed)).saturating_sub(count(link.callee.app_us));
        span.set("isthmus.time.app_us", count(link.callee.app_us));
        span.set("isthmus.time.link_us", micros(link.elapsed));
        span.set("isthmus.time.proxy_us", proxy);
    }
    span.set("isthmus.decision", reason.unwrap_or("allowed"));
    if let Some(word) = reason {
        span.status = Status::Error(word);
    }
    outbound.needs.tracer.record(span);
}

/// From the request leaving this sidecar to the answer being back, without what the callee took.
///
/// `tcp`: round trip in microseconds, segments sent again and bytes delivered per second, as the kernel saw them lately.
pub(super) fn link(
    outbound: &Outbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    sent_ns: u64,
    tcp: Option<(u32, u32, u64)>,
) {
    let Some(mut span) = trace.span(Kind::Internal, "link", sent_ns) else {
        return;
    };
    span.end_ns = outbound.needs.tracer.now_ns();
    describe(outbound, hop, &mut span);
    if let Some(link) = &hop.link {
        span.set("isthmus.time.link_us", micros(link.elapsed));
    }
    if let Some((rtt_us, retransmitted, delivery_rate)) = tcp {
        span.set("isthmus.tcp.rtt_us", i64::from(rtt_us));
        span.set("isthmus.tcp.retransmitted_segments", i64::from(retransmitted));
        span.set("isthmus.tcp.delivery_bytes_per_second", count(delivery_rate));
    }
    outbound.needs.tracer.record(span);
}

fn describe(outbound: &Outbound, hop: &Hop<'_>, span: &mut Span) {
    if let Some(site) = outbound.needs.state.snapshot().site() {
        span.set("isthmus.site.source", site.to_string());
    }
    let Some(link) = &hop.link else { return };
    if let Some(site) = &link.site {
        span.set("isthmus.site.destination", site.clone());
    }
    if let Some(name) = &link.name {
        span.set("isthmus.link", name.clone());
    }
    if let Some(peer) = &link.peer {
        span.set("isthmus.peer.identity", peer.clone());
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn count(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}
