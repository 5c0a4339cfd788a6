//! What is known of one request of the app while it is on its way, and of the way that it took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::ext::Protocol;

use super::Outbound;
use super::egress::Denied;
use super::pin::Pin;
use super::tries::Try;
use crate::http::Caller;
use crate::http::internal::Elapsed;
use crate::state::{Endpoint, Service};
use crate::telemetry::{B3Headers, KnownEdge, SpanId, TraceContext};

/// What is known of a request on its way.
pub(super) struct Hop<'a> {
    pub(super) destination: SocketAddr,
    /// The service that it turned out to be for.
    pub(super) callee: Option<Arc<Service>>,
    /// Once a sidecar has answered: the callee there.
    pub(super) edge: Option<KnownEdge>,
    pub(super) http2: bool,
    /// Set where the app's connection is tied to one of the callee's.
    pub(super) pin: Option<&'a Pin>,
    /// The request line names the whole URI: the app believes that it speaks to a proxy.
    pub(super) absolute: bool,
    /// What the app wants to change to.
    pub(super) upgrade: Option<Protocol>,
    pub(super) caller: Caller<'a>,
    pub(super) trace: TraceContext,
    /// How the service wants B3 written, where nobody else writes it.
    pub(super) b3: Option<B3Headers>,
    /// Of this worker's requests.
    pub(super) number: u64,
    /// Those that were made so far.
    pub(super) tries: u8,
    /// The one that is made, or was the last.
    pub(super) tried: Option<Try>,
    /// The span of the one that is made, where it is recorded.
    pub(super) way: Option<SpanId>,
    /// The callee's sidecar has kept its spans of it.
    pub(super) kept: bool,
    /// What followed the answer was another protocol than HTTP.
    pub(super) changed: bool,
    /// The callee's app reset the stream: a caller in HTTP/2 gets the same.
    pub(super) reset: Option<h2::Reason>,
    /// Of a refusal that has an id.
    pub(super) decision: Option<String>,
    /// It leaves the mesh, and would not where policy is enforced.
    pub(super) noted: Option<Denied>,
}

impl<'a> Hop<'a> {
    pub(super) fn new(
        outbound: &Outbound,
        destination: SocketAddr,
        caller: Caller<'a>,
        trace: TraceContext,
    ) -> Hop<'a> {
        Hop {
            destination,
            callee: None,
            edge: None,
            http2: false,
            pin: None,
            absolute: false,
            upgrade: None,
            caller,
            trace,
            b3: None,
            number: outbound.next_request(),
            tries: 0,
            tried: None,
            way: None,
            kept: false,
            changed: false,
            reset: None,
            decision: None,
            noted: None,
        }
    }

    /// What is known of it, once it has the head of its answer and nobody is asked any more.
    pub(super) fn outlive(&mut self) -> Hop<'static> {
        Hop {
            destination: self.destination,
            callee: self.callee.take(),
            edge: None,
            http2: self.http2,
            pin: None,
            absolute: self.absolute,
            upgrade: None,
            caller: Caller::Http1(None),
            trace: self.trace.clone(),
            b3: self.b3,
            number: self.number,
            tries: self.tries,
            tried: self.tried.take(),
            way: None,
            kept: self.kept,
            changed: self.changed,
            reset: self.reset,
            decision: None,
            noted: self.noted.take(),
        }
    }

    /// Says more of the try that is made.
    pub(super) fn note(&mut self, what: impl FnOnce(&mut Try)) {
        if let Some(tried) = &mut self.tried {
            what(tried);
        }
    }

    /// The way to the callee's sidecar, where that has said how long it took.
    pub(super) fn link(&self) -> Option<(&Arc<Endpoint>, Link)> {
        let tried = self.tried.as_ref()?;
        Some((&tried.endpoint, tried.link?))
    }
}

/// How long the way between the two sidecars took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// Without what the callee took.
    pub(super) elapsed: Duration,
    pub(super) callee: Elapsed,
}
