//! The spans of a request to the app: the whole of it, to the end of its answer's body, and what the app took. Where nobody
//! had decided to record it, the same is told at its end if that is worth it, and the caller's sidecar learns in which
//! trace.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Uri};

use super::Inbound;
use super::authorize::Refusal;
use super::mesh::Peer;
use super::request::{Hop, Outcome};
use crate::http::Answer;
use crate::http::body::{Body, Seen, Watch};
use crate::http::internal::KEPT;
use crate::state::TlsVersion;
use crate::state::policy::Arrived;
use crate::telemetry::{
    AskedFor, Brief, ConnectionSpan, Fate, KeptTrace, Kind, Span, TraceContext, answered, grpc_answered, micros,
};

/// What is remembered of a request for its spans.
pub(super) struct Asked<'a> {
    pub(super) whole: Option<(&'a Method, &'a Uri)>,
    pub(super) brief: Option<&'a Brief>,
    pub(super) grpc: bool,
    /// The head of its answer was there after so long.
    pub(super) total: Duration,
}

/// Records what is to be recorded. The answer's body is looked at on its way, for how it ends.
pub(super) fn request(
    inbound: &Inbound,
    hop: &Hop<'_>,
    trace: &TraceContext,
    asked: &Asked<'_>,
    outcome: &Outcome,
    answer: &mut Answer,
) {
    let tracer = &inbound.needs.tracer;
    let kept = match trace.sampled {
        true => None,
        false => match why_kept(inbound, asked, outcome, answer) {
            Some(why) => Some(why),
            None => return,
        },
    };
    let trace = match kept {
        None => trace.clone(),
        Some(_) => keep(hop, trace, answer),
    };
    if let (Some(_), Some(sent)) = (kept, outcome.sent) {
        app(inbound, &trace.child(), sent, outcome);
    }
    let whole = asked.whole.map(|(method, uri)| AskedFor { method, uri, http2: hop.http2, grpc: asked.grpc });
    let name = whole.map(|whole| whole.name()).or_else(|| asked.brief.map(Brief::name)).unwrap_or("HTTP".into());
    let Some(mut span) = trace.span(Kind::Server, name, tracer.at_ns(hop.came)) else { return };
    span.set("isthmus.hop", "inbound");
    span.set_some("isthmus.kept", kept);
    match whole {
        Some(whole) => whole.describe(&mut span),
        None => asked.brief.into_iter().for_each(|brief| brief.describe(&mut span)),
    }
    describe(inbound, hop, &mut span);
    if let Some((total, app)) = outcome.times {
        span.set("isthmus.time.app_us", micros(app));
        span.set("isthmus.time.inbound_us", micros(total.saturating_sub(app)));
        span.set("isthmus.time.proxy_us", micros(total.saturating_sub(app)));
    }
    let (reason, decision) = match &outcome.refused {
        Some((reason, decision)) => (Some(reason.word()), decision.clone()),
        None => (None, None),
    };
    span.set("isthmus.decision", reason.unwrap_or("allowed"));
    span.set_some("isthmus.decision.id", decision);
    answered(&mut span, answer.response.status(), reason);
    if let Some(code) = answer.response.headers().get("grpc-status").filter(|_| asked.grpc) {
        grpc_answered(&mut span, code.as_bytes());
    }
    if let Some(reset) = answer.reset {
        span.set("isthmus.reset", format!("{reset:?}"));
        span.fail("reset");
        // There is no body to wait for.
        span.end_ns = tracer.now_ns();
        return tracer.record(span);
    }
    if answer.response.status().as_u16() == 101 {
        // What follows is a connection of its own.
        span.end_ns = tracer.now_ns();
        return tracer.record(span);
    }
    let (mut open, grpc) = (tracer.body_span(span), asked.grpc);
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

fn why_kept(inbound: &Inbound, asked: &Asked<'_>, outcome: &Outcome, answer: &Answer) -> Option<&'static str> {
    let tracer = &inbound.needs.tracer;
    if !tracer.may_keep() {
        return None;
    }
    let code = answer.response.headers().get("grpc-status").filter(|_| asked.grpc);
    let failed = answer.reset.is_some() || code.is_some_and(|code| code != "0");
    let reason = outcome.refused.as_ref().map(|(reason, _)| *reason);
    tracer.keeps(Fate { status: outcome.status, reason, failed, took: Some(asked.total) })
}

/// In the caller's trace, below a span that the caller's sidecar will take for its link: it learns which.
fn keep(hop: &Hop<'_>, trace: &TraceContext, answer: &mut Answer) -> TraceContext {
    let mut kept = trace.kept();
    if hop.peer.is_none() {
        return kept;
    }
    let link = kept.child();
    let told = KeptTrace { trace_id: link.trace_id, span_id: link.span_id };
    if let Ok(value) = HeaderValue::from_str(&told.to_string()) {
        answer.response.headers_mut().insert(KEPT, value);
    }
    kept.parent = Some(link.span_id);
    kept
}

/// From the request leaving for the app to the head of its answer.
pub(super) fn app(inbound: &Inbound, trace: &TraceContext, sent: Instant, outcome: &Outcome) {
    let tracer = &inbound.needs.tracer;
    let Some(mut span) = trace.span(Kind::Client, "app", tracer.at_ns(sent)) else { return };
    let took = outcome.times.map(|(_, app)| app);
    span.end_ns = took.map_or_else(|| tracer.now_ns(), |took| tracer.at_ns(sent + took));
    span.set("isthmus.hop", "app");
    span.set_some("isthmus.time.app_us", took.map(micros));
    match &outcome.refused {
        Some((reason, _)) => span.fail(reason.word()),
        None => {
            let status = http::StatusCode::from_u16(outcome.status).unwrap_or_default();
            answered(&mut span, status, None);
        }
    }
    tracer.record(span);
}

fn describe(inbound: &Inbound, hop: &Hop<'_>, span: &mut Span) {
    span.set("client.address", hop.source.to_string());
    span.set("network.peer.address", hop.source.to_string());
    if !span.has("server.address") {
        span.set("server.address", hop.app.ip().to_string());
    }
    span.set("server.port", hop.app.port());
    span.set_some("isthmus.peer.identity", hop.peer.map(ToString::to_string));
    span.set("isthmus.arrived", arrived(hop.arrived));
    sites(inbound, hop.source, span);
}

fn arrived(how: Arrived) -> &'static str {
    match how {
        Arrived::Mesh => "mesh",
        Arrived::AppTls { .. } => "tls",
        Arrived::Plain => "plaintext",
    }
}

fn in_words(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_0 => "1.0",
        TlsVersion::V1_1 => "1.1",
        TlsVersion::V1_2 => "1.2",
        TlsVersion::V1_3 => "1.3",
    }
}

