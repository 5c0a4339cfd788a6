//! Who changed what, in the audit log before it is made: what cannot be logged does not happen.

use super::{Author, World};
use crate::audit::{AuditLog, Event, What, difference};
use crate::store::{Change, StoreError};
use crate::validate::ResourceRef;

/// Names in one line. What is more is counted.
const NAMED: usize = 20;

/// Before the commit.
pub(super) fn write_down(
    record: Option<&AuditLog>,
    world: &World,
    change: &Change,
    author: &Author,
) -> Result<(), StoreError> {
    let Some(record) = record else { return Ok(()) };
    let before = |key: &ResourceRef| world.resources.get(key).map(|resource| &resource.json);
    let puts = change.puts.iter().map(|put| (&put.key, Some(&put.json)));
    let deletes = change.deletes.iter().map(|key| (key, None));
    let changes =
        puts.chain(deletes).filter_map(|(key, after)| difference::changed(&key.to_string(), before(key), after));
    let (count, reason) = summary(world, change, author);
    let event = |changes| Event {
        what: What::Changed,
        operator: author.who.clone(),
        reason: reason.clone(),
        count,
        revision: world.revision + 1,
        changes,
        ..Event::default()
    };
    let written = record.append_all(difference::lines(changes).into_iter().map(event));
    written.map(drop).map_err(|error| StoreError::Unrecorded(error.to_string()))
}

/// In a sentence, for whoever reads over many lines.
fn summary(world: &World, change: &Change, author: &Author) -> (u64, String) {
    let word = |key: &ResourceRef| if world.resources.contains_key(key) { "updated" } else { "created" };
    let puts = change.puts.iter().map(|put| format!("{} {}", put.key, word(&put.key)));
    let deletes = change.deletes.iter().map(|key| format!("{key} deleted"));
    let count = change.puts.len() + change.deletes.len();
    let mut names: Vec<String> = puts.chain(deletes).take(NAMED).collect();
    if count > NAMED {
        names.push(format!("and {} more", count - NAMED));
    }
    let how = match author.how.as_str() {
        "" | "apply" | "delete" => String::new(),
        how => format!("{how}: "),
    };
    (count as u64, format!("{how}revision {}: {}", world.revision + 1, names.join(", ")))
}

/// The log said that it would be changed.
pub(super) fn not_done(record: Option<&AuditLog>, error: &StoreError, world: &World) {
    let Some(record) = record else { return };
    let (revision, reason) = (world.revision + 1, error.to_string());
    let event = Event { what: What::ChangeFailed, revision, reason, ..Event::default() };
    if let Err(error) = record.append(event) {
        tracing::error!(%error, revision, "a change that failed is in the audit log as if it had been made");
    }
}
