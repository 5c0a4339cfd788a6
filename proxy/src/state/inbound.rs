//! What others may do with this proxy's own workload, compiled.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use isthmus_proto::model::{
    self, AppProtocol, ModelError, ServiceName, Standing, TrafficOptions, Understood, WorkloadName,
};

use super::policy::CompiledPolicy;
use crate::reason::Reason;

/// One port of the own workload.
#[derive(Debug)]
pub struct InboundPort {
    /// The app's port; 0 in the entry that stands for all undeclared ones.
    pub port: u16,
    /// Whether a service declares it.
    pub declared: bool,
    pub protocol: AppProtocol,
    pub services: Vec<ServiceName>,
    pub options: TrafficOptions,
    /// Whether its refusals are carried out.
    pub standing: Standing,
    pub policy: Arc<CompiledPolicy>,
}

/// The own workload.
#[derive(Debug)]
pub struct Inbound {
    /// `None` until the first sync, or where it cannot be read.
    pub workload: Option<WorkloadName>,
    addresses: HashSet<IpAddr, RandomState>,
    ports: HashMap<u16, Arc<InboundPort>, RandomState>,
    undeclared: Arc<InboundPort>,
}

impl Inbound {
    /// Refuses everything, for one reason.
    pub fn refusing(reason: Reason, detail: &str) -> Self {
        Self {
            workload: None,
            addresses: HashSet::default(),
            ports: HashMap::default(),
            undeclared: Arc::new(undeclared(CompiledPolicy::refusing(reason, detail), Standing::default())),
        }
    }

    pub fn port(&self, port: u16) -> &Arc<InboundPort> {
        self.ports.get(&port).unwrap_or(&self.undeclared)
    }

    pub fn is_own_address(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip.to_canonical())
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied()
    }

    /// When the next bypass ends, Unix milliseconds: from then on refusals are carried out again.
    pub fn next_bypass_end(&self, now_ms: i64) -> Option<i64> {
        let all = self.ports.values().chain([&self.undeclared]);
        all.filter_map(|port| port.standing.bypass_until_ms).filter(|until| *until > now_ms).min()
    }

    /// The declared ports, in no order.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<InboundPort>> {
        self.ports.values()
    }
}

fn undeclared(policy: CompiledPolicy, standing: Standing) -> InboundPort {
    InboundPort {
        port: 0,
        declared: false,
        protocol: AppProtocol::Detect,
        services: Vec::new(),
        options: TrafficOptions::default(),
        standing,
        policy: Arc::new(policy),
    }
}

fn compile(policy: Understood<model::PortPolicy>) -> CompiledPolicy {
    match policy {
        Ok(policy) => CompiledPolicy::new(policy),
        Err(e) => CompiledPolicy::refusing(Reason::UnknownFeature, &e.to_string()),
    }
}

impl From<model::Inbound> for Inbound {
    fn from(inbound: model::Inbound) -> Self {
        let declared = |p: model::InboundPort| InboundPort {
            port: p.port,
            declared: true,
            protocol: p.protocol,
            services: p.services,
            options: p.options,
            standing: p.standing,
            policy: Arc::new(compile(p.policy)),
        };
        Self {
            workload: Some(inbound.workload),
            addresses: inbound.addresses.iter().map(IpAddr::to_canonical).collect(),
            ports: inbound.ports.into_iter().map(|p| (p.port, Arc::new(declared(p)))).collect(),
            undeclared: Arc::new(undeclared(compile(inbound.default_policy), inbound.default_standing)),
        }
    }
}

impl From<&ModelError> for Inbound {
    fn from(error: &ModelError) -> Self {
        Self::refusing(Reason::UnknownFeature, &error.to_string())
    }
}
