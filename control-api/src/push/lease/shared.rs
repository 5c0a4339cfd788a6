//! Leases where several control planes serve the mesh: a stream at any of them is one. Each tells the others whose streams
//! it serves; the one that leads decides who is away, and writes that down; all of them carry it out.

use super::{Leases, key, site};
use crate::config::Leases as Config;
use crate::ledger::Ledger;
use crate::push::registry::Registry;
use crate::store::StoreError;
use crate::validate::ResourceRef;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// `away/<namespace>/<name>`.
const AWAY: &str = "away/";
/// Between two looks at what the others say.
const LOOK: Duration = Duration::from_secs(1);

type Workloads = BTreeSet<Arc<str>>;

/// What this control plane knows.
#[derive(Debug)]
struct Shared {
    leases: Leases,
    /// Served here.
    streams: Workloads,
    /// And able to take traffic.
    here: Workloads,
    elsewhere: Workloads,
    /// As it is published here.
    in_force: Workloads,
}

/// Runs for as long as the control plane does.
pub(super) async fn keep(ledger: Arc<Ledger>, registry: Arc<Registry>, config: Config, expected: Vec<Arc<str>>) {
    let leases = Leases::new(config.grace, expected.into_iter(), Instant::now() + config.after_start);
    let mut shared = Shared {
        leases,
        streams: Workloads::new(),
        here: Workloads::new(),
        elsewhere: Workloads::new(),
        in_force: Workloads::new(),
    };
    loop {
        let (moves, this) = (registry.take_moves(), ledger.clone());
        let unready = registry.unready().into_keys().collect();
        let looked = tokio::task::spawn_blocking(move || {
            let looked = shared.look(&this, moves, unready);
            (shared, looked)
        });
        match looked.await {
            Ok((same, looked)) => {
                shared = same;
                if let Err(error) = looked {
                    tracing::warn!(%error, "who is away is not decided anew; what is in force stays");
                }
            }
            // A panic has taken what was known with it.
            Err(error) => return tracing::error!(%error, "leases are kept no longer"),
        }
        tokio::select! {
            () = registry.moved() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl Shared {
    fn look(&mut self, ledger: &Ledger, moves: BTreeMap<Arc<str>, bool>, unready: Workloads) -> Result<(), StoreError> {
        let store = ledger.store();
        let Some(replicas) = store.replicas() else { return Ok(()) };
        let now = Instant::now();
        let elsewhere = replicas.held_elsewhere().into_iter().map(Arc::from).collect();
        let moves = self.with_health(moves, unready);
        self.moved(&moves, elsewhere, now);
        if !moves.is_empty() {
            let moves: Vec<_> = moves.into_iter().map(|(workload, here)| (workload.to_string(), here)).collect();
            replicas.hold(&moves)?;
        }
        let written = store.facts(AWAY)?;
        let mut away: Workloads =
            written.iter().filter_map(|(name, _)| name.strip_prefix(AWAY)).map(Arc::from).collect();
        if store.leads() {
            away = self.decide(ledger, away, now)?;
        } else {
            self.leases.away.clone_from(&away);
        }
        self.carry_out(ledger, away);
        Ok(())
    }

    /// Towards the others, a stream whose app is not ready is none: it is away after the grace.
    fn with_health(&mut self, moves: BTreeMap<Arc<str>, bool>, unready: Workloads) -> BTreeMap<Arc<str>, bool> {
        for (workload, comes) in &moves {
            if *comes {
                self.streams.insert(workload.clone())
            } else {
                self.streams.remove(workload)
            };
        }
        let ready: Workloads = self.streams.difference(&unready).cloned().collect();
        let came = ready.difference(&self.here).map(|workload| (workload.clone(), true));
        let left = self.here.difference(&ready).map(|workload| (workload.clone(), false));
        came.chain(left).collect()
    }

    /// Takes in who came and went, here and at the others.
    fn moved(&mut self, moves: &BTreeMap<Arc<str>, bool>, elsewhere: Workloads, now: Instant) {
        for (workload, comes) in moves {
            if *comes {
                self.here.insert(workload.clone());
                self.leases.comes(workload);
            } else {
                self.here.remove(workload);
                if !elsewhere.contains(workload) {
                    self.leases.leaves(workload, now);
                }
            }
        }
        elsewhere.difference(&self.elsewhere).for_each(|workload| self.leases.comes(workload));
        for workload in self.elsewhere.difference(&elsewhere).filter(|workload| !self.here.contains(*workload)) {
            self.leases.leaves(workload, now);
        }
        self.elsewhere = elsewhere;
    }

    /// The leader's part. What it writes is refused by the store if it leads no longer.
    fn decide(&mut self, ledger: &Ledger, written: Workloads, now: Instant) -> Result<Workloads, StoreError> {
        let world = ledger.world();
        self.leases.away.clone_from(&written);
        let turn = self.leases.turn(now, |workload| site(&world.resources, workload));
        let mut away = written;
        let at = json!({ "atUnixMs": ledger.clock().now_ms() });
        for workload in &turn.away {
            ledger.store().swap_fact_leading(&format!("{AWAY}{workload}"), None, Some(&at))?;
            away.insert(workload.clone());
        }
        for workload in &turn.back {
            let name = format!("{AWAY}{workload}");
            let seen = ledger.store().fact(&name)?;
            ledger.store().swap_fact_leading(&name, seen.as_ref(), None)?;
            away.remove(workload);
        }
        Ok(away)
    }

    fn carry_out(&mut self, ledger: &Ledger, away: Workloads) {
        let keys = |names: Vec<&Arc<str>>, word: &str| -> Vec<ResourceRef> {
            names.iter().for_each(|workload| tracing::info!(workload = &***workload, "endpoints {word}"));
            names.into_iter().filter_map(|workload| key(workload)).collect()
        };
        let gone = keys(away.difference(&self.in_force).collect(), "away");
        let back = keys(self.in_force.difference(&away).collect(), "back");
        if !gone.is_empty() || !back.is_empty() {
            ledger.presence(&gone, &back);
        }
        self.in_force = away;
    }
}
