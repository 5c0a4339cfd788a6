//! What an operator's change leaves in the audit log, written before the change is: who, which revision, which resources;
//! and, in a line of its own, each step between Observe and Enforce.

use crate::audit::{AuditLog, Event, What};
use crate::ledger::World;
use crate::store::{Change, StoreError};
use crate::validate::ResourceRef;
use serde_json::Value;

/// Names in one line. What is more is counted.
const NAMED: usize = 20;

/// The lines for a change that is about to be committed.
pub(super) fn write(audit: &AuditLog, world: &World, change: &Change, operator: &str) -> Result<(), StoreError> {
    let steps = change.puts.iter().filter_map(|put| step(world, &put.key, &put.json));
    for event in steps.chain([summary(world, change)]) {
        append(audit, Event { operator: operator.to_owned(), ..event })?;
    }
    Ok(())
}

/// One line about something other than resources.
pub(crate) fn append(audit: &AuditLog, event: Event) -> Result<(), StoreError> {
    audit.append(event).map(drop).map_err(|error| StoreError::Io(error.to_string()))
}

/// A step from watching to refusing, or back.
fn step(world: &World, key: &ResourceRef, json: &Value) -> Option<Event> {
    let (field, on) = match key.kind.as_str() {
        "Enforcement" => ("/spec/mode", key.qualified()),
        "MeshConfig" => ("/spec/enforcement", "the mesh".to_owned()),
        _ => return None,
    };
    let mode = |json: &Value| json.pointer(field).and_then(Value::as_str).map(str::to_owned);
    let before = world.resources.get(key).and_then(|resource| mode(&resource.json));
    let after = mode(json).filter(|after| before.as_ref() != Some(after))?;
    let what = if after == "Enforce" { What::Enforced } else { What::Observed };
    let reason = before.map(|before| format!("was {before}")).unwrap_or_default();
    Some(Event { what, workload: on, reason, ..Event::default() })
}

fn summary(world: &World, change: &Change) -> Event {
    let word = |key: &ResourceRef| if world.resources.contains_key(key) { "updated" } else { "created" };
    let puts = change.puts.iter().map(|put| format!("{} {}", put.key, word(&put.key)));
    let deletes = change.deletes.iter().map(|key| format!("{key} deleted"));
    let count = change.puts.len() + change.deletes.len();
    let mut names: Vec<String> = puts.chain(deletes).take(NAMED).collect();
    if count > NAMED {
        names.push(format!("and {} more", count - NAMED));
    }
    let reason = format!("revision {}: {}", world.revision + 1, names.join(", "));
    Event { what: What::Changed, count: count as u64, reason, ..Event::default() }
}
