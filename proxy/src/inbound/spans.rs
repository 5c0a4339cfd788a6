//! The span of a request to the app, to the end of its answer's body; what the app took of it is told there. Where nobody had
//! decided to record it, the same is told at its end if that is worth it, and the caller's sidecar learns that it was.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use h2::ext::Protocol;
use http::HeaderValue;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::SiteName;

use super::Inbound;
use super::authorize::Refusal;
use super::mesh::Peer;
use super::request::Hop;
use super::told::Outcome;
use super::under_way::{Perhaps, UnderWay};
use crate::http::Answer;
use crate::http::followed::MOST;
use crate::http::internal::KEPT;
use crate::http::spans::{self as of_http, Open};
use crate::reason::Reason;
use crate::state::policy::Arrived;
use crate::state::{Mark, Mesh, TlsVersion};
use crate::telemetry::{
    AskedFor, Attributes, Brief, ConnectionSpan, Direction, Fate, KeptTrace, Kind, Prepared, Remembered, Span,
    TraceContext, micros,
};

/// What is remembered of a request for its spans.
pub(super) struct Asked {
    pub(super) known: Remembered,
    pub(super) grpc: bool,
    /// The head of its answer was there after so long.
    pub(super) total: Duration,
}

/// Between whom a request is.
#[derive(Clone, Copy)]
pub(super) struct Between<'a> {
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) source: IpAddr,
    pub(super) app: SocketAddr,
    pub(super) arrived: Arrived,
    pub(super) http2: bool,
    pub(super) came: Instant,
}

/// All that the spans of a request tell.
pub(super) struct About<'a> {
    pub(super) between: Between<'a>,
    pub(super) trace: &'a TraceContext,
    pub(super) asked: &'a Asked,
    pub(super) outcome: &'a Outcome,
    /// Where the caller's sidecar puts what it keeps: asked only where something is kept.
    pub(super) shared: &'a dyn Fn() -> Option<KeptTrace>,
}

/// Records what is to be recorded. The answer's body is followed, where its end tells more.
pub(super) fn request(
    inbound: &Rc<Inbound>,
    hop: &Hop<'_>,
    trace: &TraceContext,
    asked: &mut Asked,
    outcome: Outcome,
    answer: &mut Answer,
) {
    let (tracer, grpc, failed) = (&inbound.needs.tracer, asked.grpc, of_http::failed(answer, asked.grpc));
    let fate = Fate { failed, ..fate_of(&outcome, asked) };
    let about = About { between: hop.between(), trace, asked, outcome: &outcome, shared: &|| hop.shared() };
    let open = match begun(inbound, &about, fate) {
        Some(span) => {
            if hop.peer.is_some() && !trace.sampled {
                answer.response.headers_mut().insert(KEPT, HeaderValue::from_static("1"));
            }
            let head = (reason_of(&outcome), grpc, outcome.changed);
            of_http::with_head(tracer, span, answer, head).map(|span| Open::Recorded(Box::new(span)))
        }
        None if outcome.changed || !of_http::is_open(answer, grpc) || !tracer.may_keep_at_end() => None,
        None if inbound.followed.count() >= MOST => return inbound.needs.metrics.not_followed(Direction::Inbound),
        None => Some(Open::Perhaps(Perhaps::of(hop, trace, asked, outcome))),
    };
    if let Some(open) = open {
        let signal = Rc::clone(&hop.watched.signal);
        let of = UnderWay { inbound: Rc::clone(inbound), grpc, signal, open };
        of_http::follow(&inbound.followed, answer, of);
    }
}

/// The same of one whose caller left before it was answered.
pub(super) fn left(inbound: &Inbound, hop: &Hop<'_>, trace: &TraceContext, asked: &Asked, outcome: &Outcome) {
    let about = About { between: hop.between(), trace, asked, outcome, shared: &|| hop.shared() };
    if let Some(span) = begun(inbound, &about, Fate { failed: true, ..fate_of(outcome, asked) }) {
        of_http::unanswered(&inbound.needs.tracer, span);
    }
}

fn fate_of(outcome: &Outcome, asked: &Asked) -> Fate {
    let reason = outcome.refused.as_ref().map(|(reason, _)| *reason);
    Fate { status: outcome.status, reason, failed: false, took: Some(asked.total) }
}

fn reason_of(outcome: &Outcome) -> Option<&'static str> {
    outcome.refused.as_ref().map(|(reason, _)| reason.word())
}

/// The request's span up to its answer, where there is one.
pub(super) fn begun(inbound: &Inbound, about: &About<'_>, fate: Fate) -> Option<Span> {
    let tracer = &inbound.needs.tracer;
    let About { between, trace, asked, outcome, .. } = about;
    let kept = if trace.sampled { None } else { Some(tracer.keeps(fate)?) };
    let trace = if kept.is_some() { keep(about) } else { (*trace).clone() };
    let (http2, grpc, brief) = (between.http2, asked.grpc, asked.known.brief());
    let whole = asked.known.whole().map(|(method, uri)| AskedFor { method, uri, http2, grpc });
    let name = whole.map(|whole| whole.name()).or_else(|| brief.map(Brief::name)).unwrap_or("HTTP".into());
    let mut span = trace.span(Kind::Server, name, tracer.at_ns(between.came))?;
    span.end_ns = tracer.at_ns(between.came + asked.total);
    span.set("isthmus.hop", "inbound");
    span.set_some("isthmus.kept", kept);
    let to = between.app.ip();
    match (whole, brief) {
        (Some(whole), _) => whole.describe(&mut span, to),
        (None, Some(brief)) => brief.describe(&mut span, to),
        (None, None) => span.set("server.address", to),
    }
    describe(inbound, between, &mut span);
    if let Some(app) = outcome.app {
        span.set("isthmus.time.app_us", micros(app));
        span.set("isthmus.time.inbound_us", micros(asked.total.saturating_sub(app)));
    }
    span.set("isthmus.decision", reason_of(outcome).unwrap_or("allowed"));
    span.set_some("isthmus.decision.id", outcome.refused.as_ref().and_then(|(_, decision)| decision.as_deref()));
    note(&mut span, outcome.noted.as_ref());
    Some(span)
}

