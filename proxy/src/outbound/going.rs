//! What goes on towards somebody without a sidecar: nobody but us can end it when policy changes. A connection, or one
//! request with its answer, is asked about again with each snapshot in which its EgressPolicies or its service are
//! others; a no ends it, and nothing else is disturbed.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::carried::Traced;
use super::connection::{Callee, Route};
use super::stream::check_plain;
use super::{Outbound, denied, egress};
use crate::detect::WireVersion;
use crate::reason::Reason;
use crate::state::policy::Arrived;
use crate::state::{Destination, Snapshot};

/// What was decided on.
#[derive(Debug, Clone)]
pub(super) struct Going {
    /// Where the app believes to be connected.
    pub(super) destination: SocketAddr,
    /// Those of the addresses that are outside of the mesh.
    pub(super) outside: Vec<SocketAddr>,
    pub(super) host: Option<String>,
    /// What leaves.
    pub(super) arrived: Arrived,
    /// The newest version of the app's own TLS towards a service's endpoint; `None`: plain bytes.
    pub(super) tls: Option<WireVersion>,
}

/// Resolves when it may not go on, which is counted and said then. The first look is at once: a policy may have come while
/// the other side was dialled.
pub(super) async fn refused_later(outbound: Rc<Outbound>, going: Going) -> Reason {
    let mut published = outbound.needs.state.subscribe();
    let mut seen: Option<Snapshot> = None;
    loop {
        let now = outbound.needs.state.snapshot();
        if let Some(reason) = refused(&outbound, &going, seen.as_ref(), &now) {
            return reason;
        }
        seen = Some(now);
        if published.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn refused(outbound: &Rc<Outbound>, going: &Going, seen: Option<&Snapshot>, now: &Snapshot) -> Option<Reason> {
    let same = seen.filter(|seen| seen.enforcement() == now.enforcement());
    if !same.is_some_and(|seen| Arc::ptr_eq(seen.egress(), now.egress())) {
        let mut outside = going.outside.iter();
        let host = going.host.as_deref();
        let refused = outside.find_map(|to| egress::refused_now(outbound, now, *to, host, going.arrived));
        if refused.is_some() {
            return refused;
        }
    }
    // A service that is gone ends nothing: whoever it led to may still be well.
    let Destination::Service { service, port } = now.destination(going.destination) else { return None };
    if let Some(Destination::Service { service: before, .. }) = same.map(|seen| seen.destination(going.destination))
        && Arc::ptr_eq(&before, &service)
    {
        return None;
    }
    let (to, destination) = (Callee::Service(service), going.destination);
    let route = Route { mesh: now.clone(), to, port: Some(port), destination, traced: Traced::new() };
    let reason = check_plain(outbound, &route, going.tls).err()?;
    denied::say_transport(outbound, reason, &route, "the service's transport no longer takes this connection");
    Some(reason)
}