/// Both ends' sites and the link between them; the caller's by its address.
fn sites(inbound: &Inbound, source: IpAddr, span: &mut Span) {
    let mesh = inbound.needs.state.snapshot();
    let (from, own) = (mesh.site_of(source), mesh.site());
    span.set_some("isthmus.site.source", from.map(|site| site.name.to_string()));
    span.set_some("isthmus.site.destination", own.map(ToString::to_string));
    let link = from.zip(own).and_then(|(from, own)| mesh.link_between(&from.name, own));
    span.set_some("isthmus.link", link.cloned());
}

/// What the caller's app changed to, below the request's span. Nothing is recorded where the app does not agree.
pub(super) fn websocket(inbound: &Inbound, hop: &Hop<'_>, trace: &TraceContext) -> ConnectionSpan {
    let tracer = &inbound.needs.tracer;
    let span = ConnectionSpan::begin(tracer, &trace.child(), (Kind::Server, "WebSocket"), tracer.now_ns());
    span.with(|span| {
        span.set("isthmus.hop", "inbound");
        span.set("network.transport", "tcp");
        span.set_some("network.protocol.name", hop.upgrade.as_ref().map(|protocol| protocol.as_str().to_owned()));
        describe(inbound, hop, span);
    });
    span
}

/// A body of a connection that changed its protocol, counted. `sent`: towards the caller.
pub(super) fn counted(body: Body, span: &ConnectionSpan, sent: bool) -> Body {
    if !span.is_sampled() {
        return body;
    }
    let (span, own) = (span.clone(), crate::tcp::Copied::default());
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

/// A tunnel of a peer, or a captured connection: `context` decides.
pub(super) fn connection(
    inbound: &Inbound,
    context: &TraceContext,
    (source, app): (SocketAddr, SocketAddr),
    (peer, how): (Option<&Peer>, Arrived),
    began: Instant,
) -> ConnectionSpan {
    let tracer = &inbound.needs.tracer;
    let span = ConnectionSpan::begin(tracer, context, (Kind::Server, "TCP"), tracer.at_ns(began));
    span.with(|span| {
        span.set("isthmus.hop", "inbound");
        span.set("network.transport", "tcp");
        span.set("network.type", if app.is_ipv4() { "ipv4" } else { "ipv6" });
        span.set("client.address", source.ip().to_string());
        span.set("network.peer.address", source.ip().to_string());
        span.set("network.peer.port", source.port());
        span.set("server.address", app.ip().to_string());
        span.set("server.port", app.port());
        span.set_some("isthmus.peer.identity", peer.map(|peer| peer.identity.id.to_string()));
        span.set("isthmus.arrived", arrived(how));
        if let Arrived::AppTls { version, .. } = how {
            span.set("tls.established", true);
            span.set("network.protocol.name", "tls");
            span.set_some("tls.protocol.version", version.map(in_words));
        }
        sites(inbound, source.ip(), span);
    });
    span
}

/// A no: told by a span where the trace is recorded, or where what is denied or failed is kept.
pub(super) fn refused(
    inbound: &Inbound,
    context: &TraceContext,
    refusal: &Refusal,
    open: impl FnOnce(&TraceContext) -> ConnectionSpan,
) {
    let fate = Fate { reason: Some(refusal.reason), ..Fate::default() };
    let (kept, why) = match inbound.needs.tracer.keeps(fate) {
        _ if context.sampled => (context.clone(), None),
        None => return,
        why => (context.kept(), why),
    };
    let span = open(&kept);
    span.with(|span| span.set_some("isthmus.kept", why));
    span.refused(refusal.reason, refusal.decision.as_deref());
}
