//! The spans of a request that the app sent: the whole of it, to the end of its answer's body, and each try's way to the
//! callee's sidecar and back. Where nobody had decided to record it, the same is told at its end if that is worth it.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use h2::ext::Protocol;
use isthmus_certs::{Negotiated, SpiffeId};
use isthmus_proto::model::SiteName;

use super::Outbound;
use super::hop::Hop;
use super::told::Ended;
use super::tries::{Before, Try, TryFate};
use super::under_way::{Perhaps, UnderWay};
use crate::http::Answer;
use crate::http::followed::MOST;
use crate::http::spans::{self as of_http, Open};
use crate::reason::Reason;
use crate::state::{Endpoint, Mark, Mesh};
use crate::telemetry::{
    AskedFor, Attributes, Brief, ConnectionSpan, Direction, Fate, Kind, Prepared, Remembered, Shown, Span,
    TraceContext, micros,
};

/// What is remembered of a request for its spans.
pub(super) struct Asked {
    pub(super) started: Instant,
    pub(super) known: Remembered,
    pub(super) grpc: bool,
}

/// Records what is to be recorded. The answer's body is followed, where its end tells more.
pub(super) fn request(
    outbound: &Rc<Outbound>,
    hop: &mut Hop<'_>,
    asked: &mut Asked,
    ended: Ended,
    answer: &mut Answer,
) {
    let (tracer, grpc) = (&outbound.needs.tracer, asked.grpc);
    let fate = Fate { failed: of_http::failed(answer, grpc), ..fate_of(&ended) };
    let open = match begun(outbound, hop, asked, &ended, fate) {
        Some(span) => {
            let head = (ended.reason.map(Reason::word), grpc, hop.changed);
            of_http::with_head(tracer, span, answer, head).map(|span| Open::Recorded(Box::new(span)))
        }
        None if hop.changed || !of_http::is_open(answer, grpc) || !tracer.may_keep_at_end() => None,
        None if outbound.followed.count() >= MOST => return outbound.needs.metrics.not_followed(Direction::Outbound),
        None => Some(Open::Perhaps(Perhaps::of(hop, asked, ended))),
    };
    if let Some(open) = open {
        of_http::follow(&outbound.followed, answer, UnderWay { outbound: Rc::clone(outbound), grpc, open });
    }
}

/// The same of one whose app left before it was answered.
pub(super) fn left(outbound: &Outbound, hop: &Hop<'_>, asked: &Asked, ended: &Ended) {
    if let Some(span) = begun(outbound, hop, asked, ended, Fate { failed: true, ..fate_of(ended) }) {
        of_http::unanswered(&outbound.needs.tracer, span);
    }
}

fn fate_of(ended: &Ended) -> Fate {
    Fate { status: ended.status, reason: ended.reason, failed: false, took: Some(ended.total) }
}

/// The request's span up to its answer, where there is one; of what is kept, the tries' spans as well.
pub(super) fn begun(outbound: &Outbound, hop: &Hop<'_>, asked: &Asked, ended: &Ended, fate: Fate) -> Option<Span> {
    let tracer = &outbound.needs.tracer;
    // Whoever has kept its part of it shall not have kept it alone.
    let callees = || (hop.kept && tracer.may_keep()).then_some("callee");
    let kept = if hop.trace.sampled { None } else { Some(tracer.keeps(fate).or_else(callees)?) };
    let shared = hop.tried.as_ref().and_then(|tried| tried.shared);
    let trace = match (kept, shared) {
        (None, _) => hop.trace.clone(),
        (Some(_), Some(shared)) => hop.trace.kept_in(shared.trace_id),
        (Some(_), None) => hop.trace.kept(),
    };
    if kept.is_some() {
        for before in &outbound.tries.of(hop.number) {
            link(outbound, &trace.child(), &before.tried, before.ended);
        }
        if let Some(tried) = &hop.tried {
            let mut context = trace.child();
            // What the callee's sidecar keeps has this one as its parent.
            context.span_id = shared.map_or(context.span_id, |shared| shared.span_id);
            link(outbound, &context, tried, tried.back.unwrap_or(asked.started + ended.total));
        }
    }
    let (http2, grpc, brief) = (hop.http2, asked.grpc, asked.known.brief());
    let whole = asked.known.whole().map(|(method, uri)| AskedFor { method, uri, http2, grpc });
    let name = whole.map(|whole| whole.name()).or_else(|| brief.map(Brief::name)).unwrap_or("HTTP".into());
    let mut span = trace.span(Kind::Client, name, tracer.at_ns(asked.started))?;
    span.end_ns = tracer.at_ns(asked.started + ended.total);
    span.set("isthmus.hop", "outbound");
    span.set_some("isthmus.kept", kept);
    let to = hop.destination.ip();
    match (whole, brief) {
        (Some(whole), _) => whole.describe(&mut span, to),
        (None, Some(brief)) => brief.describe(&mut span, to),
        (None, None) => span.set("server.address", to),
    }
    describe(outbound, hop, &mut span);
    times(hop, ended.total, &mut span);
    span.set("isthmus.decision", ended.reason.map_or("allowed", |reason| reason.word()));
    span.set_some("isthmus.decision.id", ended.decision.as_deref());
    hop.noted.iter().for_each(|noted| noted.note(&mut span));
    Some(span)
}

