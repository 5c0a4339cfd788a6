//! Probes of the platform: a kubelet or a load balancer has no sidecar and no identity, and asks in plain whether the app
//! lives. Who the platform is, the mesh's owner says; what it may ask of which port, the service's. One exact path with
//! GET or HEAD, gRPC's health service, or a connection on which nothing is said: more is not served past the policy.
//!
//! Nothing of it is counted as a flow: a report of who still speaks plaintext is not about the platform.

use std::net::IpAddr;

use isthmus_proto::model::{Probe, Probing};

use super::authorize::Question;
use crate::http::respond::is_grpc;
use crate::state::InboundPort;
use crate::state::policy::{Arrived, HttpFacts};

/// <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Whether this is a request that the port serves to the platform.
pub(super) fn is_request(question: &Question<'_>) -> bool {
    let (Some(http), true) = (&question.http, question.may_probe) else { return false };
    let plain = question.caller.peer.is_none() && question.caller.arrived == Arrived::Plain;
    plain && serves(question.port, question.caller.address, http)
}

/// Whether a plain request from this address is one that the port serves to the platform.
pub fn serves(port: &InboundPort, from: IpAddr, http: &HttpFacts<'_>) -> bool {
    let asks = |probe: &Probe| match &probe.what {
        // As it came, byte by byte: no other way to write it is the same.
        Probing::Path(path) => matches!(http.method, "GET" | "HEAD") && http.path == path,
        Probing::Grpc => http.method == "POST" && http.path == GRPC_HEALTH && is_grpc(http.headers),
        Probing::Connect => false,
    };
    port.probes.iter().any(|probe| comes_from(probe, from) && asks(probe))
}

/// Whether a connection from there is one of the platform's, as long as it says nothing.
pub fn may_connect(port: &InboundPort, from: IpAddr) -> bool {
    port.probes.iter().any(|probe| probe.what == Probing::Connect && comes_from(probe, from))
}

fn comes_from(probe: &Probe, address: IpAddr) -> bool {
    let address = address.to_canonical();
    probe.cidrs.iter().any(|range| range.contains(&address))
}
