//! What this proxy decided, counted: who called what, how, and what came of it; and what the app sent out of the mesh.
//! `inbound` and `outbound` record each decision, in tables of their own, so that neither crowds out the other; `control`
//! reports the counts to the control plane, where `isthmus policy` reads them.
//!
//! In the order of a decision: [`table`] (a worker's own counts: no lock, and no allocation for what was seen before) →
//! [`collect`] (all workers' counts, merged off the path) → `control`. [`template`] keeps paths few, [`decisions`] keeps
//! each refusal with its id. All of it is bounded; what finds no room is counted as dropped and never waited for.

pub mod collect;
pub mod decisions;
pub mod table;
pub mod template;

pub use collect::{Collected, Collector, Counted, Shipper};
pub use decisions::{Decisions, Record};
pub use table::{FlowKey, FlowTable, Observed, Verdict, Way};

use std::cell::RefCell;
use std::time::Duration;

/// How often a worker hands over what it has counted.
pub const SHIP_EVERY: Duration = Duration::from_secs(5);

/// One worker's counts, and where they go.
pub struct Flows {
    table: RefCell<FlowTable>,
    shipper: Shipper,
}

impl Flows {
    pub fn new(shipper: Shipper) -> Self {
        Flows { table: RefCell::default(), shipper }
    }

    /// Counts one decision.
    #[inline]
    pub fn record(&self, observed: &Observed<'_>) {
        self.table.borrow_mut().record(observed);
    }

    /// Hands over what was counted since the last time. What cannot be taken stays, and is handed over next time.
    pub fn ship(&self) {
        let mut table = self.table.borrow_mut();
        if let Some(place) = self.shipper.place() {
            place.send(table.drain());
        }
    }

    /// For as long as the worker lives.
    pub async fn keep_shipping(&self) {
        loop {
            tokio::time::sleep(SHIP_EVERY).await;
            self.ship();
        }
    }
}

#[cfg(test)]
#[path = "flows_test.rs"]
mod flows_test;
