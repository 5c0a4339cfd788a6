//! Robots' tokens and persons' invitations, as the store has them: a robot's is good until it ends, an invitation once.
//!
//! Kept as facts, `operators/token/<id>`; of the secret only the hash. Times are checked when a token is used and with
//! every call of a robot, so that revoking one takes effect at once.

use super::Scope;
use crate::identity::tokens::unavailable;
use crate::store::{Store, StoreError};
use isthmus_certs::token::split_secret;
use isthmus_certs::{JoinToken, SecretHash};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tonic::Status;

const FACTS: &str = "operators/token/";
/// Ended tokens are listed for a month, so that "why does the pipeline fail" has an answer.
const KEPT_AFTER_END_MS: i64 = 30 * 86_400_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub id: String,
    pub secret_sha256: String,
    /// `robot.<name>`, or the person's.
    pub operator: String,
    /// None: an invitation.
    pub scope: Option<Scope>,
    pub created_by: String,
    pub expires_unix_ms: i64,
    #[serde(default)]
    pub revoked: bool,
    /// 0: never.
    #[serde(default)]
    pub last_used_unix_ms: i64,
}

impl Record {
    pub fn state(&self, now_ms: i64) -> &'static str {
        match self {
            _ if self.revoked => "revoked",
            _ if self.scope.is_none() && self.last_used_unix_ms > 0 => "used",
            _ if self.expires_unix_ms <= now_ms => "expired",
            _ => "valid",
        }
    }

    /// Why it is not good any more.
    pub fn check(&self, now_ms: i64) -> Result<(), Status> {
        match self.state(now_ms) {
            "valid" => Ok(()),
            state => Err(Status::unauthenticated(format!(
                "token {} of {} is {state}; ask an admin for a new one (`isthmus robot create`, `isthmus invite`)",
                self.id, self.operator
            ))),
        }
    }
}

fn name_of(id: &str) -> String {
    format!("{FACTS}{id}")
}

fn read(name: &str, value: Value) -> Result<Record, StoreError> {
    serde_json::from_value(value)
        .map_err(|error| StoreError::Damaged { what: name.to_string(), why: error.to_string() })
}

fn write(record: &Record) -> Result<Value, Status> {
    serde_json::to_value(record).map_err(|error| Status::internal(error.to_string()))
}

pub fn create(store: &dyn Store, token: &JoinToken, record: &Record) -> Result<(), Status> {
    let record = Record { secret_sha256: hash_of(token.secret_hash()), ..record.clone() };
    match store.swap_fact(&name_of(&record.id), None, Some(&write(&record)?)).map_err(unavailable)? {
        true => Ok(()),
        false => Err(Status::aborted("a token of this id exists; try again")),
    }
}

pub fn hash_of(hash: SecretHash) -> String {
    crate::audit::chain::hex(hash.as_bytes())
}

pub fn list(store: &dyn Store) -> Result<Vec<Record>, StoreError> {
    store.facts(FACTS)?.into_iter().map(|(name, value)| read(&name, value)).collect()
}

pub fn get(store: &dyn Store, id: &str) -> Result<Option<Record>, StoreError> {
    let name = name_of(id);
    store.fact(&name)?.map(|value| read(&name, value)).transpose()
}

/// Final; doing it again is no error.
pub fn revoke(store: &dyn Store, id: &str) -> Result<Record, Status> {
    loop {
        let seen = get(store, id).map_err(unavailable)?;
        let seen = seen.ok_or_else(|| Status::not_found(format!("there is no token {id} of a robot or a person")))?;
        let revoked = Record { revoked: true, ..seen.clone() };
        if seen.revoked
            || store.swap_fact(&name_of(id), Some(&write(&seen)?), Some(&write(&revoked)?)).map_err(unavailable)?
        {
            return Ok(revoked);
        }
    }
}

/// The token that a secret belongs to, marked as used; an invitation is used up by it. Unknown and wrong look the same.
pub fn redeem(store: &dyn Store, secret: &str, now_ms: i64) -> Result<Record, Status> {
    let unknown = || Status::unauthenticated("the token is not known here; ask an admin for a new one");
    let (id, hash) = split_secret(secret).map_err(|_| unknown())?;
    loop {
        let seen = get(store, id).map_err(unavailable)?.ok_or_else(unknown)?;
        let kept: Option<[u8; 32]> = crate::audit::chain::unhex(&seen.secret_sha256);
        if !kept.is_some_and(|kept| hash.matches(&SecretHash::from_bytes(kept))) {
            return Err(unknown());
        }
        seen.check(now_ms)?;
        let used = Record { last_used_unix_ms: now_ms, ..seen.clone() };
        if used == seen
            || store.swap_fact(&name_of(id), Some(&write(&seen)?), Some(&write(&used)?)).map_err(unavailable)?
        {
            return Ok(used);
        }
    }
}

/// Forgets tokens that ended long ago.
pub fn sweep(store: &dyn Store, now_ms: i64) -> Result<usize, StoreError> {
    let mut swept = 0;
    for (name, value) in store.facts(FACTS)? {
        if read(&name, value.clone())?.expires_unix_ms + KEPT_AFTER_END_MS < now_ms {
            swept += usize::from(store.swap_fact(&name, Some(&value), None)?);
        }
    }
    Ok(swept)
}
