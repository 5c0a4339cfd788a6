//! Where the mesh's resources and join tokens rest. One trait, one contract test, several implementations.
//!
//! Every implementation holds: a commit is one step (all of it or none), is durable before it is acknowledged, is
//! refused if it was not computed from the present revision, and the revision only grows. Secrets are stored hashed.

mod embedded;
mod memory;

pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;

use crate::validate::ResourceRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

#[cfg(test)]
#[path = "contract_test.rs"]
mod contract_test;

#[cfg(test)]
#[path = "killed_test.rs"]
mod killed_test;

pub trait Store: Send + Sync + fmt::Debug {
    /// All resources at one revision.
    fn load(&self) -> Result<Contents, StoreError>;

    /// Carries out a change that was computed from revision `after`; returns the new revision. When this returns, the
    /// change survives the loss of power. `Conflict`: somebody else was first; nothing was changed.
    fn commit(&self, after: u64, change: &Change) -> Result<u64, StoreError>;

    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError>;

    fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError>;

    /// Replaces a token's record if it still is what the caller saw; false if not. `None` means absent on either side.
    fn swap_token(&self, id: &str, seen: Option<&TokenRecord>, new: Option<&TokenRecord>) -> Result<bool, StoreError>;

    /// What the identity service must not forget, `<kind>/<name>` → JSON: revocations, bindings, heads.
    fn fact(&self, name: &str) -> Result<Option<Value>, StoreError>;

    /// All facts whose names begin with `prefix`, by name.
    fn facts(&self, prefix: &str) -> Result<Vec<(String, Value)>, StoreError>;

    /// As [`swap_token`](Self::swap_token), for a fact.
    fn swap_fact(&self, name: &str, seen: Option<&Value>, new: Option<&Value>) -> Result<bool, StoreError>;
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    pub revision: u64,
    pub resources: BTreeMap<ResourceRef, StoredResource>,
    /// VIPs that were given to services that ask for none in particular.
    pub vips: BTreeMap<ResourceRef, Vec<IpAddr>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredResource {
    pub json: serde_json::Value,
    /// Of its last change.
    pub revision: u64,
    /// `api`, or `file:<path>`.
    pub origin: String,
}

/// What one commit does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    pub puts: Vec<Put>,
    pub deletes: Vec<ResourceRef>,
    /// VIPs given from now on; an empty list gives them back.
    pub vips: BTreeMap<ResourceRef, Vec<IpAddr>>,
    /// Facts that are written, or with `None` removed, in the same step, whatever was there.
    pub facts: BTreeMap<String, Option<Value>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    pub key: ResourceRef,
    pub json: serde_json::Value,
    pub origin: String,
}

/// A join token as it is kept. The secret itself is in nobody's hands but the workload's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub id: String,
    pub secret_sha256: [u8; 32],
    /// `<namespace>/<name>`.
    pub workload: String,
    pub spiffe_id: String,
    pub created_unix_ms: i64,
    pub expires_unix_ms: i64,
    pub state: TokenState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenState {
    Unused,
    /// By the holder of this key (SHA-256 of its point); the same key may ask again, in case the answer was lost.
    Used {
        key_sha256: [u8; 32],
        at_unix_ms: i64,
    },
    Revoked,
}

impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord")
            .field("id", &self.id)
            .field("secret_sha256", &"[redacted]")
            .field("workload", &self.workload)
            .field("expires_unix_ms", &self.expires_unix_ms)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store moved on to revision {now} while this change was computed from {after}; read again and retry")]
    Conflict { after: u64, now: u64 },
    #[error(
        "revision {revision} of operator {operator} awaits confirmation; run `isthmus confirm` or `isthmus confirm --roll-back`, then try again"
    )]
    Waiting { revision: u64, operator: String },
    #[error("the store failed: {0}; check the disk under stateDir (space, health), then restart the control plane")]
    Io(String),
    #[error("the store was written by a newer version (format {found}, this build knows {known}); run that version")]
    Format { found: u64, known: u64 },
    #[error("{what} in the store cannot be read: {why}; restore the file from a backup")]
    Damaged { what: String, why: String },
}

impl ResourceRef {
    /// `Kind/namespace/name`: names hold no slash, so this is one to one, and sorts as the reference does.
    fn to_key(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }

    fn from_key(key: &str) -> Option<ResourceRef> {
        let mut parts = key.splitn(3, '/');
        Some(ResourceRef::new(parts.next()?, parts.next()?, parts.next()?))
    }
}
