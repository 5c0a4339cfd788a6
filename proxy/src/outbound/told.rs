//! What is told of a request that the app sent, once it has its answer: the counts of its edge, a line of the access log,
//! and whoever looks at what passes now.

use std::time::Duration;

use http::{Method, Response, Uri};

use super::Outbound;
use super::request::Hop;
use crate::http::body::Body;
use crate::http::internal::{DECISION, DENIED};
use crate::reason::Reason;
use crate::telemetry::{AccessEntry, Direction, EdgeOf, Passed, cut};

/// What was asked for, kept where somebody is to be told: the request itself is sent on.
pub(super) type Told = Option<(Method, Uri)>;

/// How it ended.
pub(super) struct Ended<'a> {
    pub(super) total: Duration,
    pub(super) response: &'a Response<Body>,
    pub(super) reason: Option<&'static str>,
}

impl Outbound {
    /// Whether anybody is told of requests, beside the counts.
    pub(super) fn tells(&self) -> bool {
        self.needs.tracer.tells() || self.needs.metrics.live().looks()
    }
}

/// Why the callee's sidecar refused it, where it did.
pub(super) fn word_of(response: &Response<Body>) -> Option<&'static str> {
    let denied = response.headers().get(DENIED)?.to_str().ok()?;
    Reason::ALL.iter().map(|reason| reason.word()).find(|word| *word == denied)
}

pub(super) fn tell(outbound: &Outbound, hop: &Hop<'_>, told: Told, ended: &Ended<'_>) {
    let site = hop.link.as_ref().and_then(|link| link.site.as_deref()).unwrap_or_default();
    if let Some(callee) = &hop.callee {
        let (namespace, name, port) = (callee.name.namespace(), callee.name.name(), hop.destination.port());
        let edge = EdgeOf { direction: Direction::Outbound, namespace, name, port, site };
        outbound.edges.request(edge, ended.response.status().as_u16(), ended.total);
    }
    let Some((method, uri)) = told else { return };
    log(outbound, hop, (&method, &uri), ended);
    if outbound.needs.metrics.live().looks() {
        show(outbound, hop, (&method, &uri), site, ended);
    }
}

fn log(outbound: &Outbound, hop: &Hop<'_>, (method, uri): (&Method, &Uri), ended: &Ended<'_>) {
    let link = hop.link.as_ref();
    outbound.needs.tracer.tell(&AccessEntry {
        direction: Direction::Outbound,
        http2: hop.http2,
        method,
        uri,
        status: ended.response.status().as_u16(),
        reason: ended.reason,
        decision: decision(ended.response),
        trace: hop.trace.sampled.then_some(hop.trace.trace_id),
        caller: None,
        peer: link.and_then(|link| link.peer.clone()),
        destination: hop.destination,
        total: ended.total,
        app: link.map(|link| Duration::from_micros(link.callee.app_us)),
        link: link.map(|link| link.elapsed),
    });
}

fn show(outbound: &Outbound, hop: &Hop<'_>, (method, uri): (&Method, &Uri), site: &str, ended: &Ended<'_>) {
    let (link, identity) = (hop.link.as_ref(), &outbound.needs.identity);
    let callee = hop.callee.as_ref().map(|callee| callee.name.to_string());
    outbound.needs.metrics.live().passed(&Passed {
        at_unix_ms: identity.clock().now_ms(),
        direction: Direction::Outbound.word().to_owned(),
        caller: identity.current().map(|own| own.id.to_string()).unwrap_or_default(),
        callee: callee.unwrap_or_else(|| hop.destination.ip().to_string()),
        port: hop.destination.port().into(),
        protocol: "http".to_owned(),
        method: method.to_string(),
        host: cut(uri.authority().map_or("", |authority| authority.as_str())),
        path: cut(uri.path()),
        status: ended.response.status().as_u16().into(),
        duration_us: micros(ended.total),
        link_us: link.map_or(0, |link| micros(link.elapsed)),
        app_us: link.map_or(0, |link| link.callee.app_us),
        reason: ended.reason.unwrap_or_default().to_owned(),
        decision: decision(ended.response).unwrap_or_default().to_owned(),
        trace_id: hop.trace.id_in_words(),
        site: site.to_owned(),
        transport: if link.is_some() { "mesh" } else { "plaintext" }.to_owned(),
        ..Passed::default()
    });
}

fn decision(response: &Response<Body>) -> Option<&str> {
    response.headers().get(DECISION).and_then(|id| id.to_str().ok())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
