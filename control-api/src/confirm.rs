//! Changes that end by themselves: an apply that nobody confirmed is taken back, a bypass whose time is over is removed.
//!
//! What it takes to go back is on disk before the change is, so that a crash at any moment leaves either nothing to take
//! back or all that is needed for it. While a change awaits its confirmation, nobody else's can come in between.

use crate::admin::on_record;
use crate::audit::{AuditLog, Event, What};
use crate::ledger::{Author, Ledger, Outcome, Proposal, World, Writer};
use crate::store::{Change, Store, StoreError};
use crate::validate::resource::Spec;
use crate::validate::{Parsed, Problem, ResourceRef, from_stored, node};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
#[path = "confirm_test.rs"]
mod confirm_test;

const PENDING: &str = "confirm/pending";
/// Between two looks at the clock: a wall clock may be set.
const LOOK: Duration = Duration::from_millis(500);
/// After one that failed.
const AGAIN: Duration = Duration::from_secs(30);

/// A change that is taken back unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// The revision that it made.
    pub revision: u64,
    pub until_unix_ms: i64,
    pub operator: String,
    /// What was there before; none: nothing.
    before: Vec<Before>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Before {
    kind: String,
    namespace: String,
    name: String,
    json: Option<Value>,
}

impl Pending {
    /// What it changed.
    pub fn keys(&self) -> Vec<ResourceRef> {
        self.before.iter().map(|b| ResourceRef::new(&b.kind, &b.namespace, &b.name)).collect()
    }
}

/// The change that awaits confirmation. One whose commit never happened is none.
pub fn pending(store: &dyn Store, present: u64) -> Result<Option<Pending>, StoreError> {
    let Some(value) = store.fact(PENDING)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| StoreError::Damaged { what: PENDING.to_string(), why: error.to_string() };
    let pending: Pending = serde_json::from_value(value).map_err(damaged)?;
    Ok((pending.revision <= present).then_some(pending))
}

/// At the start: what was noted for a commit that never happened.
pub fn forget_unborn(store: &dyn Store, present: u64) -> Result<(), StoreError> {
    if let (Some(value), None) = (store.fact(PENDING)?, pending(store, present)?) {
        store.swap_fact(PENDING, Some(&value), None)?;
    }
    Ok(())
}

/// Refuses while somebody's change awaits confirmation.
pub fn nobody_waits(store: &dyn Store, present: u64) -> Result<(), StoreError> {
    match pending(store, present)? {
        Some(Pending { revision, operator, .. }) => Err(StoreError::Waiting { revision, operator }),
        None => Ok(()),
    }
}

/// Notes what it takes to go back. Called between planning and committing, with nobody else writing.
pub fn note(
    store: &dyn Store,
    world: &World,
    change: &Change,
    until_unix_ms: i64,
    operator: &str,
) -> Result<(), StoreError> {
    nobody_waits(store, world.revision)?;
    let keys = change.puts.iter().map(|put| &put.key).chain(&change.deletes);
    let before = keys.map(|key| Before {
        kind: key.kind.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        json: world.resources.get(key).map(|resource| resource.json.clone()),
    });
    let (revision, before) = (world.revision + 1, before.collect());
    let pending = Pending { revision, until_unix_ms, operator: operator.to_string(), before };
    let value = serde_json::to_value(&pending).map_err(|error| StoreError::Io(error.to_string()))?;
    let seen = store.fact(PENDING)?;
    match store.swap_fact(PENDING, seen.as_ref(), Some(&value))? {
        true => Ok(()),
        false => Err(StoreError::Conflict { after: world.revision, now: world.revision }),
    }
}

/// It stays. False: nothing of that revision waits.
pub fn confirm(store: &dyn Store, pending: &Pending) -> Result<bool, StoreError> {
    let seen = store.fact(PENDING)?;
    let same = |value: &Value| value.get("revision").and_then(Value::as_u64) == Some(pending.revision);
    match seen.as_ref().filter(|value| same(value)) {
        Some(value) => store.swap_fact(PENDING, Some(value), None),
        None => Ok(false),
    }
}

