//! A delta applied to a snapshot gives the next snapshot. Pure: nothing is published here.

use std::net::IpAddr;
use std::sync::Arc;

use isthmus_proto::model::{Address, Body, Delta, Resource, ResourceKey, Service, ServiceName, Target};

use super::egress::Egress;
use super::inbound::Inbound;
use super::mesh::{Known, KnownWorld, Mesh, Owner, World};
use crate::reason::Reason;

impl Mesh {
    /// The snapshot after `delta`. What could not be read is in it as something that refuses.
    pub fn apply(&self, delta: Delta) -> Mesh {
        let mut next = self.clone();
        next.version = delta.version;
        // Addresses first: a service that goes together with its addresses is then forgotten.
        let (addresses, others): (Vec<_>, Vec<_>) =
            delta.removals.into_iter().partition(|key| matches!(key, ResourceKey::Address(_)));
        for key in addresses.into_iter().chain(others) {
            next.remove(key);
        }
        for resource in delta.upserts {
            next.upsert(resource);
        }
        next
    }

    /// After the first sync, what was asked for and not sent does not exist.
    pub fn complete(&mut self, asked_for: impl IntoIterator<Item = IpAddr>) {
        for ip in asked_for {
            self.addresses.entry(ip.to_canonical()).or_insert(Known::Absent);
        }
    }

    /// Forgets an address that is no longer subscribed to: the next use asks again.
    pub fn forget(&mut self, ip: IpAddr) {
        self.addresses.remove(&ip.to_canonical());
    }

    /// Whether the control plane said that nobody has this address.
    pub fn is_absent(&self, ip: IpAddr) -> bool {
        matches!(self.addresses.get(&ip.to_canonical()), Some(Known::Absent))
    }

    /// Every on-demand key that this snapshot holds an answer for.
    pub fn held(&self) -> impl Iterator<Item = ResourceKey> {
        let services = self.services.keys().cloned().map(ResourceKey::Service);
        services.chain(self.addresses.keys().copied().map(ResourceKey::Address))
    }

    fn upsert(&mut self, resource: Resource) {
        match (resource.key, resource.body) {
            (ResourceKey::Mesh, Ok(Body::Mesh(mesh))) => self.world = World::Is(Arc::new(KnownWorld::new(*mesh))),
            (ResourceKey::Mesh, _) => self.world = World::NotUnderstood,
            (ResourceKey::Inbound, Ok(Body::Inbound(inbound))) => {
                self.inbound = Arc::new(Inbound::next(*inbound, &self.inbound))
            }
            (ResourceKey::Inbound, Err(e)) => self.inbound = Arc::new(Inbound::from(&e)),
            (ResourceKey::Inbound, Ok(_)) => self.refuse_inbound("the inbound resource has another's body"),
            (ResourceKey::Egress, Ok(Body::Egress(egress))) => self.egress = Arc::new(Egress::from(*egress)),
            (ResourceKey::Egress, Err(e)) => self.egress = Arc::new(Egress::refusing(&e.to_string())),
            (ResourceKey::Egress, Ok(_)) => {
                self.egress = Arc::new(Egress::refusing("the egress resource has another's body"));
            }
            (ResourceKey::Service(name), Ok(Body::Service(service))) => self.upsert_service(name, *service),
            (ResourceKey::Service(name), _) => {
                self.forget_vips(&name);
                self.services.insert(name, Known::NotUnderstood);
            }
            (ResourceKey::Address(ip), Ok(Body::Address(address))) => {
                self.addresses.insert(ip.to_canonical(), Known::Is(owner(*address)));
            }
            (ResourceKey::Address(ip), _) => {
                self.addresses.insert(ip.to_canonical(), Known::NotUnderstood);
            }
        }
    }

    fn refuse_inbound(&mut self, why: &str) {
        self.inbound = Arc::new(Inbound::refusing(Reason::UnknownFeature, why));
    }

    fn upsert_service(&mut self, name: ServiceName, service: Service) {
        self.forget_vips(&name);
        let service = super::Service::from(service);
        for vip in &service.vips {
            self.vips.insert(*vip, name.clone());
        }
        self.services.insert(name, Known::Is(Arc::new(service)));
    }

    /// Only those that are still this service's: another may have taken one over.
    fn forget_vips(&mut self, name: &ServiceName) {
        if let Some(Known::Is(old)) = self.services.get(name) {
            for vip in &old.vips {
                if self.vips.get(vip) == Some(name) {
                    self.vips.remove(vip);
                }
            }
        }
    }

    fn remove(&mut self, key: ResourceKey) {
        match key {
            // The two that are always there: without them nothing is known, and so nothing passes.
            ResourceKey::Mesh => self.world = World::NotUnderstood,
            ResourceKey::Inbound => self.refuse_inbound("the control plane withdrew this workload"),
            ResourceKey::Egress => {
                self.egress = Arc::new(Egress::refusing("the control plane withdrew what it said of egress"));
            }
            ResourceKey::Service(name) => {
                self.forget_vips(&name);
                // Kept only while an address names it, so that services that come and go leave nothing behind.
                if self.addresses.values().any(|owner| matches!(owner, Known::Is(Owner::Service(n)) if *n == name)) {
                    self.services.insert(name, Known::Absent);
                } else {
                    self.services.remove(&name);
                }
            }
            ResourceKey::Address(ip) => {
                self.addresses.insert(ip.to_canonical(), Known::Absent);
            }
        }
    }
}

fn owner(address: Address) -> Owner {
    match address.target {
        Target::Service(name) => Owner::Service(name),
        Target::Workload(workload) => Owner::Workload(Arc::new(workload.into())),
    }
}
