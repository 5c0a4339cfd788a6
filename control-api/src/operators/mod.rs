//! Who may do what on the operators' port.
//!
//! Certificates come from [`login`], by tokens that [`access`] keeps. A call passes [`gate`] first: the certificate on its connection says who asks, the [`needs`] table says what the call
//! asks for, and [`rights`] says what OperatorRoles give. What depends on the content of a call (which namespaces a
//! document is of) is decided by its handler, with the same rights. Refused: every call that the table does not know,
//! every operator without a role, certificates that have ended or were revoked. A refusal says which role is missing and
//! who can give it.

pub mod access;
pub mod gate;
pub mod keys;
pub mod login;
pub mod needs;
pub mod oidc;
pub mod rights;
pub mod session;
pub mod standard;
pub mod token;

pub use gate::Gatekeeper;
pub use rights::{Reach, Rights};

use crate::ledger::World;
use crate::validate::ResourceRef;
use isthmus_certs::SpiffeId;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;

#[cfg(test)]
#[path = "needs_test.rs"]
mod needs_test;
#[cfg(test)]
#[path = "rights_test.rs"]
mod rights_test;

/// The operator that the control plane's first start makes. Admin whatever the OperatorRoles say, so that nobody can
/// lock everybody out; its file is in the state directory.
pub const FIRST: &str = "admin";

/// Who asks, as the certificate proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub name: String,
    /// Of the sign-in that the certificate came from; empty for one that came from none.
    pub groups: BTreeSet<String>,
    /// A robot's rights come with its token, and it has no others.
    pub robot: Option<Scope>,
}

/// What a robot token is good for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    pub role: rights::Role,
    pub namespaces: Vec<String>,
}

/// Who asks, and what they may do at the moment of asking. In the extensions of every request that passed the gate.
#[derive(Clone, Debug)]
pub struct Caller {
    pub who: Who,
    pub id: SpiffeId,
    pub serial: String,
    pub not_after_unix_ms: i64,
    pub rights: Arc<Rights>,
    world: Arc<World>,
}

impl Caller {
    pub fn name(&self) -> &str {
        &self.who.name
    }

    /// Whether something of this namespace is shown. The empty one is the whole mesh's: sites, links, its configuration.
    pub fn sees(&self, namespace: &str) -> bool {
        self.rights.sees(namespace)
    }

    /// `<namespace>/<name>`.
    pub fn sees_workload(&self, workload: &str) -> bool {
        self.sees(workload.split_once('/').map_or(workload, |(namespace, _)| namespace))
    }

    pub fn sees_resource(&self, key: &ResourceRef) -> bool {
        self.rights.sees_resource(key)
    }

    /// Refuses unless this resource may be looked at.
    pub fn may_see(&self, key: &ResourceRef) -> Result<(), Status> {
        match self.sees_resource(key) {
            true => Ok(()),
            false if rights::is_secret(key) => Err(self.refuse(&format!("see {key}"), "viewer of the whole mesh")),
            false => Err(self.refuse(&format!("see {key}"), &format!("viewer of namespace {}", key.namespace))),
        }
    }

    /// Refuses unless all of these may be changed; with `dry_run`, unless all of them may be seen.
    pub fn may_change<'a>(&self, keys: impl IntoIterator<Item = &'a ResourceRef>, dry_run: bool) -> Result<(), Status> {
        for key in keys {
            if dry_run && self.sees_resource(key) {
                continue;
            }
            if !self.rights.changes(key) {
                return Err(self.refuse(&format!("change {key}"), &rights::role_to_change(key)));
            }
        }
        Ok(())
    }

    /// The same for what was found to change and not named by the caller: of what he may not see, not even the name is told.
    pub fn may_change_found<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a ResourceRef>,
        dry_run: bool,
    ) -> Result<(), Status> {
        let keys: Vec<&ResourceRef> = keys.into_iter().collect();
        match keys.iter().all(|key| self.sees_resource(key)) {
            true => self.may_change(keys, dry_run),
            false => Err(self.refuse("change all that this would change", "admin")),
        }
    }

    pub fn may_edit_namespace(&self, namespace: &str, what: &str) -> Result<(), Status> {
        match self.rights.edits(namespace) {
            true => Ok(()),
            false => Err(self.refuse(what, &format!("policy-editor of namespace {namespace}"))),
        }
    }

    pub fn must_be_admin(&self, what: &str) -> Result<(), Status> {
        match self.rights.admin {
            true => Ok(()),
            false => Err(self.refuse(what, "admin")),
        }
    }

    /// Which role is missing, and who could give it.
    pub fn refuse(&self, what: &str, role: &str) -> Status {
        rights::refusal(&self.world, self.name(), what, role)
    }
}
