//! From EgressPolicies to what one workload's proxy is told of the outside.
//!
//! A policy applies to a workload of its namespace that carries its labels; naming none, to the whole namespace. All
//! rules are handed on. The default is that of the most specific policy that sets one; a policy with allow rules and no
//! `default` sets Deny. Of transport and minTlsVersion the strictest hold. Where no policy says anything, MeshConfig does.
//! An Audit policy hands on its rules, marked so, and tells what the defaults would be with it.

use super::Told;
use crate::validate::cross::Set;
use crate::validate::resource::{EgressDefaults, EgressPolicy, EgressRule, MeshConfig, Resource, Spec, selects};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Action, ResourceKey, TlsVersion, Transport};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// What a proxy has to understand, of a rule and of the whole.
pub(super) const EGRESS: &str = "egress/v1";

/// All EgressPolicies of a mesh, by namespace.
pub(super) struct Policies<'a> {
    by_namespace: HashMap<&'a str, Vec<Compiled<'a>>>,
    defaults: EgressDefaults,
    /// Workloads to which the same policies apply share what they are told. By the policies' places in their namespace.
    made: RefCell<Made<'a>>,
}

type Made<'a> = HashMap<(&'a str, Vec<usize>), Arc<Told>>;

struct Compiled<'a> {
    name: String,
    policy: &'a EgressPolicy,
    allow: Vec<wire::EgressRule>,
    deny: Vec<wire::EgressRule>,
}

impl<'a> Policies<'a> {
    pub(super) fn of(set: &'a Set, mesh: &MeshConfig) -> Self {
        let mut by_namespace: HashMap<&str, Vec<Compiled>> = HashMap::new();
        for resource in set.of_kind("EgressPolicy", None) {
            let Spec::EgressPolicy(policy) = &resource.spec else { continue };
            let compile = |rules: &[EgressRule]| -> Vec<wire::EgressRule> {
                rules.iter().zip(0..).map(|(rule, index)| compile_rule(resource, policy.audit, index, rule)).collect()
            };
            by_namespace.entry(&resource.key.namespace).or_default().push(Compiled {
                name: resource.key.qualified(),
                policy,
                allow: compile(&policy.allow),
                deny: compile(&policy.deny),
            });
        }
        Policies { by_namespace, defaults: mesh.egress, made: RefCell::default() }
    }

    /// What the workload's proxy is told.
    pub(super) fn for_workload(&self, workload: &'a Resource) -> Arc<Told> {
        let namespace = workload.key.namespace.as_str();
        let all = self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let applies = |(_, compiled): &(usize, &Compiled)| {
            compiled.policy.workloads.as_ref().is_none_or(|labels| selects(labels, &workload.labels))
        };
        let (places, mine): (Vec<usize>, Vec<&Compiled>) = all.iter().enumerate().filter(applies).unzip();
        let mut made = self.made.borrow_mut();
        let make = || {
            let body = wire::resource::Body::Egress(combine(&mine, self.defaults));
            Arc::new(Told::from(wire::Resource {
                key: Some(ResourceKey::Egress.into()),
                requires: Vec::new(),
                body: Some(body),
            }))
        };
        made.entry((namespace, places)).or_insert_with(make).clone()
    }
}

/// Whether anything at all is restricted: then a proxy that does not know of egress must refuse.
pub(super) fn restricts(set: &Set, mesh: &MeshConfig) -> bool {
    mesh.egress != EgressDefaults::default() || set.of_kind("EgressPolicy", None).next().is_some()
}

fn combine(mine: &[&Compiled], defaults: EgressDefaults) -> wire::Egress {
    let audits = mine.iter().any(|compiled| compiled.policy.audit);
    wire::Egress {
        deny: mine.iter().flat_map(|compiled| compiled.deny.clone()).collect(),
        allow: mine.iter().flat_map(|compiled| compiled.allow.clone()).collect(),
        enforced: Some(default_of(mine, false, defaults)),
        audited: audits.then(|| default_of(mine, true, defaults)),
    }
}

fn default_of(mine: &[&Compiled], audit: bool, defaults: EgressDefaults) -> wire::EgressDefault {
    let counted = || mine.iter().filter(|compiled| audit || !compiled.policy.audit);
    let sets = |compiled: &&&Compiled| default_action(compiled.policy).is_some();
    // The last of the most specific, so that the name does not depend on how maps iterate; of two, the one that denies.
    let setter = counted()
        .filter(sets)
        .max_by_key(|compiled| (compiled.policy.workloads.is_some(), default_action(compiled.policy) == Some(false)));
    let allow = setter.and_then(|compiled| default_action(compiled.policy)).unwrap_or(defaults.allow);
    let strictest = counted().filter(|compiled| compiled.policy.transport.is_some());
    let strictest = strictest.max_by_key(|compiled| compiled.policy.transport);
    let transport: Transport = strictest.and_then(|c| c.policy.transport).unwrap_or(defaults.transport);
    let min_tls: Option<TlsVersion> = counted().filter_map(|compiled| compiled.policy.min_tls).max();
    wire::EgressDefault {
        action: wire::Action::from(if allow { Action::Allow } else { Action::Deny }).into(),
        action_from: setter.map(|compiled| compiled.name.clone()).unwrap_or_default(),
        transport: wire::Transport::from(transport).into(),
        min_tls_version: wire::TlsVersion::from(min_tls.unwrap_or(defaults.min_tls)).into(),
        transport_from: strictest.map(|compiled| compiled.name.clone()).unwrap_or_default(),
    }
}

fn default_action(policy: &EgressPolicy) -> Option<bool> {
    policy.default_allow.or((!policy.allow.is_empty()).then_some(false))
}

fn compile_rule(policy: &Resource, audit: bool, index: u32, rule: &EgressRule) -> wire::EgressRule {
    fn any_of<T: ToString>(values: &Option<Vec<T>>) -> Option<wire::Condition> {
        let values = values.as_ref()?;
        Some(wire::Condition { any_of: values.iter().map(ToString::to_string).collect() })
    }
    let mode = if audit { wire::RuleMode::Audit } else { wire::RuleMode::Enforce };
    wire::EgressRule {
        policy: policy.key.qualified(),
        index,
        mode: mode.into(),
        hosts: any_of(&rule.hosts),
        cidrs: any_of(&rule.cidrs),
        ports: any_of(&rule.ports),
        transport: rule.transport.map_or(0, |transport| wire::Transport::from(transport).into()),
        min_tls_version: rule.min_tls.map_or(0, |version| wire::TlsVersion::from(version).into()),
        requires: vec![EGRESS.to_string()],
    }
}