/// The try that was the last is not: remembered for as long as the ring has room, where nobody has recorded it yet.
pub(super) fn not_the_last(outbound: &Outbound, hop: &mut Hop<'_>) {
    if let Some(tried) = hop.tried.take()
        && !hop.trace.sampled
        && outbound.needs.tracer.may_keep()
    {
        outbound.tries.put(Before { request: hop.number, ended: Instant::now(), tried });
    }
}

/// The try that has ended, where it is recorded.
pub(super) fn way(outbound: &Outbound, hop: &mut Hop<'_>) {
    if let (Some(way), Some(tried)) = (hop.way.take(), &hop.tried) {
        link(outbound, &hop.trace.child_at(way), tried, tried.back.unwrap_or_else(Instant::now));
    }
}

/// From the request leaving this sidecar to the answer being back, the callee's own time included.
fn link(outbound: &Outbound, trace: &TraceContext, tried: &Try, ended: Instant) {
    let tracer = &outbound.needs.tracer;
    let Some(mut span) = trace.span(Kind::Internal, "link", tracer.at_ns(tried.sent.unwrap_or(tried.began))) else {
        return;
    };
    span.end_ns = tracer.at_ns(ended);
    span.set("isthmus.hop", "link");
    if tried.number > 0 {
        span.set("http.request.resend_count", i64::from(tried.number));
        span.set("isthmus.retry", i64::from(tried.number));
    }
    peer(outbound, &tried.endpoint, Way::Link(tried.tls), &mut span);
    span.set_some(
        "isthmus.time.connect_us",
        tried.sent.map(|sent| micros(sent.saturating_duration_since(tried.began))),
    );
    span.set_some("isthmus.time.link_us", tried.link.map(|link| micros(link.elapsed)));
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
    span.set_some("isthmus.reset", tried.reset.map(|reset| Shown(format!("{reset:?}"))));
    tracer.record(span);
}

fn describe(outbound: &Outbound, hop: &Hop<'_>, span: &mut Span) {
    span.set("server.port", hop.destination.port());
    if let Some(callee) = &hop.callee {
        span.set("isthmus.route", (callee.name.as_str(), hop.destination.port()));
    }
    if hop.tries > 1 {
        span.set("isthmus.retries", i64::from(hop.tries) - 1);
    }
    match hop.link() {
        Some((endpoint, _)) => peer(outbound, endpoint, Way::Request, span),
        None => span.set_some("isthmus.site.source", outbound.needs.state.snapshot().site().map(SiteName::as_str)),
    }
}

/// What spans say of an endpoint, by the endpoint and by what they say it of.
pub(super) type Blocks = Prepared<Mark, (Place, Way)>;

