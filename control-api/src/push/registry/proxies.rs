//! The entries themselves, by workload and by what they use; the registry's lock is around them.

use super::proxy::Proxy;
use crate::index::Changed;
use crate::ledger::Committed;
use isthmus_proto::model::ResourceKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) proxy: Proxy,
    /// The keys of its view, to tell whom a change concerns.
    pub(super) keys: BTreeSet<ResourceKey>,
    /// The latest revision at which the view that was sent was still the right one; at least `sent`.
    pub(super) covers: u64,
    /// The latest revision that concerned it.
    pub(super) concerned: u64,
    /// Something that concerns it was committed, and its stream has not looked yet.
    pub(super) woken: bool,
    pub(super) stream: u64,
    pub(super) replaced: CancellationToken,
    pub(super) wake: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(super) struct Proxies {
    pub(super) all: BTreeMap<Arc<str>, Entry>,
    /// Connected proxies by what they use.
    pub(super) users: HashMap<ResourceKey, BTreeSet<Arc<str>>>,
    /// The latest revision whose users were woken, and the turn that it was published in.
    pub(super) revision: u64,
    pub(super) turn: u64,
    /// Whose apps are not ready, and why. Also of those who left: what they last said holds until they say otherwise.
    pub(super) unready: BTreeMap<Arc<str>, String>,
    /// Who came (true) or left, until [`crate::push::lease`] takes it; the last counts.
    pub(super) moves: BTreeMap<Arc<str>, bool>,
}

impl Proxies {
    pub(super) fn concerned(&self, commits: &[Committed]) -> BTreeSet<Arc<str>> {
        let mut concerned = BTreeSet::new();
        for Changed { mesh, inbound, keys } in commits.iter().map(|commit| &*commit.changed) {
            if *mesh {
                return self.all.keys().cloned().collect();
            }
            let own = inbound.iter().filter_map(|workload| self.all.get_key_value(workload.as_str()));
            concerned.extend(own.map(|(workload, _)| workload.clone()));
            concerned.extend(keys.iter().filter_map(|key| self.users.get(key)).flatten().cloned());
        }
        concerned
    }

    /// From now on the proxy uses these keys and no others.
    pub(super) fn uses(&mut self, workload: &Arc<str>, keys: BTreeSet<ResourceKey>) {
        let Some(entry) = self.all.get_mut(workload) else { return };
        let old = std::mem::replace(&mut entry.keys, keys);
        for key in entry.keys.difference(&old) {
            self.users.entry(key.clone()).or_default().insert(workload.clone());
        }
        let gone: Vec<ResourceKey> = old.difference(&entry.keys).cloned().collect();
        gone.iter().for_each(|key| self.unuse(workload, key));
    }

    fn unuse(&mut self, workload: &Arc<str>, key: &ResourceKey) {
        if let Some(users) = self.users.get_mut(key) {
            users.remove(workload);
            if users.is_empty() {
                self.users.remove(key);
            }
        }
    }

    /// Takes a proxy out, with what it used.
    pub(super) fn leave(&mut self, workload: &Arc<str>) -> Option<Entry> {
        let entry = self.all.remove(workload)?;
        entry.keys.iter().for_each(|key| self.unuse(workload, key));
        Some(entry)
    }
}

impl Entry {
    /// What an answer to this version speaks of; a version that was never sent speaks of nothing more.
    pub(super) fn reached(&self, version: u64) -> u64 {
        if version >= self.proxy.sent { self.covers } else { version }
    }

    /// Whom no commit has concerned holds the present revision, though nobody told him so.
    pub(super) fn covers_now(&self, revision: u64) -> u64 {
        let follows = self.proxy.connected && !self.woken;
        if follows { self.covers.max(revision) } else { self.covers }
    }

    pub(super) fn now(&self, revision: u64) -> Proxy {
        let mut proxy = self.proxy.clone();
        proxy.settle(self.covers_now(revision));
        proxy
    }

    pub(super) fn settle(&mut self, revision: u64) {
        self.covers = self.covers_now(revision);
        self.proxy = self.now(revision);
        if self.proxy.acked >= self.proxy.sent && !self.woken {
            self.proxy.behind_since = None;
        }
    }
}
