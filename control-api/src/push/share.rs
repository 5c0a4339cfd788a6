//! Each control plane tells the others of its proxies, so that every one of them can answer for the whole mesh: who is
//! connected, and what is in force where. In pieces below the replica's lease, written when they change and at most twice
//! a second; what cannot be written is what the others do not know yet, and nobody waits for it.

use super::registry::{Elsewhere, Moment, Registry, Row, Share, Use, read_uses};
use crate::ledger::Ledger;
use crate::store::{StoreError, Told};
use serde_json::Value;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two tellings, and between two looks at what the others tell.
const PAUSE: Duration = Duration::from_millis(500);
/// Pieces of a share. 20,000 proxies are about 100 KiB in each.
const PIECES: u64 = 64;
/// What is used, in pieces of their own: few of them, since services are fewer than proxies and change more rarely.
const USES: &str = "uses-";
const PIECES_OF_USES: u64 = 16;
/// The last piece by name: it says up to which revision all the others hold.
const REVISION: &str = "~revision";

type Pieces = BTreeMap<String, Value>;

/// Runs for as long as the control plane does, where others share its store.
pub async fn keep(ledger: Arc<Ledger>, registry: Arc<Registry>) {
    let moment = Moment { at: Instant::now(), unix_ms: ledger.clock().now_ms() };
    let (mut told, mut seen) = (Pieces::new(), u64::MAX);
    loop {
        let (this, shared) = (ledger.clone(), registry.clone());
        let turned = tokio::task::spawn_blocking(move || {
            let Some(replicas) = this.store().replicas() else { return (told, seen, Ok(())) };
            let (now, news) = replicas.told(seen);
            if let Some(news) = news {
                shared.hear(heard(&news));
            }
            let present = pieces(shared.share(moment));
            let changes = differing(&told, &present);
            let done: Result<(), StoreError> = if changes.is_empty() { Ok(()) } else { replicas.tell(changes) };
            (present, now, done)
        });
        match turned.await {
            Ok((present, now, done)) => {
                (told, seen) = (present, now);
                if let Err(error) = done {
                    // It is kept, and said with what comes next, or with the next lease.
                    tracing::warn!(%error, "the other control planes are not told of this one's proxies yet");
                }
            }
            Err(error) => return tracing::error!(%error, "the other control planes are told nothing any more"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// By name; a proxy stays in its piece.
fn pieces(share: Share) -> Pieces {
    let mut pieces: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in share.rows {
        pieces.entry(format!("{:02}", place(&row.workload, PIECES))).or_default().push(row);
    }
    let mut uses: BTreeMap<u64, BTreeMap<String, Use>> = BTreeMap::new();
    for (service, used) in share.uses {
        uses.entry(place(&service, PIECES_OF_USES)).or_default().insert(service, used);
    }
    let value = |rows: Vec<Row>| serde_json::to_value(rows).unwrap_or_default();
    let mut pieces: Pieces = pieces.into_iter().map(|(piece, rows)| (piece, value(rows))).collect();
    for (n, used) in uses {
        pieces.insert(format!("{USES}{n:02}"), serde_json::to_value(used).unwrap_or_default());
    }
    pieces.insert(REVISION.to_string(), share.revision.into());
    pieces
}

fn place(name: &str, of: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() % of
}

fn differing(told: &Pieces, present: &Pieces) -> Vec<(String, Option<Value>)> {
    let changed = present.iter().filter(|(piece, value)| told.get(*piece) != Some(*value));
    let gone = told.keys().filter(|piece| !present.contains_key(*piece));
    let changed = changed.map(|(piece, value)| (piece.clone(), Some(value.clone())));
    changed.chain(gone.map(|piece| (piece.clone(), None))).collect()
}

/// A replica that has not said its revision yet is in the middle of its first telling.
fn heard(told: &Told) -> Elsewhere {
    let mut shares: BTreeMap<String, Share> = BTreeMap::new();
    for ((replica, piece), value) in told {
        let share = shares.entry(replica.clone()).or_default();
        match piece.as_str() {
            REVISION => share.revision = value.as_u64().unwrap_or(0),
            piece if piece.starts_with(USES) => share.uses.extend(read_uses(value)),
            _ => share.rows.extend(rows(value)),
        }
    }
    Elsewhere(shares)
}

/// One that a newer release writes in another way is left out, and the others stay.
fn rows(piece: &Value) -> impl Iterator<Item = Row> {
    let rows = piece.as_array().into_iter().flatten();
    rows.filter_map(|row| serde::Deserialize::deserialize(row).ok())
}

#[cfg(test)]
#[path = "share_test.rs"]
mod share_test;
