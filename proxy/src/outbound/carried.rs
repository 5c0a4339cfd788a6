//! The span of a connection of the app whose bytes we do not read: opaque TCP, TLS of its own, what leaves the mesh. One
//! that nobody had decided to record is told of at its end, if it was denied or failed.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::time::Instant;

use super::Outbound;
use super::connection::{Callee, Route};
use super::spans::where_to;
use crate::reason::Reason;
use crate::state::Endpoint;
use crate::telemetry::{ConnectionSpan, Fate, Kind, Shown, TraceContext};

/// Of one connection of the app: when it came, and its span once somebody asked for it.
pub(super) struct Traced {
    began: Instant,
    span: OnceCell<ConnectionSpan>,
}

impl Traced {
    pub(super) fn new() -> Traced {
        Traced { began: Instant::now(), span: OnceCell::new() }
    }
}

impl Route {
    /// Begins with the first tunnel: an app that speaks HTTP has a span per request instead.
    pub(super) fn span(&self, outbound: &Outbound) -> &ConnectionSpan {
        self.traced.span.get_or_init(|| {
            let ratio = self.port.as_ref().and_then(|port| port.options.sampling_millionths);
            let context = outbound.needs.tracer.root_at(ratio);
            let span = begin(outbound, &context, self.destination, self.traced.began);
            span.with(|span| match &self.to {
                Callee::Service(service) => {
                    span.set("isthmus.route", (service.name.as_str(), self.destination.port()));
                }
                Callee::Workload(_) => span.set("isthmus.route", Shown(self.destination)),
            });
            span
        })
    }

    /// It turned out to be requests.
    pub(super) fn is_no_connection(&self) {
        if let Some(span) = self.traced.span.get() {
            span.discard();
        }
    }

    /// It was refused, or nobody was reached.
    pub(super) fn refused(&self, outbound: &Outbound, reason: Reason, decision: Option<&str>) {
        let span = self.span(outbound);
        if span.is_sampled() {
            return span.refused(reason, decision);
        }
        refused(outbound, self.destination, self.traced.began, (reason, decision));
    }
}

/// Outside of the mesh, or past it.
pub(super) fn outside(outbound: &Outbound, destination: SocketAddr, host: Option<&str>) -> ConnectionSpan {
    let span = begin(outbound, &outbound.needs.tracer.root(), destination, Instant::now());
    span.with(|span| span.set_some("tls.client.server_name", host));
    span
}

/// A no to a connection that is not recorded: told all the same, where what is denied or failed is kept.
pub(super) fn refused(
    outbound: &Outbound,
    destination: SocketAddr,
    began: Instant,
    (reason, decision): (Reason, Option<&str>),
) {
    let Some(why) = outbound.needs.tracer.keeps(Fate { reason: Some(reason), ..Fate::default() }) else { return };
    let span = begin(outbound, &TraceContext::root(true), destination, began);
    span.with(|span| span.set("isthmus.kept", why));
    span.refused(reason, decision);
}

fn begin(outbound: &Outbound, context: &TraceContext, to: SocketAddr, began: Instant) -> ConnectionSpan {
    let tracer = &outbound.needs.tracer;
    let start = if context.sampled { tracer.at_ns(began) } else { 0 };
    let span = ConnectionSpan::begin(tracer, context, (Kind::Client, "TCP"), start);
    span.with(|span| {
        span.set("isthmus.hop", "outbound");
        span.set("network.transport", "tcp");
        span.set("network.type", if to.is_ipv4() { "ipv4" } else { "ipv6" });
        span.set("server.address", to.ip());
        span.set("server.port", to.port());
    });
    span
}

/// To whom it was connected in the end.
pub(super) fn reached(outbound: &Outbound, span: &ConnectionSpan, endpoint: &Endpoint) {
    span.with(|span| {
        span.set("network.peer.address", endpoint.ip);
        span.set_some("network.peer.port", endpoint.mesh.as_ref().map(|peer| peer.port));
        where_to(&outbound.needs.state.snapshot(), endpoint, &mut span.attributes);
    });
}
