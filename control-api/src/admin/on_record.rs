//! What an operator's change leaves in the audit log besides the change itself ([`crate::ledger`] writes that down): each step
//! between Observe and Enforce, in a line of its own, before it is done.

use crate::audit::{AuditLog, Event, What};
use crate::ledger::World;
use crate::store::{Change, StoreError};
use crate::validate::ResourceRef;
use serde_json::Value;

/// The steps of a change that is about to be committed.
pub(super) fn write(audit: &AuditLog, world: &World, change: &Change, operator: &str) -> Result<(), StoreError> {
    let steps = change.puts.iter().filter_map(|put| step(world, &put.key, &put.json));
    for event in steps {
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