/// An endpoint by where it lies, and held: no other one can lie there.
pub(super) struct Place(Arc<Endpoint>);

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
impl Eq for Place {}
impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[derive(PartialEq, Eq, Hash)]
pub(super) enum Way {
    Request,
    /// Of one try, with what its connection's handshake agreed on.
    Link(Option<Negotiated>),
}

/// Who was asked, and where.
fn peer(outbound: &Outbound, endpoint: &Arc<Endpoint>, way: Way, span: &mut Span) {
    let mesh = outbound.needs.state.snapshot();
    let tls = if let Way::Link(tls) = &way { *tls } else { None };
    outbound.blocks.say(span, mesh.mark(), (Place(Arc::clone(endpoint)), way), |block| {
        block.set("network.peer.address", endpoint.ip);
        block.set_some("network.peer.port", endpoint.mesh.as_ref().map(|peer| peer.port));
        where_to(&mesh, endpoint, block);
        if let Some(tls) = tls {
            block.set("tls.protocol.name", "tls");
            block.set("tls.protocol.version", tls.version.trim_start_matches("TLSv").trim_start_matches("TLS"));
            block.set("tls.cipher", tls.cipher);
            block.set("tls.curve", tls.group);
            block.set("tls.established", true);
        }
    });
}

/// Both ends' sites, the link between them, and who is behind the endpoint.
pub(super) fn where_to(mesh: &Mesh, endpoint: &Endpoint, to: &mut Attributes) {
    let (own, site) = (mesh.site(), endpoint.site.as_ref());
    to.set_some("isthmus.site.source", own.map(SiteName::as_str));
    to.set_some("isthmus.site.destination", site.map(SiteName::as_str));
    let link = own.zip(site).and_then(|(own, site)| mesh.link_between(own, site));
    to.set_some("isthmus.link", link.map(|link| &**link));
    let peer = endpoint.mesh.as_ref().and_then(|peer| peer.identities.first());
    to.set_some("isthmus.peer.identity", peer.map(SpiffeId::as_str));
}

/// Where the time went, by no clock but each side's own: what the callee returned, and ours.
fn times(hop: &Hop<'_>, total: Duration, span: &mut Span) {
    let Some(tried) = &hop.tried else { return };
    let Some(link) = tried.link else { return };
    let (app, callee) = (link.callee.app_us, link.callee.total_us);
    let (total, between) = (micros(total), micros(link.elapsed));
    let connect = tried.sent.map_or(0, |sent| micros(sent.saturating_duration_since(tried.began)));
    let own = total.saturating_sub(between).saturating_sub(callee).saturating_sub(connect);
    span.set("isthmus.time.app_us", app);
    span.set("isthmus.time.link_us", between);
    span.set("isthmus.time.inbound_us", callee.saturating_sub(app));
    span.set("isthmus.time.outbound_us", own);
    span.set("isthmus.time.connect_us", connect);
}

/// What the app changes to: the span of a connection, below the request's, until both directions have ended.
pub(super) fn carried(outbound: &Outbound, hop: &Hop<'_>, protocol: &Protocol) -> ConnectionSpan {
    if !hop.trace.sampled {
        return ConnectionSpan::default();
    }
    let tracer = &outbound.needs.tracer;
    let span = ConnectionSpan::begin(tracer, &hop.trace.child(), (Kind::Client, "WebSocket"), tracer.now_ns());
    span.with(|span| {
        span.set("isthmus.hop", "outbound");
        span.set("network.transport", "tcp");
        span.set("network.protocol.name", protocol.as_str());
    });
    span
}

/// It is one: to whom, is known now.
pub(super) fn agreed(outbound: &Outbound, hop: &Hop<'_>, carried: &ConnectionSpan) {
    carried.with(|span| {
        span.set("server.address", hop.destination.ip());
        describe(outbound, hop, span);
    });
}

/// What was refused before it was a request.
pub(super) fn unread(outbound: &Outbound, destination: SocketAddr, reason: Reason) {
    let tracer = &outbound.needs.tracer;
    let root = tracer.root_at(outbound.ratio_of(destination));
    of_http::unread(tracer, &root, Kind::Client, reason, |span| {
        span.set("server.address", destination.ip());
        span.set("server.port", destination.port());
    });
}
