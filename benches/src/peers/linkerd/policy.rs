//! What may come in, and how what goes out is carried.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use linkerd2_proxy_api::http_route::{HttpRouteMatch, PathMatch, path_match};
use linkerd2_proxy_api::inbound::authn::permit_mesh_tls::{Clients, PermitClientIdentities};
use linkerd2_proxy_api::inbound::authn::{Permit, PermitMeshTls};
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPolicies;
use linkerd2_proxy_api::inbound::{self, Authn, Authz, Identity, Network, PortSpec};
use linkerd2_proxy_api::meta::{Metadata, Resource, metadata};
use linkerd2_proxy_api::net::TcpAddress;
use linkerd2_proxy_api::outbound::backend::balance_p2c::{Load, PeakEwma};
use linkerd2_proxy_api::outbound::backend::endpoint_discovery::{self, DestinationGet};
use linkerd2_proxy_api::outbound::backend::{self, BalanceP2c, EndpointDiscovery};
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPolicies;
use linkerd2_proxy_api::outbound::traffic_spec::Target;
use linkerd2_proxy_api::outbound::{
    self, Backend, HttpRoute, OpaqueRoute, OutboundPolicy, Queue, TrafficSpec, http_route, opaque_route,
};
use prost_types::Duration;
use tonic::{Request, Response, Status};

use super::control::{Control, Held, Mesh, held};

/// How long a proxy looks for a protocol that it knows: Linkerd's default.
const DETECT: i64 = 10;

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

#[tonic::async_trait]
impl InboundServerPolicies for Control {
    type WatchPortStream = Held<inbound::Server>;

    async fn get_port(&self, request: Request<PortSpec>) -> Result<Response<inbound::Server>, Status> {
        Ok(Response::new(self.mesh.server(request.into_inner().port)))
    }

    async fn watch_port(&self, request: Request<PortSpec>) -> Result<Response<Self::WatchPortStream>, Status> {
        Ok(held(self.mesh.server(request.into_inner().port)))
    }
}

#[tonic::async_trait]
impl OutboundPolicies for Control {
    type WatchStream = Held<OutboundPolicy>;

    async fn get(&self, request: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        Ok(Response::new(self.mesh.outbound(request.into_inner().target)?))
    }

    async fn watch(&self, request: Request<TrafficSpec>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(held(self.mesh.outbound(request.into_inner().target)?))
    }
}

impl Mesh {
    /// The same for every port, but for the protocol: the one caller, by its certificate. Without this a proxy would
    /// serve plaintext, and TLS from anyone.
    fn server(&self, port: u32) -> inbound::Server {
        use inbound::proxy_protocol::{Detect, Kind, Opaque};
        let kind = match self.opaque && port == u32::from(self.endpoint.port()) {
            true => Kind::Opaque(Opaque {}),
            false => Kind::Detect(Detect { timeout: Some(seconds(DETECT)), ..Detect::default() }),
        };
        let identities = vec![Identity { name: self.caller.clone() }];
        let clients = Clients::Identities(PermitClientIdentities { identities, suffixes: Vec::new() });
        let permit = Permit::MeshTls(PermitMeshTls { clients: Some(clients) });
        let everywhere = Network { net: Some((Ipv4Addr::UNSPECIFIED, 0).into()), except: Vec::new() };
        let authz = Authz {
            networks: vec![everywhere],
            authentication: Some(Authn { permit: Some(permit) }),
            labels: HashMap::new(),
            metadata: Some(resource("policy.linkerd.io", "authorizationpolicy", 0)),
        };
        let labels = [("group", "policy.linkerd.io"), ("kind", "server"), ("name", "app")];
        inbound::Server {
            protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
            authorizations: vec![authz],
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            server_ips: Vec::new(),
        }
    }

    /// For the service: found out by looking, or opaque where its port is annotated so. For nothing else.
    fn outbound(&self, target: Option<Target>) -> Result<OutboundPolicy, Status> {
        use outbound::proxy_protocol::{Detect, Http1, Http2, Kind, Opaque};
        let known = match target {
            Some(Target::Addr(address)) => address == TcpAddress::from(self.service),
            Some(Target::Authority(path)) => path == self.path(),
            None => return Err(Status::invalid_argument("traffic to where?")),
        };
        if !known {
            return Err(Status::not_found("there is one service only"));
        }
        let opaque = Opaque { routes: vec![self.opaque_route()] };
        let routes = || vec![self.http_route()];
        let kind = match self.opaque {
            true => Kind::Opaque(opaque),
            false => Kind::Detect(Detect {
                timeout: Some(seconds(DETECT)),
                opaque: Some(opaque),
                http1: Some(Http1 { routes: routes(), failure_accrual: None }),
                http2: Some(Http2 { routes: routes(), failure_accrual: None }),
            }),
        };
        let metadata = Some(resource("core", "Service", self.service.port()));
        Ok(OutboundPolicy { protocol: Some(outbound::ProxyProtocol { kind: Some(kind) }), metadata })
    }

    fn http_route(&self) -> HttpRoute {
        use http_route::distribution::{FirstAvailable, Kind};
        let all = PathMatch { kind: Some(path_match::Kind::Prefix("/".to_owned())) };
        let backend = http_route::RouteBackend { backend: Some(self.backend()), ..http_route::RouteBackend::default() };
        let first = Kind::FirstAvailable(FirstAvailable { backends: vec![backend] });
        let rule = http_route::Rule {
            matches: vec![HttpRouteMatch { path: Some(all), ..HttpRouteMatch::default() }],
            backends: Some(http_route::Distribution { kind: Some(first) }),
            ..http_route::Rule::default()
        };
        HttpRoute { metadata: Some(default_route()), hosts: Vec::new(), rules: vec![rule] }
    }

    fn opaque_route(&self) -> OpaqueRoute {
        use opaque_route::distribution::{FirstAvailable, Kind};
        let backend = opaque_route::RouteBackend { backend: Some(self.backend()), filters: Vec::new() };
        let first = Kind::FirstAvailable(FirstAvailable { backends: vec![backend] });
        let backends = Some(opaque_route::Distribution { kind: Some(first) });
        let rules = vec![opaque_route::Rule { backends, filters: Vec::new() }];
        OpaqueRoute { metadata: Some(default_route()), rules }
    }

    /// The service's endpoints, balanced; queue and load as Linkerd's control plane sends them.
    fn backend(&self) -> Backend {
        let path = DestinationGet { path: self.path() };
        let discovery = EndpointDiscovery { kind: Some(endpoint_discovery::Kind::Dst(path)) };
        let default_rtt = Some(Duration { seconds: 0, nanos: 30_000_000 });
        let load = Some(Load::PeakEwma(PeakEwma { default_rtt, decay: Some(seconds(10)) }));
        Backend {
            metadata: Some(resource("core", "Service", self.service.port())),
            queue: Some(Queue { capacity: 100, failfast_timeout: Some(seconds(3)) }),
            kind: Some(backend::Kind::Balancer(BalanceP2c { discovery: Some(discovery), load })),
        }
    }
}

fn resource(group: &str, kind: &str, port: u16) -> Metadata {
    let (name, namespace) = ("app".to_owned(), "bench".to_owned());
    let (group, kind, section) = (group.to_owned(), kind.to_owned(), String::new());
    Metadata {
        kind: Some(metadata::Kind::Resource(Resource { group, kind, name, namespace, section, port: port.into() })),
    }
}

fn default_route() -> Metadata {
    Metadata { kind: Some(metadata::Kind::Default("http".to_owned())) }
}
