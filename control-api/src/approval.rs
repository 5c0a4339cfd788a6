//! Changes that take two operators: which they are (`operators.secondApprover` of the configuration), and those that wait for
//! the second one. What waits is kept as it was asked for, and done by the approval: if by then it would do something else
//! that takes two, it is refused.

use crate::ledger::World;
use crate::store::{Change, Store, StoreError};
use crate::validate::ResourceRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

#[cfg(test)]
#[path = "approval_test.rs"]
mod approval_test;

const FACTS: &str = "approvals/";
/// Of all operators together: more is a script that asks without end.
const MOST: usize = 100;
/// Of one request, as it is kept: what every store takes as one value.
const MOST_BYTES: usize = 1 << 20;
/// A deny is for these alone, and one that moves elsewhere is gone from where it was.
const SCOPE: &[&str] = &["services", "workloads"];
/// Where `Deny` stands for whatever no rule names.
const DEFAULTS: &[&str] = &["/spec/default", "/spec/defaults/action", "/spec/egress/default"];
const PERMISSIVE: &str = "Permissive";

/// What takes two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Concern {
    /// The steps of a rotation, and the import of an intermediate.
    Ca,
    /// A deny rule that goes, is for others or is only recorded; a default that is `Deny` no longer.
    DenyRemoval,
    /// A `transport` that becomes `Permissive`.
    Permissive,
    /// OperatorRoles.
    Roles,
}

/// `operators: { secondApprover: { of: [ca, denyRemoval, permissive, roles], within: 24h } }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SecondApprover {
    pub of: BTreeSet<Concern>,
    /// What nobody has approved by then is forgotten.
    #[serde(deserialize_with = "crate::config::span")]
    pub within: Duration,
}

impl Default for SecondApprover {
    fn default() -> Self {
        SecondApprover { of: BTreeSet::new(), within: Duration::from_secs(86_400) }
    }
}

impl SecondApprover {
    pub fn check(&self) -> Result<(), String> {
        match (Duration::from_secs(60)..=Duration::from_secs(30 * 86_400)).contains(&self.within) {
            true => Ok(()),
            false => Err("operators.secondApprover.within: is not between 1m and 30d".to_string()),
        }
    }
}

/// Which call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    Apply,
    Delete,
    Rollback,
    Rotate,
    Import,
}

/// One that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    pub id: String,
    pub author: String,
    pub asked_unix_ms: i64,
    pub until_unix_ms: i64,
    /// As the author would say it: `apply`, `ca rotate promote`.
    pub what: String,
    pub reasons: Vec<String>,
    /// Kind, namespace and name of what it changes; none of a step of the CA.
    pub keys: Vec<(String, String, String)>,
    pub call: Call,
    /// The request as it came, in base64.
    pub request: String,
}

/// What the second one has said yes to.
#[derive(Clone, Copy, Debug)]
pub struct Approved<'a> {
    pub author: &'a str,
    pub by: &'a str,
    pub reasons: &'a [String],
}

impl Approved<'_> {
    /// Who it was and how, for the record and the history.
    pub fn in_words(&self, how: &str) -> String {
        format!("{how}, approved by {}", self.by)
    }
}

impl Pending {
    pub fn keys(&self) -> Vec<ResourceRef> {
        self.keys.iter().map(|(kind, namespace, name)| ResourceRef::new(kind, namespace, name)).collect()
    }

    fn fact(&self) -> String {
        format!("{FACTS}{}", self.id)
    }

    fn json(&self) -> Result<Value, StoreError> {
        serde_json::to_value(self).map_err(|error| StoreError::Io(error.to_string()))
    }
}

/// Refuses a change that takes two, unless the second one has said yes to just that.
pub fn gate(
    of: &BTreeSet<Concern>,
    world: &World,
    change: &Change,
    approved: Option<&Approved<'_>>,
) -> Result<(), StoreError> {
    let puts = change.puts.iter().map(|put| (&put.key, Some(&put.json)));
    let mut reasons = reasons(of, world, puts.chain(change.deletes.iter().map(|key| (key, None))));
    reasons.retain(|reason| approved.is_none_or(|approved| !approved.reasons.contains(reason)));
    if reasons.is_empty() { Ok(()) } else { Err(StoreError::TakesTwo { reasons }) }
}