/// Makes everything as it was before. Done twice it changes nothing. `operator` is empty where time ran out.
pub fn roll_back(ledger: &Ledger, pending: &Pending, operator: &str) -> Result<Outcome, StoreError> {
    let world = ledger.world();
    let author = Author::new(operator, format!("revision {} taken back", pending.revision));
    let mut proposal = Proposal { writer: Writer::Api, author, ..Proposal::default() };
    for before in &pending.before {
        let key = ResourceRef::new(&before.kind, &before.namespace, &before.name);
        match &before.json {
            Some(json) => {
                let damaged = |problems: Vec<Problem>| StoreError::Damaged {
                    what: key.to_string(),
                    why: problems.first().map(ToString::to_string).unwrap_or_default(),
                };
                let resource = from_stored(json).map_err(damaged)?;
                let source = format!("before revision {}", pending.revision);
                proposal.puts.push(Parsed { resource, source, node: node::from_json(json) });
            }
            None if world.resources.contains_key(&key) => proposal.deletes.push(key),
            None => {}
        }
    }
    let outcome = ledger.propose(&proposal, false)?;
    if outcome.problems.is_empty() {
        confirm(&**ledger.store(), pending)?;
    }
    Ok(outcome)
}

/// For as long as the control plane runs.
pub async fn keep(ledger: Arc<Ledger>, audit: Arc<AuditLog>) {
    let mut wait = LOOK;
    loop {
        tokio::time::sleep(wait).await;
        let (ledger, audit) = (ledger.clone(), audit.clone());
        let done = tokio::task::spawn_blocking(move || look(&ledger, &audit)).await;
        let error = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        wait = if error.is_some() { AGAIN } else { LOOK };
        if let Some(error) = error {
            tracing::error!(error, "what ends by itself did not end; trying again");
        }
    }
}

/// One look at the clock.
pub fn look(ledger: &Ledger, audit: &AuditLog) -> Result<(), StoreError> {
    let now_ms = ledger.clock().now_ms();
    let world = ledger.world();
    if let Some(pending) = pending(&**ledger.store(), world.revision)?.filter(|p| p.until_unix_ms <= now_ms) {
        let outcome = roll_back(ledger, &pending, "")?;
        match outcome.problems.first() {
            None => {
                let Pending { revision, operator, .. } = &pending;
                tracing::warn!(revision, operator, "not confirmed in time: taken back");
                let reason = format!("revision {revision} of operator {operator}, which nobody confirmed in time");
                on_record::append(audit, Event { what: What::RolledBack, reason, ..Event::default() })?;
            }
            Some(problem) => {
                let (what, why) =
                    (format!("revision {}, which nobody confirmed", pending.revision), problem.to_string());
                return Err(StoreError::Damaged { what, why });
            }
        }
    }
    end_bypasses(ledger, audit, now_ms)
}

fn end_bypasses(ledger: &Ledger, audit: &AuditLog, now_ms: i64) -> Result<(), StoreError> {
    let world = ledger.world();
    let all = world.resources.of_kind("Bypass", None);
    let over = all.filter(|r| matches!(&r.spec, Spec::Bypass(bypass) if bypass.until_unix_ms <= now_ms));
    let deletes: Vec<ResourceRef> = over.map(|resource| resource.key.clone()).collect();
    if deletes.is_empty() {
        return Ok(());
    }
    let author = Author::new("", "bypass is over");
    ledger.propose(&Proposal { deletes: deletes.clone(), author, ..Proposal::default() }, false)?;
    for key in deletes {
        tracing::warn!(bypass = key.qualified(), "the bypass is over");
        let (workload, reason) = (key.qualified(), "its time is over".to_owned());
        on_record::append(audit, Event { what: What::BypassEnded, workload, reason, ..Event::default() })?;
    }
    Ok(())
}
