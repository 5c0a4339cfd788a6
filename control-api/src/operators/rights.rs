//! What somebody may do: the sum of the OperatorRoles that name him or one of his groups. Nothing is given by default.
//!
//! `viewer` sees, `policy-editor` also changes what a team writes about its own services, `admin` does everything. Who is
//! who (Workloads, join tokens), what is the whole mesh's and who has which role is changed by admins alone.

use super::{FIRST, Who};
use crate::ledger::World;
use crate::validate::ResourceRef;
use crate::validate::resource::{OperatorRole, Spec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tonic::Status;

pub use crate::validate::resource::Role;

/// Kinds that a policy-editor changes in their namespaces. Of every other kind only an admin does.
const EDITED: &[&str] = &[
    "ServicePolicy",
    "TrafficPolicy",
    "EgressPolicy",
    "AuthenticationPolicy",
    "Enforcement",
    "Bypass",
    "Service",
    "Endpoints",
    "EndpointSlice",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
];
/// Of the whole mesh, and of no concern to somebody who sees a few namespaces of it.
const SECRET: &[&str] = &["OperatorRole", "Tenant"];
/// Names of a refusal: whom to ask. More than that nobody asks.
const MOST_ADMINS: usize = 5;

/// Which namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    #[default]
    Nothing,
    These(BTreeSet<String>),
    All,
}

impl Reach {
    fn add(&mut self, more: Reach) {
        *self = match (std::mem::take(self), more) {
            (Reach::All, _) | (_, Reach::All) => Reach::All,
            (Reach::Nothing, other) | (other, Reach::Nothing) => other,
            (Reach::These(a), Reach::These(b)) => Reach::These(a.into_iter().chain(b).collect()),
        };
    }

    fn holds(&self, namespace: &str) -> bool {
        match self {
            Reach::Nothing => false,
            Reach::These(some) => some.contains(namespace),
            Reach::All => true,
        }
    }
}

/// What somebody may do at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub admin: bool,
    pub view: Reach,
    pub edit: Reach,
}

impl Rights {
    pub fn of(world: &World, who: &Who) -> Rights {
        let mut rights = Rights::default();
        if let Some(scope) = &who.robot {
            rights.give(scope.role, &scope.namespaces);
            return rights;
        }
        if who.name == FIRST {
            rights.give(Role::Admin, &[]);
        }
        for role in roles(world).filter(|role| names(role, who)) {
            rights.give_reach(role.role, reach_of(role, world));
        }
        rights
    }

    fn give(&mut self, role: Role, namespaces: &[String]) {
        let reach = match namespaces {
            [] => Reach::All,
            some => Reach::These(some.iter().cloned().collect()),
        };
        self.give_reach(role, reach);
    }

    fn give_reach(&mut self, role: Role, reach: Reach) {
        match role {
            Role::Viewer => self.view.add(reach),
            Role::PolicyEditor => {
                self.view.add(reach.clone());
                self.edit.add(reach);
            }
            Role::Admin => {
                self.admin = true;
                self.view = Reach::All;
                self.edit = Reach::All;
            }
        }
    }

    pub fn any(&self) -> bool {
        let some = |reach: &Reach| !matches!(reach, Reach::Nothing) && *reach != Reach::These(BTreeSet::new());
        self.admin || some(&self.view) || some(&self.edit)
    }

    pub fn sees_all(&self) -> bool {
        self.view == Reach::All
    }

    /// What is the whole mesh's is seen by whoever has a role in it.
    pub fn sees(&self, namespace: &str) -> bool {
        if namespace.is_empty() { self.any() } else { self.view.holds(namespace) }
    }

    pub fn sees_resource(&self, key: &ResourceRef) -> bool {
        if is_secret(key) { self.sees_all() } else { self.sees(&key.namespace) }
    }

    pub fn edits(&self, namespace: &str) -> bool {
        self.admin || (!namespace.is_empty() && self.edit.holds(namespace))
    }

    pub fn changes(&self, key: &ResourceRef) -> bool {
        self.admin || (EDITED.contains(&key.kind.as_str()) && self.edits(&key.namespace))
    }
}

/// Tells more than one's own namespaces.
pub(super) fn is_secret(key: &ResourceRef) -> bool {
    SECRET.contains(&key.kind.as_str())
}

/// As a refusal names it.
pub(super) fn role_to_change(key: &ResourceRef) -> String {
    match EDITED.contains(&key.kind.as_str()) {
        true => format!("policy-editor of namespace {}", key.namespace),
        false => "admin".to_string(),
    }
}

pub(super) fn refusal(world: &World, name: &str, what: &str, role: &str) -> Status {
    Status::permission_denied(format!(
        "operator {name} may not {what}: that takes the role {role}, which an OperatorRole gives; ask an admin: {}",
        admins(world).join(", ")
    ))
}

/// Whom to ask, a few.
fn admins(world: &World) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for role in roles(world).filter(|role| role.role == Role::Admin) {
        found.extend(role.operators.iter().cloned());
        found.extend(role.groups.iter().map(|group| format!("group {group}")));
    }
    found.truncate(MOST_ADMINS);
    found.push(format!("{FIRST} (operator.yaml of the control plane)"));
    found
}

fn roles(world: &World) -> impl Iterator<Item = &OperatorRole> {
    world.resources.of_kind("OperatorRole", None).filter_map(|resource| match &resource.spec {
        Spec::OperatorRole(role) => Some(role),
        _ => None,
    })
}

/// A tenant without a namespace, or that is gone, gives nothing: empty is never "all".
fn reach_of(role: &OperatorRole, world: &World) -> Reach {
    if role.namespaces.is_empty() && role.tenants.is_empty() {
        return Reach::All;
    }
    let mut these: BTreeSet<String> = role.namespaces.iter().cloned().collect();
    for name in &role.tenants {
        let tenant = world.resources.get(&ResourceRef::new("Tenant", "", name));
        if let Some(Spec::Tenant(tenant)) = tenant.map(|tenant| &tenant.spec) {
            these.extend(tenant.namespaces.iter().cloned());
        }
    }
    Reach::These(these)
}

fn names(role: &OperatorRole, who: &Who) -> bool {
    role.operators.contains(&who.name) || role.groups.iter().any(|group| who.groups.contains(group))
}