/// Why a change takes two; empty: it does not. Each resource comes with what it will be, none where it goes.
pub fn reasons<'a>(
    of: &BTreeSet<Concern>,
    world: &World,
    changes: impl Iterator<Item = (&'a ResourceRef, Option<&'a Value>)>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (key, after) in changes {
        let before = world.resources.get(key).map(|resource| &resource.json);
        if before == after {
            continue;
        }
        if of.contains(&Concern::Roles) && key.kind == "OperatorRole" {
            found.push(format!("{key}: who may do what"));
        }
        if of.contains(&Concern::DenyRemoval) {
            found.extend(denies_less(before, after).into_iter().map(|what| format!("{key}: {what}")));
        }
        if of.contains(&Concern::Permissive) {
            let there = before.map(permissive).unwrap_or_default();
            let new = after.map(permissive).unwrap_or_default().into_iter().filter(|at| !there.contains(at));
            found.extend(new.map(|at| format!("{key}: {at} becomes {PERMISSIVE}")));
        }
    }
    found
}

fn denies_less(before: Option<&Value>, after: Option<&Value>) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let rules = |json: &Value| json.pointer("/spec/deny").and_then(Value::as_array).cloned().unwrap_or_default();
    let (had, has) = (rules(before), after.map(rules).unwrap_or_default());
    let gone = had.iter().enumerate().filter(|(_, rule)| !has.contains(rule));
    let mut found: Vec<String> = gone.map(|(at, _)| format!("spec.deny[{at}] goes")).collect();
    if let Some(after) = after.filter(|_| !had.is_empty()) {
        let moved = SCOPE.iter().filter(|field| before["spec"][**field] != after["spec"][**field]);
        found.extend(moved.map(|field| format!("spec.{field} of its deny rules changes")));
        if before["spec"]["mode"] != after["spec"]["mode"] && after["spec"]["mode"] == "Audit" {
            found.push("its deny rules are only recorded".to_string());
        }
    }
    let denies = |json: &Value, at: &str| json.pointer(at).and_then(Value::as_str) == Some("Deny");
    let opened = DEFAULTS.iter().filter(|at| denies(before, at) && !after.is_some_and(|after| denies(after, at)));
    found.extend(opened.map(|at| format!("{} is Deny no longer", at[1..].replace('/', "."))));
    found
}

/// Where a resource says `Permissive`.
fn permissive(json: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![("spec".to_string(), &json["spec"])];
    while let Some((at, value)) = left.pop() {
        match value {
            Value::String(text) if text == PERMISSIVE => drop(found.insert(at)),
            Value::Array(all) => left.extend(all.iter().enumerate().map(|(i, value)| (format!("{at}[{i}]"), value))),
            Value::Object(all) => left.extend(all.iter().map(|(name, value)| (format!("{at}.{name}"), value))),
            _ => {}
        }
    }
    found
}

/// Those that wait at this moment, the oldest first.
pub fn all(store: &dyn Store, now_ms: i64) -> Result<Vec<Pending>, StoreError> {
    let mut found = Vec::new();
    for (name, value) in store.facts(FACTS)? {
        let pending: Pending = serde_json::from_value(value)
            .map_err(|error| StoreError::Damaged { what: name, why: error.to_string() })?;
        found.push(pending);
    }
    found.retain(|pending| pending.until_unix_ms > now_ms);
    found.sort_by(|a, b| (a.asked_unix_ms, &a.id).cmp(&(b.asked_unix_ms, &b.id)));
    Ok(found)
}

/// Keeps one until its time is over. Err: why it cannot wait.
pub fn keep(store: &dyn Store, pending: &Pending) -> Result<Result<(), String>, StoreError> {
    if pending.request.len() > MOST_BYTES {
        let why = format!(
            "a change that waits for a second operator has at most {} KiB; split it",
            MOST_BYTES / 4 * 3 / 1024
        );
        return Ok(Err(why));
    }
    if all(store, pending.asked_unix_ms)?.len() >= MOST {
        return Ok(Err(format!("{MOST} changes wait for a second operator already; see `isthmus approve`")));
    }
    match store.swap_fact(&pending.fact(), None, Some(&pending.json()?))? {
        true => Ok(Ok(())),
        false => Ok(Err("another one of this name waits; try again".to_string())),
    }
}

/// Waits no longer. False: somebody else was faster.
pub fn take(store: &dyn Store, pending: &Pending) -> Result<bool, StoreError> {
    store.swap_fact(&pending.fact(), Some(&pending.json()?), None)
}

/// What was taken could not be done, and waits on.
pub fn put_back(store: &dyn Store, pending: &Pending) -> Result<(), StoreError> {
    store.swap_fact(&pending.fact(), None, Some(&pending.json()?)).map(drop)
}

/// Forgets those whose time is over.
pub fn sweep(store: &dyn Store, now_ms: i64) -> Result<usize, StoreError> {
    let mut swept = 0;
    for (name, value) in store.facts(FACTS)? {
        if value.get("untilUnixMs").and_then(Value::as_i64).is_some_and(|until| until <= now_ms) {
            swept += usize::from(store.swap_fact(&name, Some(&value), None)?);
        }
    }
    Ok(swept)
}
