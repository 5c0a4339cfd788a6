//! What is known of one request of the app while it is on its way, and of the way that it took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::ext::Protocol;

use super::Outbound;
use super::pin::Pin;
use crate::http::Caller;
use crate::http::internal::Elapsed;
use crate::state::{Endpoint, Service};
use crate::telemetry::{B3Headers, KeptTrace, KnownEdge, TraceContext};

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
    pub(super) link: Option<Link>,
    /// The callee's sidecar has kept its spans of it.
    pub(super) kept: Option<KeptTrace>,
    /// The callee's app reset the stream: a caller in HTTP/2 gets the same.
    pub(super) reset: Option<h2::Reason>,
    /// Of a refusal that has an id.
    pub(super) decision: Option<String>,
}

impl<'a> Hop<'a> {
    pub(super) fn new(
        outbound: &Outbound,
        destination: SocketAddr,
        caller: Caller<'a>,
        trace: TraceContext,
    ) -> Hop<'a> {
        let (callee, edge, pin, upgrade, link, kept, reset, decision) =
            (None, None, None, None, None, None, None, None);
        let (number, tries, http2, absolute, b3) = (outbound.next_request(), 0, false, false, None);
        Hop {
            destination,
            callee,
            edge,
            http2,
            pin,
            absolute,
            upgrade,
            caller,
            trace,
            b3,
            number,
            tries,
            link,
            kept,
            reset,
            decision,
        }
    }
}

/// How long the way between the two sidecars took, and which it was.
pub(super) struct Link {
    /// Without what the callee took.
    pub(super) elapsed: Duration,
    /// Until there was a connection.
    pub(super) connect: Duration,
    pub(super) callee: Elapsed,
    pub(super) endpoint: Arc<Endpoint>,
}

impl Link {
    pub(super) fn site(&self) -> Option<&str> {
        self.endpoint.site.as_ref().map(|site| site.as_str())
    }

    pub(super) fn peer(&self) -> Option<String> {
        self.endpoint.mesh.as_ref()?.identities.first().map(ToString::to_string)
    }
}