/// Of a sidecar's request, where that one puts its own part: below the span that stands for the link there.
fn keep(about: &About<'_>) -> TraceContext {
    let Some(shared) = (about.shared)() else { return about.trace.kept() };
    let mut kept = about.trace.kept_in(shared.trace_id);
    kept.parent = Some(shared.span_id);
    kept
}

/// What passed, and would have been refused.
pub(super) fn note(span: &mut Span, noted: Option<&Refusal>) {
    if let Some(Refusal { reason, decision }) = noted {
        span.set("isthmus.would_refuse", reason.word());
        if !span.has("isthmus.decision.id") {
            span.set_some("isthmus.decision.id", decision.as_deref());
        }
    }
}

/// What spans say of a caller and of the app that it asks: where it calls from, whom, who it is, and how it came.
pub(super) type Blocks = Prepared<Mark, (IpAddr, SocketAddr, Option<SpiffeId>, Arrived)>;

fn describe(inbound: &Inbound, between: &Between<'_>, span: &mut Span) {
    let mesh = inbound.needs.state.snapshot();
    inbound.blocks.say(
        span,
        mesh.mark(),
        (between.source, between.app, between.peer.cloned(), between.arrived),
        |block| {
            block.set("client.address", between.source);
            block.set("network.peer.address", between.source);
            block.set("server.port", between.app.port());
            block.set_some("isthmus.peer.identity", between.peer.map(SpiffeId::as_str));
            block.set("isthmus.arrived", arrived(between.arrived));
            sites(&mesh, between.source, block);
        },
    );
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
fn sites(mesh: &Mesh, source: IpAddr, to: &mut Attributes) {
    let (from, own) = (mesh.site_of(source), mesh.site());
    to.set_some("isthmus.site.source", from.map(|site| site.name.as_str()));
    to.set_some("isthmus.site.destination", own.map(SiteName::as_str));
    let link = from.zip(own).and_then(|(from, own)| mesh.link_between(&from.name, own));
    to.set_some("isthmus.link", link.map(|link| &**link));
}

/// What the caller's app changes to, below the request's span. Nothing is recorded where the app does not agree.
pub(super) fn carried(inbound: &Inbound, hop: &Hop<'_>, trace: &TraceContext, protocol: &Protocol) -> ConnectionSpan {
    if !trace.sampled {
        return ConnectionSpan::default();
    }
    let tracer = &inbound.needs.tracer;
    let span = ConnectionSpan::begin(tracer, &trace.child(), (Kind::Server, "WebSocket"), tracer.now_ns());
    span.with(|span| {
        span.set("isthmus.hop", "inbound");
        span.set("network.transport", "tcp");
        span.set("network.protocol.name", protocol.as_str());
        let between = hop.between();
        span.set("server.address", between.app.ip());
        describe(inbound, &between, span);
    });
    span
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
        span.set("client.address", source.ip());
        span.set("network.peer.address", source.ip());
        span.set("network.peer.port", source.port());
        span.set("server.address", app.ip());
        span.set("server.port", app.port());
        span.set_some("isthmus.peer.identity", peer.map(|peer| peer.identity.id.as_str()));
        span.set("isthmus.arrived", arrived(how));
        if let Arrived::AppTls { version, .. } = how {
            span.set("tls.established", true);
            span.set("network.protocol.name", "tls");
            span.set_some("tls.protocol.version", version.map(in_words));
        }
        sites(&inbound.needs.state.snapshot(), source.ip(), &mut span.attributes);
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
    let Some((context, why)) = of_http::recorded_or_kept(&inbound.needs.tracer, context, fate) else { return };
    let span = open(&context);
    span.with(|span| span.set_some("isthmus.kept", why));
    span.refused(refusal.reason, refusal.decision.as_deref());
}

/// What was refused before it was a request; `app`: where it was to go, as far as that is known.
pub(super) fn unread(
    inbound: &Inbound,
    source: IpAddr,
    (app, ratio): (SocketAddr, Option<u32>),
    (peer, how): (Option<&SpiffeId>, Arrived),
    reason: Reason,
) {
    let tracer = &inbound.needs.tracer;
    of_http::unread(tracer, &tracer.root_at(ratio), Kind::Server, reason, |span| {
        span.set("client.address", source);
        span.set("network.peer.address", source);
        span.set("server.address", app.ip());
        span.set_some("server.port", (app.port() > 0).then(|| app.port()));
        span.set_some("isthmus.peer.identity", peer.map(SpiffeId::as_str));
        span.set("isthmus.arrived", arrived(how));
        sites(&inbound.needs.state.snapshot(), source, &mut span.attributes);
    });
}
