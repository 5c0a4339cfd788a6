//! Where the service is: its name by its address, and its endpoint by its name.

use linkerd2_proxy_api::destination::destination_server::Destination;
use linkerd2_proxy_api::destination::protocol_hint::{H2, Opaque, OpaqueTransport, Protocol};
use linkerd2_proxy_api::destination::tls_identity::{DnsLikeIdentity, Strategy};
use linkerd2_proxy_api::destination::{
    DestinationProfile, GetDestination, ProtocolHint, RetryBudget, TlsIdentity, Update, WeightedAddr, WeightedAddrSet,
    update,
};
use tonic::{Request, Response, Status};

use super::control::{Control, Held, Mesh, held};
use super::policy::seconds;

/// The service's name in the cluster.
const NAME: &str = "app.bench.svc.cluster.local";
/// Of an endpoint among others; there are none.
const WEIGHT: u32 = 10_000;

impl Mesh {
    /// As the service is called where endpoints are asked for.
    pub(super) fn path(&self) -> String {
        format!("{NAME}:{}", self.service.port())
    }

    /// HTTP goes over HTTP/2 between the two whatever the app speaks; opaque bytes go to the proxy's own port, with
    /// a header that says where they are to go.
    fn endpoint(&self) -> WeightedAddr {
        let inbound_port = self.inbound_port.into();
        let hint = match self.opaque {
            false => ProtocolHint { protocol: Some(Protocol::H2(H2 {})), opaque_transport: None },
            true => ProtocolHint {
                protocol: Some(Protocol::Opaque(Opaque {})),
                opaque_transport: Some(OpaqueTransport { inbound_port }),
            },
        };
        let strategy = Strategy::DnsLikeIdentity(DnsLikeIdentity { name: self.callee.clone() });
        WeightedAddr {
            addr: Some(self.endpoint.into()),
            weight: WEIGHT,
            tls_identity: Some(TlsIdentity { strategy: Some(strategy), server_name: None }),
            protocol_hint: Some(hint),
            ..WeightedAddr::default()
        }
    }
}

#[tonic::async_trait]
impl Destination for Control {
    type GetStream = Held<Update>;
    type GetProfileStream = Held<DestinationProfile>;

    async fn get(&self, request: Request<GetDestination>) -> Result<Response<Self::GetStream>, Status> {
        self.mesh.knows(&request.into_inner().path)?;
        let addrs = vec![self.mesh.endpoint()];
        let add = update::Update::Add(WeightedAddrSet { addrs, ..WeightedAddrSet::default() });
        Ok(held(Update { update: Some(add) }))
    }

    async fn get_profile(&self, request: Request<GetDestination>) -> Result<Response<Self::GetProfileStream>, Status> {
        self.mesh.knows(&request.into_inner().path)?;
        let retry_budget = RetryBudget { retry_ratio: 0.2, min_retries_per_second: 10, ttl: Some(seconds(10)) };
        Ok(held(DestinationProfile {
            fully_qualified_name: NAME.to_owned(),
            opaque_protocol: self.mesh.opaque,
            retry_budget: Some(retry_budget),
            ..DestinationProfile::default()
        }))
    }
}

impl Mesh {
    /// By name or by address. To anything else a proxy gets an answer after which it does not ask again.
    fn knows(&self, path: &str) -> Result<(), Status> {
        match path == self.path() || path == self.service.to_string() {
            true => Ok(()),
            false => Err(Status::invalid_argument(format!("{path} is not {}", self.path()))),
        }
    }
}
