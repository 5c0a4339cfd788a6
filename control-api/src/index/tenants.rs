//! Tenants: namespaces that neither see nor route to each other's services. One question, asked by everybody who hands
//! something of one namespace to somebody in another: [`Tenancy::sees`].
//!
//! A namespace belongs to one tenant; those that no Tenant names are together, as if they were one. What a *shared*
//! tenant has is seen by all, and it sees only its own.

use crate::validate::ResourceRef;
use crate::validate::resource::{Resource, Spec};
use crate::validate::set::Set;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::ServiceName;
use std::collections::{BTreeMap, BTreeSet};

/// Of the rule that keeps other tenants out, whose condition older proxies do not know.
const RULES_2: &str = "rules/v2";

/// Who belongs to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    /// Namespace to tenant.
    of: BTreeMap<String, String>,
    shared: BTreeSet<String>,
    /// Tenants that refuse callers of others, and those of whom it is not known whose they are.
    closed: BTreeSet<String>,
}

impl Tenancy {
    pub fn of(set: &Set) -> Tenancy {
        let mut tenancy = Tenancy::default();
        for resource in set.of_kind("Tenant", None) {
            let Spec::Tenant(tenant) = &resource.spec else { continue };
            let name = &resource.key.name;
            tenancy.of.extend(tenant.namespaces.iter().map(|namespace| (namespace.clone(), name.clone())));
            if tenant.shared {
                tenancy.shared.insert(name.clone());
            }
            if !tenant.shared && !tenant.plain_callers {
                tenancy.closed.insert(name.clone());
            }
        }
        tenancy
    }

    /// Whether somebody in the one namespace is told of what is in the other.
    pub fn sees(&self, from: &str, to: &str) -> bool {
        let (from, to) = (self.of.get(from), self.of.get(to));
        from == to || to.is_some_and(|to| self.shared.contains(to))
    }

    pub fn sees_service(&self, from: &str, service: &ServiceName) -> bool {
        self.of.is_empty() || self.sees(from, service.to_string().split('/').next().unwrap_or_default())
    }

    /// The first rule of every port there: no caller of another tenant, whatever its policies allow. An app that dials an
    /// address by itself is kept out by this, and not by what its proxy is told.
    pub(super) fn deny(&self, workload: &Resource) -> Option<wire::Rule> {
        let tenant = self.of.get(&workload.key.namespace).filter(|tenant| self.closed.contains(*tenant))?;
        let own = self.of.iter().filter(|(_, of)| *of == tenant).map(|(namespace, _)| namespace.clone());
        Some(wire::Rule {
            policy: format!("tenant/{tenant}"),
            mode: wire::RuleMode::Enforce.into(),
            not_namespaces: Some(wire::Condition { any_of: own.collect() }),
            requires: vec![RULES_2.to_string()],
            ..wire::Rule::default()
        })
    }
}

/// Namespaces that wrote an address by hand.
pub(super) fn writers(ip: std::net::IpAddr, set: &Set) -> Vec<String> {
    set.written_at(ip).map(|resource| resource.key.namespace.clone()).collect()
}

/// A namespace in two tenants would be in neither.
pub(crate) fn check(set: &Set, resource: &Resource, fault: &mut impl FnMut(String, String)) {
    let Spec::Tenant(tenant) = &resource.spec else { return };
    for (i, namespace) in tenant.namespaces.iter().enumerate() {
        let other = set.of_kind("Tenant", None).find(|other| {
            let has = |spec: &Spec| matches!(spec, Spec::Tenant(other) if other.namespaces.contains(namespace));
            other.key < resource.key && has(&other.spec)
        });
        if let Some(other) = other {
            let reason = format!("`{namespace}` belongs to Tenant {} already", other.key.name);
            fault(format!("spec.namespaces[{i}]"), reason);
        }
    }
}

/// What an OperatorRole names must be there: a tenant that is not gives nothing, and looks as if it gave something.
pub(crate) fn check_role(set: &Set, tenants: &[String], fault: &mut impl FnMut(String, String)) {
    for (i, tenant) in tenants.iter().enumerate() {
        if !set.contains_key(&ResourceRef::new("Tenant", "", tenant)) {
            fault(format!("spec.tenants[{i}]"), format!("there is no Tenant `{tenant}`"));
        }
    }
}

#[cfg(test)]
#[path = "tenants_test.rs"]
mod tenants_test;
