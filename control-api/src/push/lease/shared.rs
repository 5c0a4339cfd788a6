//! Leases where several control planes serve the mesh: a stream at any of them is one. Each tells the others whose streams
//! it serves; the one that leads decides who is away, and writes that down; all of them carry it out. That an app is not
//! ready is told with its stream, and carried out by each at once: nobody has to decide it.

use super::{Leases, key, site};
use crate::config::Leases as Config;
use crate::ledger::Ledger;
use crate::push::registry::Registry;
use crate::store::{StoreError, Stream};
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
    /// Served here, and as the others were told it.
    here: BTreeMap<Arc<str>, Stream>,
    elsewhere: Workloads,
    /// By the word of whoever serves it; who has gone stays as he was until somebody serves him again.
    unready: Workloads,
    /// As it is published here.
    in_force: Workloads,
}

/// Runs for as long as the control plane does.
pub(super) async fn keep(ledger: Arc<Ledger>, registry: Arc<Registry>, config: Config, expected: Vec<Arc<str>>) {
    let leases = Leases::new(config.grace, expected.into_iter(), Instant::now() + config.after_start);
    let mut shared = Shared {
        leases,
        here: BTreeMap::new(),
        elsewhere: Workloads::new(),
        unready: Workloads::new(),
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
        let elsewhere: BTreeMap<Arc<str>, bool> =
            replicas.held_elsewhere().into_iter().map(|(workload, ready)| (workload.into(), ready)).collect();
        let changes = self.with_health(&moves, &unready);
        self.word(&elsewhere);
        let world = ledger.world();
        // Whose Workload is deleted is nobody's any more.
        self.unready.retain(|workload| site(&world.resources, workload).is_some());
        drop(world);
        self.moved(&moves, elsewhere.into_keys().collect(), now);
        // Before anything that may fail: it needs nobody's consent.
        self.carry_out(ledger, self.leases.away.clone());
        if !changes.is_empty() {
            replicas.hold(&changes)?;
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

    /// Takes in who is served here, and how; what the others are to be told of it.
    fn with_health(&mut self, moves: &BTreeMap<Arc<str>, bool>, unready: &Workloads) -> Vec<(String, Stream)> {
        let held = |workload: &Arc<str>| if unready.contains(workload) { Stream::Unready } else { Stream::Ready };
        let mut changes = BTreeMap::new();
        for (workload, comes) in moves {
            let stream = if *comes { held(workload) } else { Stream::Gone };
            match stream {
                Stream::Gone => self.here.remove(workload),
                stream => self.here.insert(workload.clone(), stream),
            };
            changes.insert(workload.to_string(), stream);
        }
        for (workload, stream) in &mut self.here {
            if *stream != held(workload) {
                *stream = held(workload);
                changes.insert(workload.to_string(), *stream);
            }
        }
        changes.into_iter().collect()
    }

    /// Whose app takes traffic, by the word of those who serve it now.
    fn word(&mut self, elsewhere: &BTreeMap<Arc<str>, bool>) {
        let here = self.here.iter().map(|(workload, stream)| (workload, *stream == Stream::Ready));
        // What is served here is known better than what another one was told of before.
        for (workload, ready) in elsewhere.iter().map(|(workload, ready)| (workload, *ready)).chain(here) {
            match ready {
                true => self.unready.remove(workload),
                false => self.unready.insert(workload.clone()),
            };
        }
    }

    /// Takes in who came and went, here and at the others.
    fn moved(&mut self, moves: &BTreeMap<Arc<str>, bool>, elsewhere: Workloads, now: Instant) {
        for (workload, comes) in moves {
            if *comes {
                self.leases.comes(workload);
            } else if !elsewhere.contains(workload) {
                self.leases.leaves(workload, now);
            }
        }
        elsewhere.difference(&self.elsewhere).for_each(|workload| self.leases.comes(workload));
        for workload in self.elsewhere.difference(&elsewhere).filter(|workload| !self.here.contains_key(*workload)) {
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

    /// Without traffic is who is away, and whose app is not ready.
    fn carry_out(&mut self, ledger: &Ledger, away: Workloads) {
        let away: Workloads = away.union(&self.unready).cloned().collect();
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

#[cfg(test)]
#[path = "shared_test.rs"]
mod shared_test;
