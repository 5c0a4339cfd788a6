//! A control plane that has lost its store while others go on: its proxies are let go, so that they come to one that has
//! not, before the others take their workloads for dead. Each is turned away for a while; one that still comes then has found
//! nobody else who would take it, and what is known here is better than nothing.

use super::registry::Registry;
use crate::ledger::Ledger;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const LOOK: Duration = Duration::from_millis(500);
/// A proxy tries again within 5 s, at another of the addresses that it has each time.
const FOR: Duration = Duration::from_secs(30);

/// Runs for as long as the control plane does.
pub async fn keep(ledger: Arc<Ledger>, registry: Arc<Registry>) {
    let mut was = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let is = is_cut_off(&ledger);
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

/// Who was turned away since the store is out of reach, and when first.
#[derive(Debug, Default)]
pub struct TurnedAway(Mutex<HashMap<String, Instant>>);

impl TurnedAway {
    /// Whether this workload's proxy is to go elsewhere now. To be asked of workloads that exist: each is remembered.
    pub fn turns(&self, ledger: &Ledger, workload: &str) -> bool {
        self.turns_while(is_cut_off(ledger), workload)
    }

    fn turns_while(&self, cut_off: bool, workload: &str) -> bool {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !cut_off {
            // Nothing is kept of the last time.
            *first = HashMap::new();
            return false;
        }
        first.entry(workload.to_string()).or_insert_with(Instant::now).elapsed() < FOR
    }
}

fn is_cut_off(ledger: &Ledger) -> bool {
    ledger.store().replicas().is_some_and(|replicas| replicas.cut_off().is_some())
}

#[cfg(test)]
#[path = "cut_off_test.rs"]
mod cut_off_test;
