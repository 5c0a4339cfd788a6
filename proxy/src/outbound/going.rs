//! What goes on towards somebody without a sidecar: nobody but us can end it when policy changes. A connection, or one
//! request with its answer, is asked about again with each snapshot in which its EgressPolicies or its service are
//! others; a no ends it, and nothing else is disturbed.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

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

/// Resolves when it may not go on, which is counted and said then.
pub(super) async fn refused_later(outbound: Rc<Outbound>, going: Going) -> Reason {
    let mut published = outbound.needs.state.subscribe();
    let mut seen = outbound.needs.state.snapshot();
    while published.changed().await.is_ok() {
        let now = outbound.needs.state.snapshot();
        if let Some(reason) = refused(&outbound, &going, &seen, &now) {
            return reason;
        }
        seen = now;
    }
    std::future::pending().await
}

fn refused(outbound: &Rc<Outbound>, going: &Going, seen: &Snapshot, now: &Snapshot) -> Option<Reason> {
    let enforcement = seen.enforcement() != now.enforcement();
    if enforcement || !Arc::ptr_eq(seen.egress(), now.egress()) {
        let mut outside = going.outside.iter();
        let refused =
            outside.find_map(|to| egress::refused_now(outbound, now, *to, going.host.as_deref(), going.arrived));
        if refused.is_some() {
            return refused;
        }
    }
    let (before, service) = (seen.destination(going.destination), now.destination(going.destination));
    let (Destination::Service { service: old, .. }, Destination::Service { service, port }) = (before, service) else {
        // A service that is gone ends nothing: whoever it led to may still be well.
        return None;
    };
    if !enforcement && Arc::ptr_eq(&old, &service) {
        return None;
    }
    let (to, destination) = (Callee::Service(service), going.destination);
    let route = Route { mesh: now.clone(), to, port: Some(port), destination };
    let reason = check_plain(outbound, &route, going.tls).err()?;
    denied::say_transport(outbound, reason, &route, "the service's transport no longer takes this connection");
    Some(reason)
}
