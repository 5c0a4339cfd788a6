//! A port's policy, made ready once so that a decision costs look-ups and not parsing.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{
    Action, Conditions, HeaderMatch, HostPattern, IdentityPattern, PathPattern, PortPolicy, Rule, RuleMode, TlsVersion,
    Transport,
};

use crate::reason::Reason;

pub(super) type Set<T> = HashSet<T, RandomState>;

/// What one port of the own workload accepts.
#[derive(Debug)]
pub struct CompiledPolicy {
    pub transport: Transport,
    pub min_tls_version: TlsVersion,
    /// Refuses all, for this reason: not understood, or not there yet.
    pub(super) refuse: Option<(Reason, Arc<str>)>,
    pub(super) deny: Vec<CompiledRule>,
    pub(super) allow: Vec<CompiledRule>,
    pub(super) default_action: Action,
    pub(super) default_from: Option<Arc<str>>,
    /// Some rule is in audit mode.
    pub(super) audits: bool,
    needs_http: bool,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) policy: Arc<str>,
    pub(super) index: u32,
    pub(super) audit: bool,
    /// `None`: not understood.
    pub(super) conditions: Option<CompiledConditions>,
}

#[derive(Debug, Default)]
pub(super) struct CompiledConditions {
    pub(super) identities: Option<Identities>,
    pub(super) namespaces: Option<Set<String>>,
    pub(super) sites: Option<Set<String>>,
    pub(super) cidrs: Option<Vec<IpNet>>,
    pub(super) ports: Option<Set<u16>>,
    pub(super) hosts: Option<Vec<HostPattern>>,
    pub(super) methods: Option<Vec<String>>,
    pub(super) paths: Option<Vec<PathPattern>>,
    pub(super) headers: Vec<HeaderMatch>,
}

#[derive(Debug, Default)]
pub(super) struct Identities {
    pub(super) exact: Set<SpiffeId>,
    pub(super) prefixes: Vec<String>,
}

impl CompiledPolicy {
    pub fn new(policy: PortPolicy) -> Self {
        let allow: Vec<_> = policy.allow.into_iter().map(CompiledRule::new).collect();
        let deny: Vec<_> = policy.deny.into_iter().map(CompiledRule::new).collect();
        let all = || deny.iter().chain(&allow);
        Self {
            transport: policy.transport,
            min_tls_version: policy.min_tls_version,
            refuse: None,
            default_action: policy.default_action,
            default_from: policy.default_from.map(Into::into),
            audits: all().any(|rule| rule.audit),
            needs_http: all().any(CompiledRule::needs_http),
            deny,
            allow,
        }
    }

    /// Refuses everything. `detail` is for the operator.
    pub fn refusing(reason: Reason, detail: &str) -> Self {
        Self {
            transport: Transport::MeshOnly,
            min_tls_version: TlsVersion::V1_3,
            refuse: Some((reason, detail.into())),
            deny: Vec::new(),
            allow: Vec::new(),
            default_action: Action::Deny,
            default_from: None,
            audits: false,
            needs_http: false,
        }
    }

    /// Some rule looks at a request: on an HTTP port, decide per request and not per connection.
    pub fn needs_http(&self) -> bool {
        self.needs_http
    }

    /// Why everything is refused, where it is: for the log and `isthmus explain`.
    pub fn refusal_detail(&self) -> Option<&str> {
        self.refuse.as_ref().map(|(_, detail)| detail.as_ref())
    }

    /// The policy that sets the default.
    pub fn default_from(&self) -> Option<&str> {
        self.default_from.as_deref()
    }
}

impl CompiledRule {
    fn new(rule: Rule) -> Self {
        Self {
            policy: rule.policy.into(),
            index: rule.index,
            audit: rule.mode == RuleMode::Audit,
            conditions: rule.conditions.ok().map(CompiledConditions::new),
        }
    }

    fn needs_http(&self) -> bool {
        self.conditions
            .as_ref()
            .is_some_and(|c| c.hosts.is_some() || c.methods.is_some() || c.paths.is_some() || !c.headers.is_empty())
    }
}

impl CompiledConditions {
    fn new(c: Conditions) -> Self {
        Self {
            identities: c.identities.map(Identities::new),
            namespaces: c.namespaces.map(|list| list.into_iter().collect()),
            sites: c.sites.map(|list| list.into_iter().map(Into::into).collect()),
            cidrs: c.cidrs,
            ports: c.ports.map(|list| list.into_iter().collect()),
            hosts: c.hosts,
            methods: c.methods,
            paths: c.paths,
            headers: c.headers,
        }
    }
}

impl Identities {
    fn new(patterns: Vec<IdentityPattern>) -> Self {
        let mut compiled = Self::default();
        for pattern in patterns {
            match pattern {
                IdentityPattern::Exact(id) => {
                    compiled.exact.insert(id);
                }
                IdentityPattern::Prefix(prefix) => compiled.prefixes.push(prefix),
            }
        }
        compiled
    }
}
