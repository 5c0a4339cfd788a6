//! From ServicePolicies to the one policy of a port.
//!
//! A policy applies to a port of a workload when everything it names does: its `services` declare the port there, its
//! `workloads` labels are on the workload; naming neither, it applies to the whole namespace. Of several, the strictest
//! transport and the highest minTlsVersion hold, all rules are handed on, and any allow rule makes the default Deny,
//! in the name of the most specific policy that has one. An Audit policy reports and never refuses: it hands on its
//! rules, marked so, and touches nothing else.

use super::Trust;
use super::standing::{self, Standings};
use super::tenants::Tenancy;
use crate::validate::ResourceRef;
use crate::validate::resource::{
    Conditions, Defaults, HeaderRule, MeshConfig, Probing, Resource, Rule, ServicePolicy, Spec, selects,
};
use crate::validate::set::{EVERY, Set};
use ipnet::IpNet;
use isthmus_certs::TrustDomain;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Action, TlsVersion, Transport};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// What a proxy has to understand of a rule and of a policy.
const RULES: &str = "rules/v1";
/// Of a rule with `not…`, trust domains, gRPC methods, templates of paths or wildcards in identities.
const RULES_2: &str = "rules/v2";
const UNTIL: &str = "until/v1";
/// Of a rule on sites or addresses, where a site is seen as something else.
const SEEN_AS: &str = "seen-as/v1";
const TRANSPORT: &str = "transport/v1";

/// The ServicePolicies of a mesh. Each is compiled when the first asks for it, so a change compiles what it touches.
pub(super) struct Policies<'a> {
    set: &'a Set,
    defaults: Defaults,
    probe_sources: Vec<IpNet>,
    trust_domain: &'a TrustDomain,
    standings: Standings<'a>,
    tenancy: Tenancy,
    /// Some site is seen as something else.
    seen_as: bool,
    compiled: RefCell<HashMap<&'a ResourceRef, Rc<Compiled<'a>>>>,
}

struct Compiled<'a> {
    name: String,
    policy: &'a ServicePolicy,
    allow: Vec<wire::Rule>,
    deny: Vec<wire::Rule>,
}

impl<'a> Policies<'a> {
    pub(super) fn of(set: &'a Set, mesh: &MeshConfig, trust: &'a Trust) -> Self {
        let (standings, compiled) = (Standings::of(set), RefCell::default());
        let (tenancy, probe_sources) = (Tenancy::of(set), mesh.probe_sources.clone());
        let (defaults, trust_domain) = (mesh.defaults, &trust.trust_domain);
        let seen_as = set.of_kind("Site", None).any(|s| matches!(&s.spec, Spec::Site(s) if !s.seen_as.is_empty()));
        Policies { set, defaults, probe_sources, trust_domain, standings, tenancy, seen_as, compiled }
    }

