//! A proxy's stream is its workload's lease. When the stream has been gone for the grace, the workload is away: its
//! endpoints leave every view, and they are back as soon as it is. Without traffic is also whoever's sidecar says that its
//! app is not ready. Whose host died while the control plane was down is
//! away a while after its start, which is longer, since everybody has to come back first.
//!
//! Never taken for dead is whoever has no proxy (it never had a lease), and a site most of whose proxies are gone at once:
//! there, the link to us is what is cut, and its workloads may well serve each other.

use super::registry::Registry;
use crate::config::Leases as Config;
use crate::ledger::Ledger;
use crate::validate::ResourceRef;
use crate::validate::resource::Spec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

mod shared;

#[cfg(test)]
#[path = "lease_test.rs"]
mod lease_test;

/// A site with fewer leases than this has no "most".
const FEWEST: usize = 3;
/// A publication that failed is tried again then.
const AGAIN: Duration = Duration::from_secs(1);

/// Whose leases run, run out, and are over.
#[derive(Debug)]
pub struct Leases {
    grace: Duration,
    present: BTreeSet<Arc<str>>,
    /// Gone, and when that counts.
    gone: BTreeMap<Arc<str>, Instant>,
    away: BTreeSet<Arc<str>>,
}

/// Whose endpoints leave, and whose return.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub away: Vec<Arc<str>>,
    pub back: Vec<Arc<str>>,
}

impl Leases {
    /// These had a lease when the control plane was last up.
    pub fn new(grace: Duration, expected: impl Iterator<Item = Arc<str>>, until: Instant) -> Self {
        let gone = expected.map(|workload| (workload, until)).collect();
        Leases { grace, present: BTreeSet::new(), gone, away: BTreeSet::new() }
    }

    pub fn comes(&mut self, workload: &Arc<str>) {
        self.gone.remove(workload);
        self.present.insert(workload.clone());
    }

    pub fn leaves(&mut self, workload: &Arc<str>, now: Instant) {
        self.present.remove(workload);
        self.gone.insert(workload.clone(), now + self.grace);
    }

    /// Who is away, and whose app is not ready by its own sidecar's word.
    pub fn without_traffic(&self, unready: &BTreeMap<Arc<str>, String>) -> BTreeSet<Arc<str>> {
        self.away.iter().chain(unready.keys()).cloned().collect()
    }

    /// When somebody's grace ends.
    pub fn next(&self) -> Option<Instant> {
        self.gone.iter().filter(|(workload, _)| !self.away.contains(*workload)).map(|(_, at)| *at).min()
    }

    /// What has changed by now. `site` says where a workload is; who is nowhere any more has no lease.
    pub fn turn(&mut self, now: Instant, site: impl Fn(&str) -> Option<String>) -> Turn {
        let back: Vec<Arc<str>> = self.away.intersection(&self.present).cloned().collect();
        self.away.retain(|workload| !self.present.contains(workload));
        let due = self.gone.iter().filter(|(workload, at)| **at <= now && !self.away.contains(*workload));
        let due: Vec<Arc<str>> = due.map(|(workload, _)| workload.clone()).collect();
        if due.is_empty() {
            return Turn { away: Vec::new(), back };
        }
        let mut sites: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        // Those that are away already died at another time, and say nothing of now.
        let gone = self.gone.keys().filter(|workload| !self.away.contains(*workload));
        for (workload, is_gone) in self.present.iter().map(|w| (w, 0)).chain(gone.map(|w| (w, 1))) {
            if let Some((all, gone)) = site(workload).map(|site| sites.entry(site).or_default()) {
                *all += 1;
                *gone += is_gone;
            }
        }
        let mut away = Vec::new();
        for workload in due {
            let Some(site) = site(&workload) else {
                self.gone.remove(&workload);
                continue;
            };
            let (all, gone) = sites.get(&site).copied().unwrap_or_default();
            if all >= FEWEST && gone * 2 > all {
                tracing::warn!(site, gone, all, "most proxies of the site are gone at once: their endpoints stay");
                self.gone.insert(workload, now + self.grace);
                continue;
            }
            self.away.insert(workload.clone());
            away.push(workload);
        }
        Turn { away, back }
    }
}

/// Runs for as long as the control plane does. `expected`: whose certificates live, at its start.
pub async fn keep(ledger: Arc<Ledger>, registry: Arc<Registry>, config: Config, expected: Vec<Arc<str>>) {
    if ledger.store().is_shared() {
        return shared::keep(ledger, registry, config, expected).await;
    }
    let until = Instant::now() + config.after_start;
    let mut leases = Leases::new(config.grace, expected.into_iter(), until);
    let mut in_force: BTreeSet<Arc<str>> = BTreeSet::new();
    loop {
        for (workload, comes) in registry.take_moves() {
            match comes {
                true => leases.comes(&workload),
                false => leases.leaves(&workload, Instant::now()),
            }
        }
        let world = ledger.world();
        leases.turn(Instant::now(), |workload| site(&world.resources, workload));
        drop(world);
        let wanted = leases.without_traffic(&registry.unready());
        let turn = Turn {
            away: wanted.difference(&in_force).cloned().collect(),
            back: in_force.difference(&wanted).cloned().collect(),
        };
        in_force = wanted;
        if turn != Turn::default() {
            publish(&ledger, turn).await;
        }
        let next = leases.next().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = registry.moved() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

async fn publish(ledger: &Arc<Ledger>, turn: Turn) {
    for (workload, word) in turn.away.iter().map(|w| (w, "away")).chain(turn.back.iter().map(|w| (w, "back"))) {
        tracing::info!(workload = &**workload, "endpoints {word}");
    }
    let turn = Arc::new(turn);
    loop {
        let (ledger, turn) = (ledger.clone(), turn.clone());
        let done = tokio::task::spawn_blocking(move || {
            let keys = |names: &[Arc<str>]| names.iter().filter_map(|name| key(name)).collect::<Vec<_>>();
            ledger.presence(&keys(&turn.away), &keys(&turn.back));
        });
        match done.await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "presence not published; trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn key(workload: &str) -> Option<ResourceRef> {
    workload.split_once('/').map(|(namespace, name)| ResourceRef::new("Workload", namespace, name))
}

fn site(set: &crate::validate::set::Set, workload: &str) -> Option<String> {
    match &set.get(&key(workload)?)?.spec {
        Spec::Workload(workload) => Some(workload.site.clone()),
        _ => None,
    }
}
