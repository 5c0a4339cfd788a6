//! A control plane that has lost its store while others go on: its proxies are let go, so that they come to one that has
//! not, before the others take their workloads for dead. For a while nobody is taken in again; if then nobody else has
//! taken them, the store is lost to all, and what is known here is better than nothing.

use super::registry::Registry;
use crate::ledger::Ledger;
use std::sync::Arc;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(500);
/// A proxy tries again within 5 s, at any of the addresses that it has.
const TURNED_AWAY: Duration = Duration::from_secs(30);

/// Runs for as long as the control plane does.
pub async fn keep(ledger: Arc<Ledger>, registry: Arc<Registry>) {
    let mut was = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let is = ledger.store().replicas().is_some_and(|replicas| replicas.cut_off().is_some());
        match (was, is) {
            (false, true) => {
                let count = registry.let_go();
                tracing::error!(count, "the store is out of reach: proxies are let go to other control planes");
            }
            (true, false) => tracing::info!("the store is within reach again"),
            _ => {}
        }
        was = is;
    }
}

/// Whether a proxy is to go elsewhere now.
pub fn turns_away(ledger: &Ledger) -> bool {
    let cut_off = ledger.store().replicas().and_then(|replicas| replicas.cut_off());
    cut_off.is_some_and(|since| since < TURNED_AWAY)
}
