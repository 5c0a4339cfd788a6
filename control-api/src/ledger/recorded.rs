//! Every change is in the audit log before it is made: who, what, and the difference. What cannot be logged does not
//! happen; what was logged and failed all the same is logged as that.

use super::{Ledger, Proposal, World};
use crate::audit::{Event, What, difference};
use crate::store::{Change, StoreError};
use crate::validate::ResourceRef;

impl Ledger {
    /// Who changes what, before it is changed.
    pub(super) fn write_down(&self, world: &World, change: &Change, proposal: &Proposal) -> Result<(), StoreError> {
        let Some(record) = &self.record else { return Ok(()) };
        let before = |key: &ResourceRef| world.resources.get(key).map(|resource| &resource.json);
        let puts = change.puts.iter().map(|put| (&put.key, Some(&put.json)));
        let deletes = change.deletes.iter().map(|key| (key, None));
        let changes =
            puts.chain(deletes).filter_map(|(key, after)| difference::changed(&key.to_string(), before(key), after));
        let event = |changes| Event {
            what: What::Changed,
            operator: proposal.author.who.clone(),
            reason: proposal.author.how.clone(),
            revision: world.revision + 1,
            changes,
            ..Event::default()
        };
        let written = record.append_all(difference::lines(changes).into_iter().map(event));
        written.map(drop).map_err(|error| StoreError::Unrecorded(error.to_string()))
    }

    /// The log said that it would be changed.
    pub(super) fn not_done(&self, error: &StoreError, world: &World) {
        let Some(record) = &self.record else { return };
        let (revision, reason) = (world.revision + 1, error.to_string());
        let event = Event { what: What::ChangeFailed, revision, reason, ..Event::default() };
        if let Err(error) = record.append(event) {
            tracing::error!(%error, revision, "a change that failed is in the audit log as if it had been made");
        }
    }
}
