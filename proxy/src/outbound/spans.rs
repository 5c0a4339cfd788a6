//! The spans of a request that the app sent: the whole of it, to the end of its answer's body, and each try's way to the
//! callee's sidecar and back. Where nobody had decided to record it, the same is told at its end if that is worth it.

use std::time::{Duration, Instant};

use http::{Method, Uri};

use super::Outbound;
use super::hop::Hop;
use super::told::Ended;
use super::tries::{Try, TryFate};
use crate::http::Answer;
use crate::http::body::{Body, Seen, Watch};
use crate::state::Endpoint;
use crate::telemetry::{AskedFor, Brief, Fate, Kind, Span, Status, TraceContext, answered, grpc_answered, micros};

/// Where one request stands in its trace once it has its answer.
pub(super) struct Ending<'a> {
    pub(super) started: Instant,
    pub(super) asked: Option<(&'a Method, &'a Uri)>,
    pub(super) brief: Option<&'a Brief>,
    pub(super) grpc: bool,
}

/// Records what is to be recorded. The answer's body is looked at on its way, for how it ends.
pub(super) fn request(outbound: &Outbound, hop: &Hop<'_>, ending: &Ending<'_>, ended: &Ended, answer: &mut Answer) {
    let tracer = &outbound.needs.tracer;
    let kept = match hop.trace.sampled {
        true => None,
        false => match why_kept(outbound, hop, ending, ended, answer) {
            Some(why) => Some(why),
            None => return,
        },
    };
    let trace = match (kept, &hop.kept) {
        (None, _) => hop.trace.clone(),
        (Some(_), Some(callees)) => hop.trace.of_kept(callees.trace_id),
        (Some(_), None) => hop.trace.kept(),
    };
    if kept.is_some() {
        let mut tries = outbound.tries.of(hop.number);
        let last = tries.pop();
        for tried in &tries {
            link(outbound, &trace.child(), tried);
        }
        if let Some(tried) = last {
            let mut context = trace.child();
            // The callee's span has this one as its parent.
            context.span_id = hop.kept.map_or(context.span_id, |callees| callees.span_id);
            link(outbound, &context, &tried);
        }
    }
    let asked = ending.asked.map(|(method, uri)| AskedFor { method, uri, http2: hop.http2, grpc: ending.grpc });
    let name = asked.map(|asked| asked.name()).or_else(|| ending.brief.map(Brief::name)).unwrap_or("HTTP".into());
    let Some(mut span) = trace.span(Kind::Client, name, tracer.at_ns(ending.started)) else { return };
    span.set("isthmus.hop", "outbound");
    span.set_some("isthmus.kept", kept);
    match asked {
        Some(asked) => asked.describe(&mut span),
        None => ending.brief.into_iter().for_each(|brief| brief.describe(&mut span)),
    }
    describe(outbound, hop, &mut span);
    times(hop, ended.total, &mut span);
    let response = &answer.response;
    span.set("isthmus.decision", ended.reason.map_or("allowed", |reason| reason.word()));
    span.set_some("isthmus.decision.id", ended.decision.clone());
    answered(&mut span, response.status(), ended.reason.map(|reason| reason.word()));
    if let Some(code) = response.headers().get("grpc-status").filter(|_| ending.grpc) {
        grpc_answered(&mut span, code.as_bytes());
    }
    if let Some(reset) = answer.reset {
        span.set("isthmus.reset", format!("{reset:?}"));
        span.fail("reset");
        // There is no body to wait for.
        span.end_ns = tracer.now_ns();
        return tracer.record(span);
    }
    if hop.upgrade.is_some() && response.status().as_u16() == 101 {
        // What follows is a connection of its own.
        span.end_ns = tracer.now_ns();
        return tracer.record(span);
    }
    to_its_end(outbound, span, ending.grpc, answer);
}

