//! The resources as types: what a document says once it has been read without a fault.
//!
//! Values here are valid one by one; that they fit together is checked by [`super::cross`].

use super::problem::ResourceRef;
use ipnet::IpNet;
use isthmus_certs::{CryptoProfile, TrustBundle};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Transport and TlsVersion are ordered by strictness: the greater is the stricter.
pub use isthmus_proto::model::{AppProtocol, TlsVersion, Transport};
pub use isthmus_proto::model::{
    B3Headers, Connect, HeaderNames, HealthCheck, KeepSpans, MAX_REQUEST_TIMEOUT, MILLION, Probing, ProxyProtocol,
    SourceAddress,
};

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub key: ResourceRef,
    pub labels: Labels,
    pub spec: Spec,
    /// As stored and shown: what the author wrote, without comments, `status` and what Kubernetes fills in.
    pub json: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    MeshConfig(MeshConfig),
    Site(Site),
    Link(Link),
    Workload(Workload),
    Service(Service),
    Endpoints(Endpoints),
    ServicePolicy(ServicePolicy),
    TrafficPolicy(TrafficPolicy),
    TrustDomain(TrustDomain),
    EgressPolicy(EgressPolicy),
    Enforcement(Enforcement),
    Bypass(Bypass),
    OperatorRole(OperatorRole),
    Tenant(Tenant),
}

#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    pub trust_domain: Option<String>,
    pub enforce: bool,
    pub leaf_lifetime: Duration,
    /// How long a stream may go on after its peer's certificate has ended.
    pub max_stream_age: Duration,
    /// Whether leaves carry the names of their workload's services.
    pub service_names: bool,
    /// Below which domains a Workload may have DNS names of its own in its leaf.
    pub leaf_suffixes: Vec<String>,
    pub crypto_profile: CryptoProfile,
    pub vip_ranges: Vec<IpNet>,
    pub dns_suffixes: Vec<String>,
    pub defaults: Defaults,
    pub floor: Floor,
    pub egress: EgressDefaults,
    /// Where probes of the platform come from.
    pub probe_sources: Vec<IpNet>,
    pub otlp: String,
    pub sampling: f64,
    /// What is recorded whatever `sampling` is.
    pub keep: KeepSpans,
    /// How often proxies push their counters to the same place.
    pub metrics_every: Option<Duration>,
    pub flows: Kept,
}

/// What is kept of the proxies' decisions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    pub keep: Duration,
    pub max_records: u64,
    pub max_bytes: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { keep: Duration::from_secs(35 * 86_400), max_records: 1_000_000, max_bytes: 512 << 20 }
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        MeshConfig {
            trust_domain: None,
            enforce: false,
            leaf_lifetime: Duration::from_secs(24 * 3600),
            max_stream_age: Duration::from_secs(24 * 3600),
            service_names: false,
            leaf_suffixes: Vec::new(),
            crypto_profile: CryptoProfile::Default,
            vip_ranges: Vec::new(),
            dns_suffixes: vec!["svc.cluster.local".to_string()],
            defaults: Defaults::default(),
            floor: Floor::default(),
            egress: EgressDefaults::default(),
            // Azure's load balancers, in every virtual network; no packet of anybody else's can come from it there.
            probe_sources: vec![IpNet::from(IpAddr::from([168, 63, 129, 16]))],
            otlp: String::new(),
            sampling: 1.0,
            keep: KeepSpans { errors: true, denied: true, slower_than: None },
            metrics_every: None,
            flows: Kept::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    pub transport: Transport,
    pub min_tls: TlsVersion,
    pub allow: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults { transport: Transport::MeshOnly, min_tls: TlsVersion::V1_2, allow: true }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Floor {
    pub transport: Option<Transport>,
    pub min_tls: Option<TlsVersion>,
    pub egress: Option<Transport>,
}

/// What holds for traffic that leaves the mesh where no EgressPolicy says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EgressDefaults {
    pub allow: bool,
    pub transport: Transport,
    pub min_tls: TlsVersion,
}

impl Default for EgressDefaults {
    fn default() -> Self {
        EgressDefaults { allow: true, transport: Transport::Permissive, min_tls: TlsVersion::V1_2 }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub ranges: Vec<IpNet>,
    pub resolvers: Vec<IpAddr>,
    /// What elsewhere sees in place of its own addresses: NAT, or what forwards connections.
    pub seen_as: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub sites: [String; 2],
}

#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub site: String,
    pub addresses: Vec<IpAddr>,
    pub service_account: String,
    /// Of another mesh: it is called here and lives there. None: ours.
    pub trust_domain: Option<String>,
    /// What its leaf carries beside its identity.
    pub dns_names: Vec<String>,
}

