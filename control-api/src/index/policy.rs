//! From ServicePolicies to the one policy of a port.
//!
//! A policy applies to a port of a workload when everything it names does: its `services` declare the port there, its
//! `workloads` labels are on the workload; naming neither, it applies to the whole namespace. Of several, the strictest
//! transport and the highest minTlsVersion hold, all rules are handed on, and any allow rule makes the default Deny,
//! in the name of the most specific policy that has one. An Audit policy reports and never refuses: it hands on its
//! rules, marked so, and touches nothing else.

use super::Trust;
use super::standing::{self, Standings};
use crate::validate::cross::Set;
use crate::validate::resource::{
    Conditions, Defaults, HeaderRule, MeshConfig, Resource, Rule, ServicePolicy, Spec, selects,
};
use isthmus_certs::TrustDomain;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Action, TlsVersion, Transport};
use std::collections::HashMap;

/// What a proxy has to understand of a rule and of a policy.
const RULES: &str = "rules/v1";
/// Of a rule with `not…`, trust domains, gRPC methods, templates of paths or wildcards in identities.
const RULES_2: &str = "rules/v2";
const UNTIL: &str = "until/v1";
const TRANSPORT: &str = "transport/v1";

/// All policies of a mesh, by namespace.
pub(super) struct Policies<'a> {
    by_namespace: HashMap<&'a str, Vec<Compiled<'a>>>,
    defaults: Defaults,
    standings: Standings<'a>,
}

struct Compiled<'a> {
    name: String,
    policy: &'a ServicePolicy,
    allow: Vec<wire::Rule>,
    deny: Vec<wire::Rule>,
}

impl<'a> Policies<'a> {
    pub(super) fn of(set: &'a Set, mesh: &MeshConfig, trust: &Trust) -> Self {
        let mut by_namespace: HashMap<&str, Vec<Compiled>> = HashMap::new();
        for resource in set.values() {
            let Spec::ServicePolicy(policy) = &resource.spec else {
                continue;
            };
            let compile = |rules: &[Rule]| -> Vec<wire::Rule> {
                let number = |(i, rule)| {
                    compile_rule(
                        resource,
                        policy.audit,
                        u32::try_from(i).unwrap_or(u32::MAX),
                        rule,
                        &trust.trust_domain,
                    )
                };
                rules.iter().enumerate().map(number).collect()
            };
            let compiled = Compiled {
                name: resource.key.qualified(),
                policy,
                allow: compile(&policy.allow),
                deny: compile(&policy.deny),
            };
            by_namespace.entry(&resource.key.namespace).or_default().push(compiled);
        }
        Policies { by_namespace, defaults: mesh.defaults, standings: Standings::of(set) }
    }

    /// Whether refusals at a port that these services declare are carried out.
    pub(super) fn standing(&self, namespace: &str, services: &[&str]) -> Option<wire::Standing> {
        self.standings.of_port(namespace, services)
    }

    /// The policy of a workload's port that these services (names in its namespace) declare.
    pub(super) fn for_port(&self, workload: &Resource, services: &[&str]) -> wire::PortPolicy {
        let namespace = &workload.key.namespace;
        let mut policy = self.combine(namespace, |policy| applies(policy, workload, services));
        if standing::tightens(self.standing(namespace, services).as_ref()) {
            policy.requires.push(standing::STANDING.to_string());
        }
        policy
    }

    /// The part of [`Self::for_port`] that the sender keeps as well.
    pub(super) fn transport_for_port(&self, workload: &Resource, services: &[&str]) -> (Transport, TlsVersion) {
        self.transport_of(&workload.key.namespace, |policy| applies(policy, workload, services))
    }

    /// What a service without a sidecar behind it demands of its callers: transport alone can be kept by the sender.
    pub(super) fn for_service(&self, namespace: &str, service: &str) -> (Transport, TlsVersion) {
        let applies = |policy: &ServicePolicy| policy.workloads.is_none() && by_service(policy, &[service]);
        self.transport_of(namespace, applies)
    }

    fn combine(&self, namespace: &str, applies: impl Fn(&ServicePolicy) -> bool) -> wire::PortPolicy {
        let (transport, min_tls) = self.transport_of(namespace, &applies);
        let all = self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let mine: Vec<&Compiled> = all.iter().filter(|compiled| applies(compiled.policy)).collect();
        let closes = |compiled: &&&Compiled| closes(compiled.policy);
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
    fn transport_of(&self, namespace: &str, applies: impl Fn(&ServicePolicy) -> bool) -> (Transport, TlsVersion) {
        let all = self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let mine = || all.iter().map(|compiled| compiled.policy).filter(|policy| !policy.audit && applies(policy));
        let transport = mine().filter_map(|policy| policy.transport).max();
        let min_tls = mine().filter_map(|policy| policy.min_tls).max();
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
