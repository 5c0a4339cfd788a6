//! What others may do with this proxy's own workload, compiled.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use foldhash::fast::RandomState;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{
    self, AppProtocol, ModelError, Probe, ServiceName, SiteName, Standing, TrafficOptions, Understood, WorkloadName,
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
    /// What the platform may ask in plain, past the policy.
    pub probes: Vec<Probe>,
    /// The authority that plain GET and HEAD are sent to where transport refuses them.
    pub https_redirect: Option<String>,
    pub policy: Arc<CompiledPolicy>,
    /// Of what was told.
    fingerprint: u64,
}

/// The own workload.
#[derive(Debug)]
pub struct Inbound {
    /// `None` until the first sync, or where it cannot be read.
    pub workload: Option<WorkloadName>,
    addresses: HashSet<IpAddr, RandomState>,
    ports: HashMap<u16, Arc<InboundPort>, RandomState>,
    undeclared: Arc<InboundPort>,
    /// The own addresses of who is behind what other sites are seen as.
    registered: HashMap<SpiffeId, Vec<(SiteName, Vec<IpAddr>)>, RandomState>,
}

impl Inbound {
    /// Refuses everything, for one reason.
    pub fn refusing(reason: Reason, detail: &str) -> Self {
        Self {
            workload: None,
            addresses: HashSet::default(),
            ports: HashMap::default(),
            undeclared: Arc::new(undeclared(CompiledPolicy::refusing(reason, detail), Standing::default())),
            registered: HashMap::default(),
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
        probes: Vec::new(),
        https_redirect: None,
        policy: Arc::new(policy),
        fingerprint: 0,
    }
}

fn compile(policy: Understood<model::PortPolicy>) -> CompiledPolicy {
    match policy {
        Ok(policy) => CompiledPolicy::new(policy),
        Err(e) => CompiledPolicy::refusing(Reason::UnknownFeature, &e.to_string()),
    }
}

impl Inbound {
    /// What was told, after what held before: a port of which the same is said stays what it is, compiled and all, so
    /// that those who use it need not be asked about again.
    pub fn next(told: model::Inbound, before: &Inbound) -> Self {
        let declared = |told: model::InboundPort| {
            let fingerprint = fingerprint(&told);
            let kept = before.ports.get(&told.port).filter(|kept| kept.fingerprint == fingerprint);
            kept.cloned().unwrap_or_else(|| {
                Arc::new(InboundPort {
                    port: told.port,
                    declared: true,
                    protocol: told.protocol,
                    services: told.services,
                    options: told.options,
                    standing: told.standing,
                    probes: told.probes,
                    https_redirect: told.https_redirect,
                    policy: Arc::new(compile(told.policy)),
                    fingerprint,
                })
            })
        };
        let fingerprint = fingerprint(&(&told.default_policy, &told.default_standing));
        let undeclared = match &before.undeclared {
            kept if kept.fingerprint == fingerprint => Arc::clone(kept),
            _ => {
                let (policy, standing) = (compile(told.default_policy), told.default_standing);
                Arc::new(InboundPort { fingerprint, ..undeclared(policy, standing) })
            }
        };
        Self {
            workload: Some(told.workload),
            addresses: told.addresses.iter().map(IpAddr::to_canonical).collect(),
            ports: told.ports.into_iter().map(|p| (p.port, declared(p))).collect(),
            undeclared,
            registered: registered(told.registered),
        }
    }

    /// What is registered of an identity in a site; nothing where that is not known.
    pub fn registered(&self, identity: &SpiffeId, site: &str) -> &[IpAddr] {
        let sites = self.registered.get(identity).map(Vec::as_slice).unwrap_or_default();
        sites.iter().find(|(name, _)| name.as_str() == site).map_or(&[], |(_, addresses)| addresses)
    }

    /// Whether the two know the same of who is where.
    pub fn has_same_registered(&self, other: &Inbound) -> bool {
        self.registered == other.registered
    }

    /// What stands for the ports that no service declares.
    pub fn undeclared(&self) -> &Arc<InboundPort> {
        &self.undeclared
    }
}

fn registered(told: Vec<model::Registered>) -> HashMap<SpiffeId, Vec<(SiteName, Vec<IpAddr>)>, RandomState> {
    let mut by_identity: HashMap<SpiffeId, Vec<(SiteName, Vec<IpAddr>)>, RandomState> = HashMap::default();
    for one in told {
        by_identity.entry(one.identity).or_default().push((one.site, one.addresses));
    }
    by_identity
}

/// Of all that is said, by a key that is another one in each process. 0: of nothing.
fn fingerprint(told: &impl fmt::Debug) -> u64 {
    static KEY: LazyLock<std::hash::RandomState> = LazyLock::new(Default::default);
    struct Into<H>(H);
    impl<H: Hasher> fmt::Write for Into<H> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut hasher = Into(KEY.build_hasher());
    // A hasher takes all that is written.
    let _ = fmt::write(&mut hasher, format_args!("{told:?}"));
    hasher.0.finish().max(1)
}

impl From<&ModelError> for Inbound {
    fn from(error: &ModelError) -> Self {
        Self::refusing(Reason::UnknownFeature, &error.to_string())
    }
}
