//! One proxy's view, and what to send so that it becomes another.

use super::{Index, Target, Told};
use isthmus_proto::model::{ResourceKey, ServiceName};
use std::collections::BTreeSet;
use std::sync::Arc;

type Entry = (ResourceKey, Option<Arc<Told>>);

/// What a proxy should hold, in the order of the keys. `None` with a key: it asked, and there is no such thing, which is an
/// answer too. A clone is the same memory: a control plane holds one for each proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View(Arc<[Entry]>);

impl FromIterator<Entry> for View {
    /// In any order. A key that comes twice says the same.
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(a, _), (b, _)| a == b);
        View(entries.into())
    }
}

/// Of keys alone: all absent.
#[cfg(test)]
impl From<BTreeSet<ResourceKey>> for View {
    fn from(keys: BTreeSet<ResourceKey>) -> Self {
        keys.into_iter().map(|key| (key, None)).collect()
    }
}

impl View {
    pub fn keys(&self) -> impl Iterator<Item = &ResourceKey> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ResourceKey, Option<&Arc<Told>>)> {
        self.0.iter().map(|(key, told)| (key, told.as_ref()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, key: &ResourceKey) -> bool {
        self.place(key).is_some()
    }

    /// What exists under this key.
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Told>> {
        self.place(key).and_then(|place| self.0[place].1.as_ref())
    }

    fn place(&self, key: &ResourceKey) -> Option<usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key)).ok()
    }

    /// As if these had never been told.
    pub fn without(&self, keys: &BTreeSet<ResourceKey>) -> View {
        View(self.0.iter().filter(|(key, _)| !keys.contains(key)).cloned().collect())
    }

    /// The keys that only this one has.
    pub fn keys_beyond<'a>(&'a self, other: &'a View) -> impl Iterator<Item = &'a ResourceKey> {
        let mut others = other.keys().peekable();
        self.keys().filter(move |key| {
            while others.next_if(|other| other < key).is_some() {}
            others.peek() != Some(key)
        })
    }
}

impl Index {
    /// The view of a workload's proxy with its on-demand keys; none if there is no such workload (any more). A service
    /// behind an address that was asked for comes along.
    pub fn view(&self, workload: &str, subscriptions: &BTreeSet<ResourceKey>) -> Option<View> {
        let known = self.workloads.get(workload)?;
        let mut view: Vec<Entry> = Vec::with_capacity(subscriptions.len() + 3);
        view.push((ResourceKey::Mesh, self.mesh.get(&known.site).cloned()));
        view.push((ResourceKey::Inbound, Some(known.inbound.clone())));
        // What another tenant has is absent, as if it did not exist.
        let own = workload.split('/').next().unwrap_or_default();
        let may_see = |name: &ServiceName| self.tenancy.sees_service(own, name);
        for key in subscriptions {
            match key {
                ResourceKey::Service(name) => {
                    let service = self.services.get(name).filter(|_| may_see(name));
                    view.push((key.clone(), service.cloned()));
                }
                ResourceKey::Address(ip) => {
                    let is_mine = |target: &&Target| target.namespaces.iter().any(|of| self.tenancy.sees(own, of));
                    let target = self.addresses.get(ip).filter(is_mine);
                    view.push((key.clone(), target.map(|target| target.resource.clone())));
                    if let Some(name) = target.and_then(|target| target.service.clone()) {
                        let service = self.services.get(&name).filter(|_| may_see(&name)).cloned();
                        view.push((ResourceKey::Service(name), service));
                    }
                }
                ResourceKey::Mesh | ResourceKey::Inbound | ResourceKey::Egress => {}
            }
        }
        view.push((ResourceKey::Egress, Some(known.egress.clone())));
        Some(view.into_iter().collect())
    }
}

/// What turns a proxy that holds `old` into one that holds `new`: services before the addresses that name them.
pub fn diff(old: &View, new: &View) -> (Vec<Arc<Told>>, Vec<ResourceKey>) {
    let mut upserts = Vec::new();
    let mut removals = Vec::new();
    let mut before = old.iter().peekable();
    for (key, resource) in new.iter() {
        while before.next_if(|(old, _)| *old < key).is_some() {}
        let known = before.next_if(|(old, _)| *old == key).map(|(_, told)| told);
        match (known, resource) {
            (Some(Some(before)), Some(now)) if Arc::ptr_eq(before, now) || before == now => {}
            (_, Some(now)) => upserts.push(now.clone()),
            (Some(None), None) => {}
            (_, None) => removals.push(key.clone()),
        }
    }
    // A key that is no longer asked for is taken back, so that nothing stale is left behind.
    let held = old.iter().filter(|(_, told)| told.is_some());
    removals.extend(held.map(|(key, _)| key).filter(|key| !new.has(key)).cloned());
    (upserts, removals)
}
