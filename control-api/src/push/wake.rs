//! From commits to the streams that they concern. Several commits in a row are looked at together, and a stream that was
//! woken looks at the latest world: a burst becomes one push.

use super::registry::Registry;
use crate::ledger::Ledger;
use std::sync::Arc;

/// Runs for as long as there is a ledger.
pub async fn follow(ledger: Arc<Ledger>, registry: Arc<Registry>) {
    let mut worlds = ledger.watch();
    let mut seen = worlds.borrow_and_update().revision;
    registry.publish(seen, None);
    while worlds.changed().await.is_ok() {
        let present = worlds.borrow_and_update().revision;
        registry.publish(present, ledger.committed_after(seen, present).as_deref());
        seen = present;
    }
}
