//! What a sign-in left behind, by the serial of the certificate that it ended in: facts `operators/session/<serial>`.
//!
//! Robots and persons who came through a provider have their rights from there, so their certificates are worth nothing
//! without it: after an older store was put back, they sign in again.

use super::{Who, access};
use crate::store::{Store, StoreError};
use isthmus_certs::Clock;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use tonic::Status;

const FACTS: &str = "operators/session/";
/// Operator names that a sign-in must account for.
pub const ROBOT: &str = "robot.";
pub const OIDC: &str = "oidc.";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    pub groups: BTreeSet<String>,
    /// The robot's token.
    pub token: String,
    /// As a provider calls the person.
    pub display_name: String,
    pub until_unix_ms: i64,
}

/// Whether a certificate of this name needs a session.
pub fn needed(operator: &str) -> bool {
    operator.starts_with(ROBOT) || operator.starts_with(OIDC)
}

pub fn keep(store: &dyn Store, serial: &str, session: &Session) -> Result<(), StoreError> {
    let value = serde_json::to_value(session).map_err(|error| StoreError::Io(error.to_string()))?;
    store.swap_fact(&format!("{FACTS}{serial}"), None, Some(&value)).map(drop)
}

pub fn find(store: &dyn Store, serial: &str) -> Result<Option<Session>, StoreError> {
    let name = format!("{FACTS}{serial}");
    let damaged = |error: serde_json::Error| StoreError::Damaged { what: name.clone(), why: error.to_string() };
    store.fact(&name)?.map(|value| serde_json::from_value(value).map_err(damaged)).transpose()
}

/// Who holds this certificate. Waits for the disk.
pub fn who(store: &dyn Store, operator: &str, serial: &str, clock: &dyn Clock) -> Result<Who, Status> {
    let name = operator.to_string();
    if !needed(operator) {
        return Ok(Who { name, groups: BTreeSet::new(), robot: None });
    }
    let unknown =
        || Status::unauthenticated(format!("the sign-in of {operator} is not known here: `isthmus login` again"));
    let session = find(store, serial).map_err(crate::identity::tokens::unavailable)?.ok_or_else(unknown)?;
    if session.token.is_empty() {
        return Ok(Who { name, groups: session.groups, robot: None });
    }
    let token = access::get(store, &session.token).map_err(crate::identity::tokens::unavailable)?;
    let token = token.filter(|token| token.operator == operator).ok_or_else(unknown)?;
    token.check(clock.now_ms())?;
    let robot = token.scope.ok_or_else(unknown)?;
    Ok(Who { name, groups: BTreeSet::new(), robot: Some(robot) })
}

/// Forgets sessions whose certificates have ended.
pub fn sweep(store: &dyn Store, now_ms: i64) -> Result<usize, StoreError> {
    let mut swept = 0;
    for (name, value) in store.facts(FACTS)? {
        let until = value.get("untilUnixMs").and_then(Value::as_i64).unwrap_or(0);
        if until < now_ms {
            swept += usize::from(store.swap_fact(&name, Some(&value), None)?);
        }
    }
    Ok(swept)
}
