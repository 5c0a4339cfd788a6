//! What others may do with the proxy's own workload.

use std::net::IpAddr;

use ipnet::IpNet;
use isthmus_certs::SpiffeId;

use super::error::{NOT_UNDERSTOOD, bounded, each, parse, port, requires, unknown_value};
use super::{AppProtocol, Enforcement, MAX_LIST, MAX_RULES, ModelError, Rule, ServiceName, TlsVersion, TrafficOptions};
use super::{SiteName, WorkloadName};
use super::{Transport, Understood};
use crate::discovery::v1 as wire;

#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    pub workload: WorkloadName,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<InboundPort>,
    /// For ports that no service declares.
    pub default_policy: Understood<PortPolicy>,
    pub default_standing: Standing,
    /// Who is behind what other sites are seen as.
    pub registered: Vec<Registered>,
}

/// The own addresses of an identity's workloads in one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub identity: SpiffeId,
    pub site: SiteName,
    pub addresses: Vec<IpAddr>,
}

/// Whether refusals are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// `None`: as the mesh says.
    pub enforcement: Option<Enforcement>,
    /// Unix time in milliseconds; until then everything passes and is recorded.
    pub bypass_until_ms: Option<i64>,
}

impl Standing {
    /// Whether a refusal is carried out now. `mesh`: what holds where nothing more specific is said.
    pub fn is_enforced(&self, mesh: Enforcement, now_ms: impl FnOnce() -> i64) -> bool {
        self.enforcement.unwrap_or(mesh) == Enforcement::Enforce
            && self.bypass_until_ms.is_none_or(|until| now_ms() >= until)
    }

    /// A value from the future is an error: the port is then not understood.
    pub(super) fn read(message: Option<wire::Standing>) -> Result<Self, ModelError> {
        let Some(s) = message else { return Ok(Self::default()) };
        let enforcement = match wire::Enforcement::try_from(s.enforcement) {
            Ok(wire::Enforcement::Unspecified) => None,
            Ok(wire::Enforcement::Observe) => Some(Enforcement::Observe),
            Ok(wire::Enforcement::Enforce) => Some(Enforcement::Enforce),
            Err(_) => return Err(unknown_value("standing.enforcement", s.enforcement)),
        };
        let bypass_until_ms = (s.bypass_until_unix_ms > 0).then_some(s.bypass_until_unix_ms);
        Ok(Self { enforcement, bypass_until_ms })
    }