    /// Those that may apply to a port that these services of the namespace declare, in the order of their names.
    fn candidates(&self, namespace: &str, services: &[&str]) -> Vec<Rc<Compiled<'a>>> {
        let mut found: BTreeMap<&ResourceRef, &'a Resource> = BTreeMap::new();
        for name in services.iter().chain([&EVERY]) {
            let named = self.set.referrers(&ResourceRef::new("Service", namespace, name));
            found.extend(named.map(|resource| (&resource.key, &**resource)));
        }
        found.extend(self.set.loose().map(|resource| (&resource.key, &**resource)));
        found.into_values().filter_map(|resource| self.compile(resource)).collect()
    }

    fn compile(&self, resource: &'a Resource) -> Option<Rc<Compiled<'a>>> {
        let Spec::ServicePolicy(policy) = &resource.spec else {
            return None;
        };
        if let Some(known) = self.compiled.borrow().get(&resource.key) {
            return Some(known.clone());
        }
        let rules = |rules: &[Rule]| -> Vec<wire::Rule> {
            let number = |(i, rule)| {
                let index = u32::try_from(i).unwrap_or(u32::MAX);
                let mut compiled = compile_rule(resource, policy.audit, index, rule, self.trust_domain);
                let by_place = |half: &Conditions| half.sites.is_some() || half.cidrs.is_some();
                if self.seen_as && (by_place(&rule.asked) || by_place(&rule.not)) {
                    compiled.requires.push(SEEN_AS.to_string());
                }
                compiled
            };
            rules.iter().enumerate().map(number).collect()
        };
        let name = resource.key.qualified();
        let compiled = Rc::new(Compiled { name, policy, allow: rules(&policy.allow), deny: rules(&policy.deny) });
        self.compiled.borrow_mut().insert(&resource.key, compiled.clone());
        Some(compiled)
    }

    /// Whether refusals at a port that these services declare are carried out.
    pub(super) fn standing(&self, namespace: &str, services: &[&str]) -> Option<wire::Standing> {
        self.standings.of_port(namespace, services)
    }

    /// The policy of a workload's port that these services (names in its namespace) declare.
    pub(super) fn for_port(&self, workload: &Resource, services: &[&str]) -> wire::PortPolicy {
        let mut mine = self.candidates(&workload.key.namespace, services);
        mine.retain(|compiled| applies(compiled.policy, workload, services));
        let mut policy = self.combine(&mine);
        policy.deny.splice(0..0, self.tenancy.deny(workload));
        if standing::tightens(self.standing(&workload.key.namespace, services).as_ref()) {
            policy.requires.push(standing::STANDING.to_string());
        }
        policy
    }

    /// What the platform may ask of the workload's ports, whatever services declare them: a probe's port may be one that
    /// no service has.
    pub(super) fn probes(&self, workload: &Resource, services: &[&str]) -> Vec<(u16, wire::Probe)> {
        if self.probe_sources.is_empty() {
            return Vec::new();
        }
        let mine = self.candidates(&workload.key.namespace, services);
        let mine =
            mine.iter().filter(|compiled| !compiled.policy.audit && applies(compiled.policy, workload, services));
        mine.flat_map(|compiled| &compiled.policy.probes).map(|probe| (probe.port, self.probe(&probe.what))).collect()
    }

    fn probe(&self, what: &Probing) -> wire::Probe {
        let what = match what {
            Probing::Path(path) => wire::probe::What::Path(path.clone()),
            Probing::Grpc => wire::probe::What::Grpc(true),
            Probing::Connect => wire::probe::What::Connect(true),
        };
        wire::Probe { cidrs: self.probe_sources.iter().map(ToString::to_string).collect(), what: Some(what) }
    }

    /// Where plain GET and HEAD are sent: by the first policy, in the order of names, that says it.
    pub(super) fn https_redirect(&self, workload: &Resource, services: &[&str]) -> String {
        let mine = self.candidates(&workload.key.namespace, services);
        let mut mine =
            mine.iter().filter(|compiled| !compiled.policy.audit && applies(compiled.policy, workload, services));
        mine.find_map(|compiled| compiled.policy.https_redirect.clone()).unwrap_or_default()
    }

    /// The part of [`Self::for_port`] that the sender keeps as well.
    pub(super) fn transport_for_port(&self, workload: &Resource, services: &[&str]) -> (Transport, TlsVersion) {
        let mut mine = self.candidates(&workload.key.namespace, services);
        mine.retain(|compiled| applies(compiled.policy, workload, services));
        self.transport_of(&mine)
    }

    /// What a service without a sidecar behind it demands of its callers: transport alone can be kept by the sender.
    pub(super) fn for_service(&self, namespace: &str, service: &str) -> (Transport, TlsVersion) {
        let mut mine = self.candidates(namespace, &[service]);
        mine.retain(|compiled| compiled.policy.workloads.is_none() && by_service(compiled.policy, &[service]));
        self.transport_of(&mine)
    }

    fn combine(&self, mine: &[Rc<Compiled<'a>>]) -> wire::PortPolicy {
        let (transport, min_tls) = self.transport_of(mine);
        let closes = |compiled: &&Rc<Compiled>| closes(compiled.policy);
        // The last of the most specific, so that the name does not depend on how maps iterate.
        let default_from = mine.iter().filter(closes).max_by_key(|compiled| specificity(compiled.policy));
        let allow = default_from.is_none() && self.defaults.allow;
        wire::PortPolicy {
            transport: wire::Transport::from(transport).into(),
            min_tls_version: wire::TlsVersion::from(min_tls).into(),
            deny: mine.iter().flat_map(|compiled| compiled.deny.clone()).collect(),
            allow: mine.iter().flat_map(|compiled| compiled.allow.clone()).collect(),
            default_action: wire::Action::from(if allow { Action::Allow } else { Action::Deny }).into(),
            default_from: default_from.map(|compiled| compiled.name.clone()).unwrap_or_default(),
            requires: vec![TRANSPORT.to_string()],
        }
    }

    /// The strictest of what the policies ask for; the mesh's default where none asks.
    fn transport_of(&self, mine: &[Rc<Compiled<'a>>]) -> (Transport, TlsVersion) {
        let enforced = || mine.iter().map(|compiled| compiled.policy).filter(|policy| !policy.audit);
        let transport = enforced().filter_map(|policy| policy.transport).max();
        let min_tls = enforced().filter_map(|policy| policy.min_tls).max();
        (transport.unwrap_or(self.defaults.transport), min_tls.unwrap_or(self.defaults.min_tls))
    }
}

/// An allow list refuses what it does not name. A rule whose time is over still counts: an exception that ended must not
/// open what it was an exception of.
fn closes(policy: &ServicePolicy) -> bool {
    !policy.audit && policy.allow.iter().any(|rule| !rule.audit)
}

fn applies(policy: &ServicePolicy, workload: &Resource, services: &[&str]) -> bool {
    let by_labels = policy.workloads.as_ref().is_none_or(|labels| selects(labels, &workload.labels));
    by_labels && by_service(policy, services)
}

fn by_service(policy: &ServicePolicy, services: &[&str]) -> bool {
    policy.services.is_empty() || policy.services.iter().any(|name| services.contains(&name.as_str()))
}

fn specificity(policy: &ServicePolicy) -> u8 {
    u8::from(!policy.services.is_empty()) * 2 + u8::from(policy.workloads.is_some())
}

/// One rule as a proxy reads it. Service accounts become identities: those of the namespaces (and trust domains) that the
/// rule names, or of the policy's own.
pub fn compile_rule(policy: &Resource, audit: bool, index: u32, rule: &Rule, trust_domain: &TrustDomain) -> wire::Rule {
    let mode = if audit || rule.audit { wire::RuleMode::Audit } else { wire::RuleMode::Enforce };
    let (asked, not) = (&rule.asked, &rule.not);
    let identities = |half: &Conditions| identities(half, rule, &policy.key.namespace, trust_domain);
    let compiled = wire::Rule {
        policy: policy.key.qualified(),
        index,
        mode: mode.into(),
        identities: any_of(identities(asked)),
        trust_domains: any_of(asked.trust_domains.clone()),
        namespaces: any_of(asked.namespaces.clone()),
        sites: any_of(asked.sites.clone()),
        cidrs: any_of(texts(&asked.cidrs)),
        ports: any_of(texts(&asked.ports)),
        hosts: any_of(asked.hosts.clone()),
        methods: any_of(asked.methods.clone()),
        paths: any_of(asked.paths.clone()),
        grpc: any_of(asked.grpc.clone()),
        headers: headers(asked),
        not_identities: any_of(identities(not)),
        not_trust_domains: any_of(not.trust_domains.clone()),
        not_namespaces: any_of(not.namespaces.clone()),
        not_sites: any_of(not.sites.clone()),
        not_cidrs: any_of(texts(&not.cidrs)),
        not_ports: any_of(texts(&not.ports)),
        not_hosts: any_of(not.hosts.clone()),
        not_methods: any_of(not.methods.clone()),
        not_paths: any_of(not.paths.clone()),
        not_grpc: any_of(not.grpc.clone()),
        not_headers: headers(not),
        until_unix_ms: rule.until_ms.unwrap_or_default(),
        requires: Vec::new(),
    };
    wire::Rule { requires: requires(rule, &compiled), ..compiled }
}

/// A proxy that knows only the first version of rules must not read half of this one.
fn requires(rule: &Rule, compiled: &wire::Rule) -> Vec<String> {
    let has = |condition: &Option<wire::Condition>, sign: &dyn Fn(&str) -> bool| {
        condition.iter().flat_map(|c| &c.any_of).any(|text| sign(text))
    };
    let newer = rule.not != Conditions::default()
        || compiled.trust_domains.is_some()
        || compiled.grpc.is_some()
        || has(&compiled.paths, &|text| text.contains('{'))
        || has(&compiled.identities, &|text| text.trim_end_matches('*').contains('*'));
    let mut names = vec![if newer { RULES_2 } else { RULES }.to_string()];
    if rule.until_ms.is_some() {
        names.push(UNTIL.to_string());
    }
    names
}

/// `web` is of the rule's namespaces, `other/web` says its own, `*/web` is of any.
fn identities(half: &Conditions, rule: &Rule, own: &str, trust_domain: &TrustDomain) -> Option<Vec<String>> {
    if half.identities.is_none() && half.service_accounts.is_none() {
        return None;
    }
    let (own, mesh) = ([own.to_string()], [trust_domain.to_string()]);
    let namespaces = rule.asked.namespaces.as_deref().unwrap_or(&own);
    let trust_domains = rule.asked.trust_domains.as_deref().unwrap_or(&mesh);
    let mut identities = half.identities.clone().unwrap_or_default();
    for account in half.service_accounts.iter().flatten() {
        for trust_domain in trust_domains {
            let id = |namespace: &str, name: &str| format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}");
            match account.split_once('/') {
                Some((namespace, name)) => identities.push(id(namespace, name)),
                None => identities.extend(namespaces.iter().map(|namespace| id(namespace, account))),
            }
        }
    }
    Some(identities)
}

fn headers(half: &Conditions) -> Vec<wire::HeaderCondition> {
    let header = |h: &HeaderRule| wire::HeaderCondition { name: h.name.clone(), any_of: h.values.clone() };
    half.headers.iter().map(header).collect()
}

fn texts<T: ToString>(values: &Option<Vec<T>>) -> Option<Vec<String>> {
    values.as_ref().map(|values| values.iter().map(ToString::to_string).collect())
}

fn any_of(values: Option<Vec<String>>) -> Option<wire::Condition> {
    values.map(|any_of| wire::Condition { any_of })
}
