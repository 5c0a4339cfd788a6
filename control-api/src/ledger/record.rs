//! Who changed what, in the audit log before it is made: what cannot be logged does not happen.

use super::{Author, World};
use crate::audit::{AuditLog, Event, What, difference};
use crate::store::{Change, StoreError};
use crate::validate::ResourceRef;

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
    let event = |changes| Event {
        what: What::Changed,
        operator: author.who.clone(),
        reason: author.how.clone(),
        revision: world.revision + 1,
        changes,
        ..Event::default()
    };
    let written = record.append_all(difference::lines(changes).into_iter().map(event));
    written.map(drop).map_err(|error| StoreError::Unrecorded(error.to_string()))
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