    /// Nothing at all where nothing is said.
    pub fn write(self) -> Option<wire::Standing> {
        let enforcement = self.enforcement.map_or(wire::Enforcement::Unspecified, Into::into);
        let bypass_until_unix_ms = self.bypass_until_ms.unwrap_or(0);
        (self != Self::default()).then(|| wire::Standing { enforcement: enforcement.into(), bypass_until_unix_ms })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct InboundPort {
    /// The app's port.
    pub port: u16,
    pub protocol: AppProtocol,
    pub services: Vec<ServiceName>,
    /// Not understood: everything to this port is refused.
    pub policy: Understood<PortPolicy>,
    pub options: TrafficOptions,
    pub standing: Standing,
    pub probes: Vec<Probe>,
    /// The authority that plain GET and HEAD are sent to where transport refuses them.
    pub https_redirect: Option<String>,
}

/// What the platform may ask in plain, past the port's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub cidrs: Vec<IpNet>,
    pub what: Probing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probing {
    /// GET or HEAD of exactly this path.
    Path(String),
    /// gRPC's health service.
    Grpc,
    /// A connection on which nothing is said.
    Connect,
}

/// `host` or `host:port`, for a Location header.
fn is_authority(text: &str) -> bool {
    (1..=260).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
}

impl Probe {
    /// `None`: one that this build cannot read, which is one that it does not serve.
    fn read(message: wire::Probe) -> Option<Self> {
        let cidrs: Option<Vec<IpNet>> = message.cidrs.iter().map(|range| range.parse().ok()).collect();
        let what = match message.what? {
            wire::probe::What::Path(path) if path.starts_with('/') => Probing::Path(path),
            wire::probe::What::Grpc(true) => Probing::Grpc,
            wire::probe::What::Connect(true) => Probing::Connect,
            _ => return None,
        };
        cidrs.map(|cidrs| Self { cidrs, what })
    }
}

impl From<Probe> for wire::Probe {
    fn from(p: Probe) -> Self {
        let what = match p.what {
            Probing::Path(path) => wire::probe::What::Path(path),
            Probing::Grpc => wire::probe::What::Grpc(true),
            Probing::Connect => wire::probe::What::Connect(true),
        };
        Self { cidrs: p.cidrs.iter().map(ToString::to_string).collect(), what: Some(what) }
    }
}

/// Precedence: a deny wins; then an allow; then the default.
#[derive(Debug, Clone, PartialEq)]
pub struct PortPolicy {
    pub transport: Transport,
    pub min_tls_version: TlsVersion,
    pub deny: Vec<Rule>,
    pub allow: Vec<Rule>,
    pub default_action: Action,
    /// The policy that sets the default; `None`: the mesh's own.
    pub default_from: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

impl Inbound {
    /// Every piece that could not be read.
    pub fn problems(&self) -> impl Iterator<Item = ModelError> {
        let default = [("default_policy".to_owned(), &self.default_policy)];
        let ports = self.ports.iter().map(|p| (format!("port {}", p.port), &p.policy));
        default.into_iter().chain(ports).flat_map(|(at, policy)| {
            let found: Vec<_> = match policy {
                Ok(policy) => policy.problems().map(|e| e.within(&at)).collect(),
                Err(e) => vec![e.clone().within(&at)],
            };
            found
        })
    }
}

impl PortPolicy {
    fn problems(&self) -> impl Iterator<Item = ModelError> {
        let of = |list: &'static str, rules: &'_ [Rule]| -> Vec<ModelError> {
            let problem = |r: &Rule| r.conditions.as_ref().err().map(|e| e.clone().within(format!("{list} {r}")));
            rules.iter().filter_map(problem).collect()
        };
        of("deny", &self.deny).into_iter().chain(of("allow", &self.allow))
    }
}

impl TryFrom<wire::Inbound> for Inbound {
    type Error = ModelError;

    fn try_from(i: wire::Inbound) -> Result<Self, ModelError> {
        bounded("ports", &i.ports, MAX_LIST)?;
        let mut ports: Vec<InboundPort> = Vec::with_capacity(i.ports.len());
        for (n, message) in i.ports.into_iter().enumerate() {
            let read = InboundPort::try_from(message).map_err(|e| e.within(format!("ports[{n}]")))?;
            if ports.iter().any(|known| known.port == read.port) {
                return Err(ModelError::new(format!("ports[{n}].port"), format!("{} is declared twice", read.port)));
            }
            ports.push(read);
        }
        let standing = Standing::read(i.default_standing);
        Ok(Self {
            workload: i.workload.parse().map_err(|e| ModelError::new("workload", e))?,
            addresses: each("addresses", &i.addresses, parse)?,
            ports,
            default_standing: *standing.as_ref().unwrap_or(&Standing::default()),
            default_policy: standing.and(policy("default_policy", i.default_policy)),
            // One that cannot be read is not known, which satisfies no allow.
            registered: i.registered.into_iter().filter_map(Registered::read).collect(),
        })
    }
}

fn policy(field: &str, message: Option<wire::PortPolicy>) -> Understood<PortPolicy> {
    let message = message.ok_or_else(|| ModelError::new(field, "missing"))?;
    PortPolicy::try_from(message).map_err(|e| e.within(field))
}

fn write_policy(policy: Understood<PortPolicy>) -> wire::PortPolicy {
    policy.map_or_else(
        |_| wire::PortPolicy { requires: vec![NOT_UNDERSTOOD.to_owned()], ..Default::default() },
        Into::into,
    )
}

impl From<Inbound> for wire::Inbound {
    fn from(i: Inbound) -> Self {
        Self {
            workload: i.workload.into(),
            addresses: i.addresses.iter().map(ToString::to_string).collect(),
            ports: i.ports.into_iter().map(Into::into).collect(),
            default_policy: Some(write_policy(i.default_policy)),
            default_standing: i.default_standing.write(),
            registered: i.registered.into_iter().map(Into::into).collect(),
        }
    }
}

impl Registered {
    fn read(message: wire::Registered) -> Option<Self> {
        let addresses: Option<Vec<IpAddr>> = message.addresses.iter().map(|ip| ip.parse().ok()).collect();
        let (identity, site) = (SpiffeId::parse(&message.spiffe_id).ok()?, message.site.parse().ok()?);
        addresses.map(|addresses| Self { identity, site, addresses })
    }
}

impl From<Registered> for wire::Registered {
    fn from(r: Registered) -> Self {
        Self {
            spiffe_id: r.identity.to_string(),
            site: r.site.into(),
            addresses: r.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<wire::InboundPort> for InboundPort {
    type Error = ModelError;

    fn try_from(p: wire::InboundPort) -> Result<Self, ModelError> {
        // A protocol from the future spoils its port, not its workload.
        let protocol = AppProtocol::read(p.protocol);
        let options = TrafficOptions::read(p.options);
        let standing = Standing::read(p.standing);
        let understood = policy("policy", p.policy);
        Ok(Self {
            port: port("port", p.port)?,
            services: each("services", &p.services, parse)?,
            protocol: *protocol.as_ref().unwrap_or(&AppProtocol::Tcp),
            options: *options.as_ref().unwrap_or(&TrafficOptions::default()),
            standing: *standing.as_ref().unwrap_or(&Standing::default()),
            probes: p.probes.into_iter().filter_map(Probe::read).collect(),
            https_redirect: Some(p.https_redirect).filter(|to| is_authority(to)),
            policy: protocol.and(options).and(standing).and(understood),
        })
    }
}

impl From<InboundPort> for wire::InboundPort {
    fn from(p: InboundPort) -> Self {
        Self {
            port: p.port.into(),
            protocol: wire::AppProtocol::from(p.protocol).into(),
            services: p.services.into_iter().map(Into::into).collect(),
            policy: Some(write_policy(p.policy)),
            options: p.options.write(),
            standing: p.standing.write(),
            probes: p.probes.into_iter().map(Into::into).collect(),
            https_redirect: p.https_redirect.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::PortPolicy> for PortPolicy {
    type Error = ModelError;

    fn try_from(p: wire::PortPolicy) -> Result<Self, ModelError> {
        requires(&p.requires)?;
        bounded("deny", &p.deny, MAX_RULES)?;
        bounded("allow", &p.allow, MAX_RULES)?;
        Ok(Self {
            transport: Transport::read(p.transport)?,
            min_tls_version: TlsVersion::read(p.min_tls_version)?,
            deny: p.deny.into_iter().map(Rule::from).collect(),
            allow: p.allow.into_iter().map(Rule::from).collect(),
            default_action: Action::read(p.default_action)?,
            default_from: (!p.default_from.is_empty()).then_some(p.default_from),
        })
    }
}

impl From<PortPolicy> for wire::PortPolicy {
    fn from(p: PortPolicy) -> Self {
        Self {
            transport: wire::Transport::from(p.transport).into(),
            min_tls_version: wire::TlsVersion::from(p.min_tls_version).into(),
            deny: p.deny.into_iter().map(Into::into).collect(),
            allow: p.allow.into_iter().map(Into::into).collect(),
            default_action: wire::Action::from(p.default_action).into(),
            default_from: p.default_from.unwrap_or_default(),
            requires: Vec::new(),
        }
    }
}

impl Action {
    pub(super) fn read(value: i32) -> Result<Self, ModelError> {
        match wire::Action::try_from(value) {
            Ok(wire::Action::Allow) => Ok(Self::Allow),
            Ok(wire::Action::Deny) => Ok(Self::Deny),
            Ok(wire::Action::Unspecified) | Err(_) => Err(unknown_value("default_action", value)),
        }
    }
}

impl From<Action> for wire::Action {
    fn from(a: Action) -> Self {
        match a {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
        }
    }
}