/// The span ends with the body.
fn to_its_end(outbound: &Outbound, span: Span, grpc: bool, answer: &mut Answer) {
    let mut open = outbound.needs.tracer.body_span(span);
    let watch = Watch::new(move |seen| match seen {
        Seen::Bytes(count) => open.bytes(count),
        Seen::Whole(trailers) => {
            open.whole(trailers.filter(|_| grpc).and_then(|all| all.get("grpc-status")).map(|code| code.as_bytes()));
        }
        Seen::Broken(error) => open.broken(error.reason().word()),
    });
    let body = std::mem::take(answer.response.body_mut());
    *answer.response.body_mut() = body.watched(watch);
}

fn why_kept(
    outbound: &Outbound,
    hop: &Hop<'_>,
    ending: &Ending<'_>,
    ended: &Ended,
    answer: &Answer,
) -> Option<&'static str> {
    let tracer = &outbound.needs.tracer;
    if !tracer.may_keep() {
        return None;
    }
    let code = answer.response.headers().get("grpc-status").filter(|_| ending.grpc);
    let failed = answer.reset.is_some() || code.is_some_and(|code| code != "0");
    let status = answer.response.status().as_u16();
    let why = tracer.keeps(Fate { status, reason: ended.reason, failed, took: Some(ended.total) });
    // Whoever has kept its part of it shall not have kept it alone.
    why.or_else(|| hop.kept.map(|_| "callee"))
}

/// One try: recorded now, where its trace is, or else remembered for as long as the ring has room.
pub(super) fn tried(outbound: &Outbound, trace: &TraceContext, tried: Try) {
    if trace.sampled {
        link(outbound, trace, &tried);
    } else if outbound.needs.tracer.may_keep() {
        outbound.tries.put(tried);
    }
}

/// From the request leaving this sidecar to the answer being back, the callee's own time included.
fn link(outbound: &Outbound, trace: &TraceContext, tried: &Try) {
    let tracer = &outbound.needs.tracer;
    let Some(mut span) = trace.span(Kind::Internal, "link", tracer.at_ns(tried.sent.unwrap_or(tried.began))) else {
        return;
    };
    span.end_ns = tracer.at_ns(tried.ended);
    span.set("isthmus.hop", "link");
    if tried.number > 0 {
        span.set("http.request.resend_count", i64::from(tried.number));
        span.set("isthmus.retry", i64::from(tried.number));
    }
    let endpoint = &tried.endpoint;
    span.set("network.peer.address", endpoint.ip.to_string());
    span.set_some("network.peer.port", endpoint.mesh.as_ref().map(|peer| peer.port));
    span.set("network.transport", "tcp");
    where_to(outbound, endpoint, &mut span);
    if let Some(tls) = tried.tls {
        span.set("tls.protocol.name", "tls");
        span.set("tls.protocol.version", tls.version.trim_start_matches("TLSv").trim_start_matches("TLS"));
        span.set("tls.cipher", tls.cipher);
        span.set("tls.curve", tls.group);
        span.set("tls.established", true);
    }
    span.set_some(
        "isthmus.time.connect_us",
        tried.sent.map(|sent| micros(sent.saturating_duration_since(tried.began))),
    );
    span.set_some("isthmus.time.link_us", tried.link.map(micros));
    if let Some((rtt_us, retransmitted, delivery_rate)) = tried.tcp {
        span.set("isthmus.tcp.rtt_us", rtt_us);
        span.set("isthmus.tcp.retransmitted_segments", retransmitted);
        span.set("isthmus.tcp.delivery_bytes_per_second", delivery_rate);
    }
    match tried.fate {
        TryFate::Answered(status) => span.set("http.response.status_code", status),
        TryFate::Unprocessed | TryFate::Lost => span.fail("reset"),
        fate => fate.reason().into_iter().for_each(|reason| span.fail(reason.word())),
    }
    span.set_some("isthmus.reset", tried.reset.map(|reset| format!("{reset:?}")));
    tracer.record(span);
}

