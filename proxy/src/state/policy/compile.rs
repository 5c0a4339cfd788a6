//! A port's policy, made ready once so that a decision costs look-ups and not parsing.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;
use isthmus_certs::{SpiffeId, TrustDomain};
use isthmus_proto::model::{
    Action, Conditions, GrpcPattern, HeaderMatch, HostPattern, IdentityPattern, PathPattern, PortPolicy, Rule,
    RuleMode, Template, TlsVersion, Transport,
};

use super::matching::{Known, Needs, Side};
use super::tree::Tree;
use crate::reason::Reason;

pub(super) type Set<T> = HashSet<T, RandomState>;

/// What one port of the own workload accepts.
#[derive(Debug)]
pub struct CompiledPolicy {
    pub transport: Transport,
    pub min_tls_version: TlsVersion,
    /// Refuses all, for this reason: not understood, or not there yet.
    pub(super) refuse: Option<(Reason, Box<str>)>,
    pub(super) deny: Rules,
    pub(super) allow: Rules,
    pub(super) default_action: Action,
    pub(super) default_from: Option<Box<str>>,
    pub(super) needs: Needs,
    /// When its time-limited rules end, in order.
    ends: Box<[i64]>,
}

/// The rules of one side, in their order.
#[derive(Debug)]
pub(super) struct Rules {
    side: Side,
    rules: Vec<CompiledRule>,
    tree: Tree,
    /// Places of those that were not understood.
    unreadable: Vec<u32>,
    first_audit: Option<usize>,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) policy: Arc<str>,
    /// Its place in that policy's list.
    pub(super) index: u32,
    pub(super) audit: bool,
    /// Unix time in milliseconds; the greatest number: no end.
    pub(super) until_ms: i64,
    /// `None`: not understood.
    pub(super) conditions: Option<CompiledConditions>,
}

#[derive(Debug, Default)]
pub(super) struct CompiledConditions {
    pub(super) asked: Half,
    pub(super) not: Half,
    /// `not` has something in it.
    pub(super) has_not: bool,
}

/// What is asked for, or what is asked for under `not…`.
#[derive(Debug, Default)]
pub(super) struct Half {
    pub(super) identities: Option<Identities>,
    pub(super) trust_domains: Option<Set<String>>,
    pub(super) namespaces: Option<Set<String>>,
    pub(super) sites: Option<Set<String>>,
    pub(super) cidrs: Option<Vec<IpNet>>,
    pub(super) ports: Option<Vec<u16>>,
    pub(super) hosts: Option<Vec<HostPattern>>,
    pub(super) methods: Option<Vec<String>>,
    pub(super) paths: Option<Vec<PathPattern>>,
    pub(super) grpc: Option<Vec<GrpcPattern>>,
    pub(super) headers: Vec<HeaderMatch>,
}

#[derive(Debug, Default)]
pub(super) struct Identities {
    pub(super) exact: Set<SpiffeId>,
    pub(super) prefixes: Vec<String>,
    pub(super) wildcards: Vec<Template>,
}

impl CompiledPolicy {
    pub fn new(policy: PortPolicy) -> Self {
        let (allow, deny) = (Rules::new(Side::Allow, policy.allow), Rules::new(Side::Deny, policy.deny));
        let some = |has: fn(&Half) -> bool| {
            let all = deny.rules.iter().chain(&allow.rules).filter_map(|rule| rule.conditions.as_ref());
            all.flat_map(|c| [&c.asked, &c.not]).any(has)
        };
        let needs = Needs {
            host: some(|c| c.hosts.is_some()),
            path: some(|c| c.paths.is_some()),
            grpc: some(|c| c.grpc.is_some()),
            method: some(|c| c.methods.is_some()),
            headers: some(|c| !c.headers.is_empty()),
            site: some(|c| c.sites.is_some()),
            address: some(|c| c.cidrs.is_some()),
        };
        Self {
            transport: policy.transport,
            min_tls_version: policy.min_tls_version,
            refuse: None,
            default_action: policy.default_action,
            default_from: policy.default_from.map(Into::into),
            ends: ends(deny.rules.iter().chain(&allow.rules)),
            needs,
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
            deny: Rules::new(Side::Deny, Vec::new()),
            allow: Rules::new(Side::Allow, Vec::new()),
            default_action: Action::Deny,
            default_from: None,
            needs: Needs::default(),
            ends: Box::default(),
        }
    }

    /// Some rule looks at a request: on an HTTP port, decide per request and not per connection.
    pub fn needs_http(&self) -> bool {
        let needs = &self.needs;
        needs.host || needs.path || needs.grpc || needs.method || needs.headers
    }

    /// Some rule looks at the path: the app must get the path that was looked at.
    pub fn needs_path(&self) -> bool {
        self.needs.path || self.needs.grpc
    }

    /// Some rule looks at headers; a gRPC call is known by one.
    pub fn needs_headers(&self) -> bool {
        self.needs.headers || self.needs.grpc
    }

    /// Some rule ends by itself: the time has to be known.
    pub fn needs_time(&self) -> bool {
        !self.ends.is_empty()
    }

