//! From ServicePolicies to the one policy of a port.
//!
//! A policy applies to a port of a workload when everything it names does: its `services` declare the port there, its
//! `workloads` labels are on the workload; naming neither, it applies to the whole namespace. Of several, the strictest
//! transport and the highest minTlsVersion hold, all rules are handed on, and any allow rule makes the default Deny,
//! in the name of the most specific policy that has one. An Audit policy reports and never refuses: it hands on its
//! rules, marked so, and touches nothing else.

use super::Trust;
use crate::validate::cross::Set;
use crate::validate::resource::{Defaults, MeshConfig, Resource, Rule, ServicePolicy, Spec, selects};
use isthmus_certs::TrustDomain;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Action, TlsVersion, Transport};
use std::collections::HashMap;

/// What a proxy has to understand of a rule and of a policy.
const RULES: &str = "rules/v1";
const TRANSPORT: &str = "transport/v1";

/// All policies of a mesh, by namespace.
pub(super) struct Policies<'a> {
    by_namespace: HashMap<&'a str, Vec<Compiled<'a>>>,
    defaults: Defaults,
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
        Policies { by_namespace, defaults: mesh.defaults }
    }

    /// The policy of a workload's port that these services (names in its namespace) declare.
    pub(super) fn for_port(&self, workload: &Resource, services: &[&str]) -> wire::PortPolicy {
        self.combine(&workload.key.namespace, |policy| applies(policy, workload, services))
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
        let closes = |compiled: &&&Compiled| !compiled.policy.audit && !compiled.allow.is_empty();
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

/// One rule as a proxy reads it. Service accounts become identities: those of the namespaces that the rule names, or of
/// the policy's own.
pub fn compile_rule(policy: &Resource, audit: bool, index: u32, rule: &Rule, trust_domain: &TrustDomain) -> wire::Rule {
    let mode = if audit { wire::RuleMode::Audit } else { wire::RuleMode::Enforce };
    let identities = match &rule.service_accounts {
        Some(accounts) => Some(identities(accounts, rule, &policy.key.namespace, trust_domain)),
        None => rule.identities.clone(),
    };
    wire::Rule {
        policy: policy.key.qualified(),
        index,
        mode: mode.into(),
        identities: any_of(identities),
        namespaces: any_of(rule.namespaces.clone()),
        sites: any_of(rule.sites.clone()),
        cidrs: any_of(texts(&rule.cidrs)),
        ports: any_of(texts(&rule.ports)),
        hosts: any_of(rule.hosts.clone()),
        methods: any_of(rule.methods.clone()),
        paths: any_of(rule.paths.clone()),
        headers: rule
            .headers
            .iter()
            .map(|header| wire::HeaderCondition { name: header.name.clone(), any_of: header.values.clone() })
            .collect(),
        requires: vec![RULES.to_string()],
    }
}

/// `web` is of the rule's namespaces, `other/web` says its own.
fn identities(accounts: &[String], rule: &Rule, own: &str, trust_domain: &TrustDomain) -> Vec<String> {
    let own = [own.to_string()];
    let namespaces = rule.namespaces.as_deref().unwrap_or(&own);
    let mut identities = Vec::new();
    for account in accounts {
        let id = |namespace: &str, name: &str| format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}");
        match account.split_once('/') {
            Some((namespace, name)) => identities.push(id(namespace, name)),
            None => identities.extend(namespaces.iter().map(|namespace| id(namespace, account))),
        }
    }
    identities
}

fn texts<T: ToString>(values: &Option<Vec<T>>) -> Option<Vec<String>> {
    values.as_ref().map(|values| values.iter().map(ToString::to_string).collect())
}

fn any_of(values: Option<Vec<String>>) -> Option<wire::Condition> {
    values.map(|any_of| wire::Condition { any_of })
}
