//! Where the mesh's resources and join tokens rest. One trait, one contract test, several implementations.
//!
//! Every implementation holds: a commit is one step (all of it or none), is durable before it is acknowledged, is
//! refused if it was not computed from the present revision, and the revision only grows. Secrets are stored hashed.
//! Several control planes may share a store (etcd): each learns of the others' commits by [`Store::since`], and what only
//! one may do is done by the one that [`Store::leads`], fenced by the store itself.

mod codec;
mod embedded;
mod etcd;
mod memory;
pub mod open;
mod recent;

pub use codec::{Codec, Wrap};
pub use embedded::EmbeddedStore;
pub use etcd::{EtcdOptions, EtcdStore};
pub use memory::MemoryStore;
pub use recent::{Commit, Since};

use crate::validate::ResourceRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

#[cfg(test)]
#[path = "contract_test.rs"]
mod contract_test;

#[cfg(test)]
#[path = "full_disk_test.rs"]
mod full_disk_test;

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

    /// As [`swap_fact`](Self::swap_fact), and only while this process leads: the store itself refuses it (`NotLeading`)
    /// to one that has led and does not know yet that it leads no longer.
    fn swap_fact_leading(&self, name: &str, seen: Option<&Value>, new: Option<&Value>) -> Result<bool, StoreError> {
        self.swap_fact(name, seen, new)
    }

    /// What was committed after a revision, by whomever, in order. Waits up to `within` while there is nothing.
    fn since(&self, after: u64, within: Duration) -> Result<Since, StoreError>;

    /// Whether other processes may write to it too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether this process may do what only one may do.
    fn leads(&self) -> bool {
        true
    }

    /// What the processes that share the store tell each other; none where there is only one.
    fn replicas(&self) -> Option<&dyn Replicas> {
        None
    }

    /// Everything, as it is at one moment.
    fn dump(&self) -> Result<Dump, StoreError>;

    /// Takes over what another store held. Refused (`NotEmpty`) where there is anything already; all of it or nothing.
    fn fill(&self, dump: &Dump) -> Result<(), StoreError>;
}

/// What a control plane knows of the others on the same store. What it says of itself is gone when it is.
pub trait Replicas {
    /// This process, among the others.
    fn name(&self) -> String;

    /// Who is there, and what each says of itself, this one included.
    fn all(&self) -> BTreeMap<String, Value>;

    /// What the others are to know of this process.
    fn say(&self, of_itself: Value) -> Result<(), StoreError>;

    /// Whose stream this process serves from now on, and whose no longer.
    fn hold(&self, workloads: &[(String, bool)]) -> Result<(), StoreError>;

    /// Whose streams others serve.
    fn held_elsewhere(&self) -> BTreeSet<String>;

    /// For how long the store has not been reached, by our own clock; none while it is, or was a moment ago. The others take
    /// this process for dead meanwhile.
    fn cut_off(&self) -> Option<Duration>;

    /// The replica that leads, if any does.
    fn leader(&self) -> Option<String>;
}

/// All that a store holds: for backups and for the move to another store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dump {
    pub revision: u64,
    pub resources: BTreeMap<String, StoredResource>,
    pub vips: BTreeMap<String, Vec<IpAddr>>,
    pub tokens: Vec<TokenRecord>,
    pub facts: BTreeMap<String, Value>,
}

impl Dump {
    pub fn is_empty(&self) -> bool {
        *self == Dump::default()
    }
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
    /// Facts that come and go with it, whatever they were before.
    pub facts: BTreeMap<String, Option<Value>>,
    /// Roots or revocations are other ones, and everybody is to read them again.
    pub trust: bool,
    /// Refused (`NotLeading`) unless this process leads.
    pub leading: bool,
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
    #[error("this takes a second operator: {}", reasons.join("; "))]
    TakesTwo { reasons: Vec<String> },
    #[error("the store failed: {0}; check the disk under stateDir (space, health), then restart the control plane")]
    Io(String),
    #[error("{0}; nothing was changed")]
    Unrecorded(String),
    #[error("the store was written by a newer version (format {found}, this build knows {known}); run that version")]
    Format { found: u64, known: u64 },
    #[error("{what} in the store cannot be read: {why}; restore the file from a backup")]
    Damaged { what: String, why: String },
    #[error("the store cannot be reached: {0}; it is tried again, and what is in force stays so")]
    Unreachable(String),
    #[error(
        "the store did not answer in time ({0}); whether the change was made is not known: look before trying again"
    )]
    Unknown(String),
    #[error("another control plane leads ({leader}); ask that one, or try again in a moment")]
    NotLeading { leader: String },
    #[error("the store is locked: {0}")]
    Sealed(String),
    #[error("the store holds something already (revision {revision}); name an empty one")]
    NotEmpty { revision: u64 },
    #[error("{what} has {bytes} bytes; the store takes {most} at most: split it")]
    TooLarge { what: String, bytes: usize, most: usize },
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

fn dump_of(contents: Contents, tokens: Vec<TokenRecord>, facts: BTreeMap<String, Value>) -> Dump {
    Dump {
        revision: contents.revision,
        resources: contents.resources.into_iter().map(|(key, resource)| (key.to_key(), resource)).collect(),
        vips: contents.vips.into_iter().map(|(key, vips)| (key.to_key(), vips)).collect(),
        tokens,
        facts,
    }
}

fn contents_of(dump: &Dump) -> Result<Contents, StoreError> {
    let mut contents = Contents { revision: dump.revision, ..Contents::default() };
    for (key, resource) in &dump.resources {
        contents.resources.insert(reference(key)?, resource.clone());
    }
    for (key, vips) in &dump.vips {
        contents.vips.insert(reference(key)?, vips.clone());
    }
    Ok(contents)
}

fn reference(key: &str) -> Result<ResourceRef, StoreError> {
    let damaged = || StoreError::Damaged { what: key.to_string(), why: "not Kind/namespace/name".to_string() };
    ResourceRef::from_key(key).ok_or_else(damaged)
}