fn describe(outbound: &Outbound, hop: &Hop<'_>, span: &mut Span) {
    span.set("server.port", hop.destination.port());
    if !span.has("server.address") {
        span.set("server.address", hop.destination.ip().to_string());
    }
    span.set_some(
        "isthmus.route",
        hop.callee.as_ref().map(|callee| format!("{}:{}", callee.name, hop.destination.port())),
    );
    if hop.tries > 1 {
        span.set("isthmus.retries", i64::from(hop.tries) - 1);
    }
    match &hop.link {
        Some(link) => {
            span.set("network.peer.address", link.endpoint.ip.to_string());
            span.set_some("network.peer.port", link.endpoint.mesh.as_ref().map(|peer| peer.port));
            where_to(outbound, &link.endpoint, span);
        }
        None => span.set_some("isthmus.site.source", outbound.needs.state.snapshot().site().map(ToString::to_string)),
    }
}

/// Both ends' sites, the link between them, and who is behind the endpoint.
pub(super) fn where_to(outbound: &Outbound, endpoint: &Endpoint, span: &mut Span) {
    let mesh = outbound.needs.state.snapshot();
    let (own, site) = (mesh.site(), endpoint.site.as_ref());
    span.set_some("isthmus.site.source", own.map(ToString::to_string));
    span.set_some("isthmus.site.destination", site.map(ToString::to_string));
    let link = own.zip(site).and_then(|(own, site)| mesh.link_between(own, site));
    span.set_some("isthmus.link", link.cloned());
    let peer = endpoint.mesh.as_ref().and_then(|peer| peer.identities.first());
    span.set_some("isthmus.peer.identity", peer.map(ToString::to_string));
}

/// Where the time went, by no clock but each side's own: what the callee returned, and ours.
fn times(hop: &Hop<'_>, total: Duration, span: &mut Span) {
    let Some(link) = &hop.link else { return };
    let (app, callee) = (link.callee.app_us, link.callee.total_us);
    let (total, between) = (micros(total), micros(link.elapsed));
    let connect = micros(link.connect);
    let own = total.saturating_sub(between).saturating_sub(callee).saturating_sub(connect);
    span.set("isthmus.time.app_us", app);
    span.set("isthmus.time.link_us", between);
    span.set("isthmus.time.inbound_us", callee.saturating_sub(app));
    span.set("isthmus.time.outbound_us", own);
    span.set("isthmus.time.connect_us", connect);
    span.set("isthmus.time.proxy_us", total.saturating_sub(between).saturating_sub(app));
}

/// What the app changed to: the span of a connection, below the request's, until both directions have ended.
pub(super) fn websocket(outbound: &Outbound, hop: &Hop<'_>, trace: &TraceContext) -> crate::telemetry::ConnectionSpan {
    let tracer = &outbound.needs.tracer;
    let protocol = hop.upgrade.as_ref().map(|protocol| protocol.as_str().to_owned());
    let span = crate::telemetry::ConnectionSpan::begin(tracer, trace, (Kind::Client, "WebSocket"), tracer.now_ns());
    span.with(|span| {
        span.set("isthmus.hop", "outbound");
        span.set("network.transport", "tcp");
        span.set_some("network.protocol.name", protocol);
        span.status = Status::Unset;
        describe(outbound, hop, span);
    });
    span
}

/// A body of a connection that changed its protocol, counted.
pub(super) fn counted(body: Body, span: &crate::telemetry::ConnectionSpan, sent: bool) -> Body {
    if !span.is_sampled() {
        return body;
    }
    let span = span.clone();
    let own = crate::tcp::Copied::default();
    body.watched(Watch::new(move |seen| match seen {
        Seen::Bytes(count) => {
            let copied = span.copied(&own);
            let cell = if sent { &copied.sent } else { &copied.received };
            cell.set(cell.get() + count as u64);
        }
        Seen::Whole(_) => span.half_closed(sent),
        Seen::Broken(error) => span.end("reset", Some(error.reason().word())),
    }))
}