    /// When the next rule ends after `now_ms`, in Unix time in milliseconds.
    pub fn next_end(&self, now_ms: i64) -> Option<i64> {
        let after = self.ends.partition_point(|end| *end <= now_ms);
        self.ends.get(after).copied()
    }

    /// Some rule asks for the request's host.
    pub fn needs_host(&self) -> bool {
        self.needs.host
    }

    /// Some rule asks for the caller's site: where none does, it need not be looked up.
    pub fn needs_site(&self) -> bool {
        self.needs.site
    }

    /// Some rule asks for the caller's address.
    pub fn needs_address(&self) -> bool {
        self.needs.address
    }

    /// Some rule is in audit mode.
    pub(super) fn audits(&self) -> bool {
        self.deny.first_audit.is_some() || self.allow.first_audit.is_some()
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

impl Rules {
    fn new(side: Side, rules: Vec<Rule>) -> Self {
        let rules: Vec<_> = rules.into_iter().map(CompiledRule::new).collect();
        let places = || (0u32..).zip(&rules);
        let readable: Vec<_> = places().filter_map(|(at, rule)| Some((at, rule.conditions.as_ref()?))).collect();
        Self {
            side,
            tree: Tree::new(side, &readable),
            unreadable: places().filter(|(_, rule)| rule.conditions.is_none()).map(|(at, _)| at).collect(),
            first_audit: rules.iter().position(|rule| rule.audit),
            rules,
        }
    }

    /// The first rule that matches. Of a deny list, one that was not understood is a match. `audit`: those in audit mode
    /// count as well.
    pub(super) fn first(&self, known: &Known, audit: bool) -> Option<&CompiledRule> {
        let unread = match self.side {
            Side::Deny => self.first_unreadable(audit).map_or(u32::MAX, |(at, _)| at),
            Side::Allow => u32::MAX,
        };
        let now = known.now_ms();
        let at = self.tree.first(known, unread, |at| {
            let rule = self.rules.get(at as usize);
            rule.is_some_and(|rule| {
                (audit || !rule.audit)
                    && rule.until_ms > now
                    && rule.conditions.as_ref().is_some_and(|c| c.match_for(self.side, known))
            })
        });
        self.rules.get(at as usize)
    }

    /// Of a rule that was not understood it is not known when it ends, either.
    pub(super) fn first_unreadable(&self, audit: bool) -> Option<(u32, &CompiledRule)> {
        let rule = |at: &u32| Some((*at, self.rules.get(*at as usize)?));
        self.unreadable.iter().filter_map(rule).find(|(_, rule)| audit || !rule.audit)
    }

    /// The first that is in audit mode.
    pub(super) fn first_audit(&self) -> Option<&CompiledRule> {
        self.rules.get(self.first_audit?)
    }
}

fn ends<'r>(rules: impl Iterator<Item = &'r CompiledRule>) -> Box<[i64]> {
    let mut ends: Vec<i64> = rules.map(|rule| rule.until_ms).filter(|end| *end != i64::MAX).collect();
    ends.sort_unstable();
    ends.dedup();
    ends.into()
}

impl CompiledRule {
    fn new(rule: Rule) -> Self {
        Self {
            policy: rule.policy.into(),
            index: rule.index,
            audit: rule.mode == RuleMode::Audit,
            until_ms: rule.until_ms.unwrap_or(i64::MAX),
            conditions: rule.conditions.ok().map(CompiledConditions::new),
        }
    }
}

impl CompiledConditions {
    fn new(c: Conditions) -> Self {
        let set = |list: Vec<String>| list.into_iter().collect();
        let not = Half {
            identities: c.not_identities.map(Identities::new),
            trust_domains: c.not_trust_domains.map(names),
            namespaces: c.not_namespaces.map(set),
            sites: c.not_sites.map(|list| list.into_iter().map(Into::into).collect()),
            cidrs: c.not_cidrs,
            ports: c.not_ports,
            hosts: c.not_hosts,
            methods: c.not_methods,
            paths: c.not_paths,
            grpc: c.not_grpc,
            headers: c.not_headers,
        };
        let asked = Half {
            identities: c.identities.map(Identities::new),
            trust_domains: c.trust_domains.map(names),
            namespaces: c.namespaces.map(set),
            sites: c.sites.map(|list| list.into_iter().map(Into::into).collect()),
            cidrs: c.cidrs,
            ports: c.ports,
            hosts: c.hosts,
            methods: c.methods,
            paths: c.paths,
            grpc: c.grpc,
            headers: c.headers,
        };
        Self { asked, has_not: not.has_any(), not }
    }
}

fn names(list: Vec<TrustDomain>) -> Set<String> {
    list.iter().map(|domain| domain.as_str().to_owned()).collect()
}

impl Half {
    fn has_any(&self) -> bool {
        self.identities.is_some()
            || self.trust_domains.is_some()
            || self.namespaces.is_some()
            || self.sites.is_some()
            || self.cidrs.is_some()
            || self.ports.is_some()
            || self.hosts.is_some()
            || self.methods.is_some()
            || self.paths.is_some()
            || self.grpc.is_some()
            || !self.headers.is_empty()
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
                IdentityPattern::Wildcard(template) => compiled.wildcards.push(template),
            }
        }
        compiled
    }
}
