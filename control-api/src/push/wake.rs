//! From commits to the streams that they concern. Several commits in a row are looked at together, and a stream that was
//! woken looks at the latest world: a burst becomes one push.

use super::registry::Registry;
use crate::ledger::{Ledger, World};
use std::sync::Arc;

/// Runs for as long as there is a ledger.
pub async fn follow(ledger: Arc<Ledger>, registry: Arc<Registry>) {
    let mut worlds = ledger.watch();
    let (first, mut seen) = position(&worlds.borrow_and_update());
    registry.publish(first, seen, None);
    while worlds.changed().await.is_ok() {
        let (revision, turn) = position(&worlds.borrow_and_update());
        registry.publish(revision, turn, ledger.committed_after(seen, turn).as_deref());
        seen = turn;
    }
}

fn position(world: &World) -> (u64, u64) {
    (world.revision, world.turn)
}