/// Another mesh whose identities are believed.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustDomain {
    /// None: what was written is none, and that has been said.
    pub name: Option<isthmus_certs::TrustDomain>,
    pub bundle: TrustBundle,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Empty: its endpoints are written by hand.
    pub selector: Labels,
    pub ports: Vec<ServicePort>,
    pub vips: Vec<IpAddr>,
    /// `clusterIP: None`: reached by the addresses of its endpoints, never given a VIP.
    pub headless: bool,
    /// `type: ExternalName`: it is wherever this name leads, outside of the mesh.
    pub external_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    pub port: u16,
    pub name: String,
    pub protocol: AppProtocol,
    /// By the protocol's hint; a TrafficPolicy may say otherwise.
    pub connect: Connect,
    pub target: TargetPort,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TargetPort {
    Number(u16),
    /// Of a port of the endpoints (Endpoints and EndpointSlice name theirs; Workloads have no named ports).
    Name(String),
}

/// `Endpoints` and `EndpointSlice` alike: addresses without a sidecar, written by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    pub service: String,
    pub subsets: Vec<Subset>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EndpointPort {
    pub name: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServicePolicy {
    pub services: Vec<String>,
    pub workloads: Option<Labels>,
    pub transport: Option<Transport>,
    pub min_tls: Option<TlsVersion>,
    pub audit: bool,
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
    pub probes: Vec<Probe>,
    /// `host` or `host:port`.
    pub https_redirect: Option<String>,
}

/// What the platform may ask of a port in plain. Who the platform is, MeshConfig says.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub port: u16,
    pub what: Probing,
}

/// How the connections of services are carried. What is left out is for a less specific policy, or the default, to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    /// Empty: the whole namespace.
    pub services: Vec<String>,
    pub connect: Option<Connect>,
    pub source_address: Option<SourceAddress>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub header_names: Option<HeaderNames>,
    /// TLS that the callers' proxies begin towards endpoints without sidecar.
    pub tls: Option<TlsOrigination>,
    pub request_timeout: Option<Duration>,
    /// How endpoints without sidecar are probed by whoever uses them.
    pub health_check: Option<HealthCheck>,
    pub sampling_millionths: Option<u32>,
    pub b3: Option<B3Headers>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TlsOrigination {
    /// `None`: the Service's `externalName`.
    pub server_name: Option<String>,
    /// DER. Empty: the roots of the caller's host.
    pub roots_der: Vec<Vec<u8>>,
    /// Certificate and key: files on the caller's host.
    pub client: Option<(String, String)>,
}

/// Where the workloads of a namespace may go outside of the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressPolicy {
    /// `None`: the whole namespace.
    pub workloads: Option<Labels>,
    pub audit: bool,
    pub default_allow: Option<bool>,
    pub transport: Option<Transport>,
    pub min_tls: Option<TlsVersion>,
    pub allow: Vec<EgressRule>,
    pub deny: Vec<EgressRule>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct EgressRule {
    pub hosts: Option<Vec<String>>,
    pub cidrs: Option<Vec<IpNet>>,
    pub ports: Option<Vec<u16>>,
    /// `None`: the policy's.
    pub transport: Option<Transport>,
    pub min_tls: Option<TlsVersion>,
}

/// Whether the refusals of services are carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Enforcement {
    /// Empty: the whole namespace.
    pub services: Vec<String>,
    pub enforce: bool,
}

/// Break-glass. Written by `isthmus bypass`, never by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Bypass {
    /// Empty: the whole namespace.
    pub services: Vec<String>,
    pub until_unix_ms: i64,
    pub operator: String,
    pub reason: String,
}

/// What some operators may do.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorRole {
    pub role: Role,
    /// With `tenants` empty as well: the whole mesh.
    pub namespaces: Vec<String>,
    /// All namespaces of these, whichever that are at the time.
    pub tenants: Vec<String>,
    pub operators: Vec<String>,
    pub groups: Vec<String>,
}

/// Namespaces that see and route to each other's services, and to nobody else's.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    pub namespaces: Vec<String>,
    /// What is here, all tenants see.
    pub shared: bool,
    /// Callers without an identity, who could be anybody's, are left to its policies.
    pub plain_callers: bool,
}

/// Each holds what the one before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Viewer,
    PolicyEditor,
    Admin,
}

/// What is asked for and holds, what is asked for under `not…` and does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    pub asked: Conditions,
    pub not: Conditions,
    /// Unix time in milliseconds: from then on there is no such rule.
    pub until_ms: Option<i64>,
    /// This rule alone reports and does nothing; so does each rule of a policy in Audit.
    pub audit: bool,
}

/// All that are present must hold; inside one, any of its values. As written: [`crate::index::compile_rule`] reads them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    pub identities: Option<Vec<String>>,
    pub trust_domains: Option<Vec<String>>,
    pub namespaces: Option<Vec<String>>,
    pub service_accounts: Option<Vec<String>>,
    pub sites: Option<Vec<String>>,
    pub cidrs: Option<Vec<IpNet>>,
    pub ports: Option<Vec<u16>>,
    pub hosts: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub paths: Option<Vec<String>>,
    /// `package.Service`, or `package.Service/Method`.
    pub grpc: Option<Vec<String>>,
    pub headers: Vec<HeaderRule>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeaderRule {
    pub name: String,
    pub values: Vec<String>,
}

/// Whether labels carry everything that a selector asks for.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}
