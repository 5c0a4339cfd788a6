//! One proxy's view, and what to send so that it becomes another.

use super::{Index, Target, Told};
use isthmus_proto::model::{ResourceKey, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a proxy should hold. `None` under a key: it asked, and there is no such thing, which is an answer too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View(pub BTreeMap<ResourceKey, Option<Arc<Told>>>);

impl View {
    pub fn keys(&self) -> impl Iterator<Item = &ResourceKey> {
        self.0.keys()
    }
}

impl Index {
    /// The view of a workload's proxy with its on-demand keys; none if there is no such workload (any more). A service
    /// behind an address that was asked for comes along.
    pub fn view(&self, workload: &str, subscriptions: &BTreeSet<ResourceKey>) -> Option<View> {
        let known = self.workloads.get(workload)?;
        let mut view = View::default();
        view.0.insert(ResourceKey::Mesh, self.mesh.get(&known.site).cloned());
        view.0.insert(ResourceKey::Inbound, Some(known.inbound.clone()));
        view.0.insert(ResourceKey::Egress, Some(known.egress.clone()));
        // What another tenant has is absent, as if it did not exist.
        let own = workload.split('/').next().unwrap_or_default();
        let may_see = |name: &ServiceName| self.tenancy.sees_service(own, name);
        for key in subscriptions {
            match key {
                ResourceKey::Service(name) => {
                    let service = self.services.get(name).filter(|_| may_see(name));
                    view.0.insert(key.clone(), service.cloned());
                }
                ResourceKey::Address(ip) => {
                    let is_mine = |target: &&Target| target.namespaces.iter().any(|of| self.tenancy.sees(own, of));
                    let target = self.addresses.get(ip).filter(is_mine);
                    view.0.insert(key.clone(), target.map(|target| target.resource.clone()));
                    if let Some(name) = target.and_then(|target| target.service.clone()) {
                        let service = self.services.get(&name).filter(|_| may_see(&name)).cloned();
                        view.0.insert(ResourceKey::Service(name), service);
                    }
                }
                ResourceKey::Mesh | ResourceKey::Inbound | ResourceKey::Egress => {}
            }
        }
        Some(view)
    }
}

/// What turns a proxy that holds `old` into one that holds `new`: services before the addresses that name them.
pub fn diff(old: &View, new: &View) -> (Vec<Arc<Told>>, Vec<ResourceKey>) {
    let mut upserts = Vec::new();
    let mut removals = Vec::new();
    for (key, resource) in &new.0 {
        match (old.0.get(key), resource) {
            (Some(Some(before)), Some(now)) if Arc::ptr_eq(before, now) || before == now => {}
            (_, Some(now)) => upserts.push(now.clone()),
            (Some(None), None) => {}
            (_, None) => removals.push(key.clone()),
        }
    }
    // A key that is no longer asked for is taken back, so that nothing stale is left behind.
    removals
        .extend(old.0.iter().filter(|(key, held)| held.is_some() && !new.0.contains_key(key)).map(|(k, _)| k.clone()));
    (upserts, removals)
}
