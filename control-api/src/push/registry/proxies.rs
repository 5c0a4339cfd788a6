//! The entries themselves, by workload and by what they use; the registry's lock is around them.

use super::proxy::Proxy;
use super::uses::Probed;
use crate::index::{Changed, View};
use crate::ledger::Committed;
use isthmus_proto::model::{ResourceKey, ServiceName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) proxy: Proxy,
    /// What it was sent, to tell whom a change concerns; the same memory as its stream's.
    pub(super) view: View,
    /// The latest revision at which the view that was sent was still the right one; at least `sent`.
    pub(super) covers: u64,
    /// The latest revision that concerned it.
    pub(super) concerned: u64,
    /// Something that concerns it was committed, and its stream has not looked yet.
    pub(super) woken: bool,
    /// Endpoints without sidecar, as it finds them.
    pub(super) probed: Box<[Probed]>,
    pub(super) stream: u64,
    pub(super) replaced: CancellationToken,
    pub(super) wake: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(super) struct Proxies {
    pub(super) all: BTreeMap<Arc<str>, Entry>,
    /// Connected proxies by what they use, in order: most of it is used by a few.
    pub(super) users: HashMap<ResourceKey, Vec<Arc<str>>>,
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

    /// From now on the proxy uses the keys of this view and no others.
    pub(super) fn uses(&mut self, workload: &Arc<str>, view: View) {
        let Some(entry) = self.all.get_mut(workload) else { return };
        let old = std::mem::replace(&mut entry.view, view.clone());
        for key in view.keys_beyond(&old) {
            let users = self.users.entry(key.clone()).or_default();
            if let Err(place) = users.binary_search(workload) {
                users.insert(place, workload.clone());
            }
        }
        old.keys_beyond(&view).for_each(|key| self.unuse(workload, key));
    }

    fn unuse(&mut self, workload: &Arc<str>, key: &ResourceKey) {
        if let Some(users) = self.users.get_mut(key) {
            if let Ok(place) = users.binary_search(workload) {
                users.remove(place);
            }
            if users.is_empty() {
                self.users.remove(key);
            }
        }
    }

    /// Connected ones that use a service.
    pub(super) fn users_of(&self, service: &ServiceName) -> usize {
        let users = self.users.get(&ResourceKey::Service(service.clone())).into_iter().flatten();
        users.filter(|workload| self.all.get(*workload).is_some_and(|entry| entry.proxy.connected)).count()
    }

    /// Takes a proxy out, with what it used.
    pub(super) fn leave(&mut self, workload: &Arc<str>) -> Option<Entry> {
        let entry = self.all.remove(workload)?;
        entry.view.keys().for_each(|key| self.unuse(workload, key));
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
        self.proxy.settle(self.covers);
        if self.proxy.acked >= self.proxy.sent && !self.woken {
            self.proxy.behind_since = None;
        }
    }
}
