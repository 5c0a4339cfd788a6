//! From one index to the next: whom a change touches is looked at again, in the order in which one needs the other
//! (workloads, then services, then what is at an address); all else is shared.

use super::touch::Touched;
use super::*;

impl Index {
    /// Everything anew. Costs one pass over all resources.
    pub fn build(wanted: Wanted) -> Index {
        Index::default().apply_touched(wanted, Touched { everything: true, ..Touched::default() }).0
    }

    /// The next index, and what differs in it. Costs in proportion to what the change touches; MeshConfig and Sites touch
    /// everything.
    pub fn apply(&self, wanted: Wanted, difference: Difference) -> (Index, Changed) {
        let Difference { before, keys, vips, given, trust } = difference;
        let mut touched = Touched::by(before, wanted.set, keys, vips, given);
        touched.mesh |= trust;
        self.apply_touched(wanted, touched)
    }

    fn apply_touched(&self, wanted: Wanted, mut touched: Touched) -> (Index, Changed) {
        let Wanted { set, vips, trust } = wanted;
        if touched.everything {
            self.touch_everything(wanted, &mut touched);
        }
        let mesh = cross::mesh_config(set);
        let seen = Seen::of(set, trust, &mesh);
        let mut next = self.clone();
        let mut changed = Changed::default();
        if touched.mesh {
            changed.mesh = next.put_mesh(set, &mesh, trust);
        }
        if touched.everything {
            // Who is told what, everybody has to look at again; the resources themselves may be as they were.
            let tenancy = Tenancy::of(set);
            changed.mesh |= tenancy != *next.tenancy;
            next.tenancy = Arc::new(tenancy);
        }
        for key in &touched.workloads {
            for ip in addresses_of(set.get(key)).chain(self.addresses_of(key)) {
                touched.addresses.insert(ip);
            }
            if next.put_workload(key, &seen) {
                changed.inbound.insert(key.qualified());
            }
        }
        for key in &touched.services {
            if let Some(name) = next.put_service(key, vips, &seen) {
                changed.keys.insert(ResourceKey::Service(name));
            }
        }
        for ip in &touched.addresses {
            if next.put_address(*ip, vips, &seen) {
                changed.keys.insert(ResourceKey::Address(*ip));
            }
        }
        (next, changed)
    }

    fn touch_everything(&self, Wanted { set, vips, .. }: Wanted, touched: &mut Touched) {
        touched.mesh = true;
        touched.workloads.extend(set.of_kind("Workload", None).map(|workload| workload.key.clone()));
        touched.services.extend(set.of_kind("Service", None).map(|service| service.key.clone()));
        touched.addresses.extend(set.written_addresses().chain(set.claimed_addresses()).chain(vips.addresses()));
        let split = |name: &str, kind: &str| {
            name.split_once('/').map(|(namespace, name)| ResourceRef::new(kind, namespace, name))
        };
        touched.workloads.extend(self.workloads.keys().filter_map(|name| split(name, "Workload")));
        touched.services.extend(self.services.keys().filter_map(|name| split(&name.to_string(), "Service")));
        touched.addresses.extend(self.addresses.keys());
    }

    fn put_mesh(&mut self, set: &Set, mesh: &MeshConfig, trust: &Trust) -> bool {
        let base = wire_mesh(set, mesh, trust);
        // A proxy that knows nothing of egress would let through what is restricted.
        let egress = egress::restricts(set, mesh).then_some(egress::EGRESS);
        let requires: Vec<String> = egress.into_iter().chain(names::profile(mesh)).map(str::to_string).collect();
        let mut by_site = HashMap::new();
        for site in &base.sites {
            let body = wire::resource::Body::Mesh(wire::Mesh { site: site.name.clone(), ..base.clone() });
            let resource = kept_requiring(self.mesh.get(&site.name), ResourceKey::Mesh, requires.clone(), body);
            by_site.insert(site.name.clone(), resource);
        }
        let same = |(site, new): (&String, &Arc<Told>)| self.mesh.get(site).is_some_and(|old| Arc::ptr_eq(old, new));
        let changed = by_site.len() != self.mesh.len() || !by_site.iter().all(same);
        self.mesh = Arc::new(by_site);
        changed
    }

    /// Whether a workload's proxy sees its own workload differently, or is another's, or is gone.
    fn put_workload<'a>(&mut self, key: &ResourceRef, seen: &Seen<'a>) -> bool {
        let name = key.qualified();
        let old = self.workloads.get(&name).cloned();
        let new = seen.set.get(key).and_then(|resource| known(resource, old.as_ref(), seen));
        let identity = |known: &Known| known.identity.clone();
        let (left, came) = (old.as_ref().map(identity), new.as_ref().map(identity));
        if left != came {
            left.into_iter().for_each(|id| self.count(id, false));
            came.into_iter().for_each(|id| self.count(id, true));
        }
        let same = match (&old, &new) {
            (Some(old), Some(new)) => old == new,
            (None, None) => true,
            _ => false,
        };
        match new {
            Some(new) => self.workloads.insert_mut(name, new),
            None => drop(self.workloads.remove_mut(&name)),
        }
        !same
    }

    fn count(&mut self, identity: SpiffeId, comes: bool) {
        let before = self.identities.get(&identity).copied().unwrap_or(0);
        match if comes { before + 1 } else { before.saturating_sub(1) } {
            0 => drop(self.identities.remove_mut(&identity)),
            count => self.identities.insert_mut(identity, count),
        }
    }

    /// The service's name, if its callers see it differently.
    fn put_service(&mut self, key: &ResourceRef, vips: &Vips, seen: &Seen) -> Option<ServiceName> {
        let name = ServiceName::new(&key.namespace, &key.name).ok()?;
        let old = self.services.get(&name);
        let new = seen.set.get(key).and_then(|resource| match &resource.spec {
            Spec::Service(service) => {
                let body = endpoints::service(resource, service, service_vips(resource, vips), seen);
                let requires = body.external.iter().map(|_| endpoints::EXTERNAL.to_string()).collect();
                let body = wire::resource::Body::Service(body);
                Some(kept_requiring(old, ResourceKey::Service(name.clone()), requires, body))
            }
            _ => None,
        });
        let same = same(old, new.as_ref());
        match new {
            Some(new) => self.services.insert_mut(name.clone(), new),
            None => drop(self.services.remove_mut(&name)),
        }
        (!same).then_some(name)
    }

    /// Whether an address is something else now. Workloads and VIPs are unique; hand-written endpoints come last.
    fn put_address(&mut self, ip: IpAddr, vips: &Vips, seen: &Seen) -> bool {
        let old = self.addresses.get(&ip);
        let new = self.target(ip, vips, seen).map(|(target, service)| {
            let namespaces = match (&target, &service) {
                (_, Some(name)) => vec![namespace_of(&name.to_string())],
                (wire::address::Target::Workload(workload), None) => match workload.endpoint.as_ref() {
                    Some(endpoint) if !endpoint.workload.is_empty() => vec![namespace_of(&endpoint.workload)],
                    _ => tenants::writers(ip, seen.set),
                },
                _ => Vec::new(),
            };
            let body = wire::resource::Body::Address(wire::Address { ip: ip.to_string(), target: Some(target) });
            Target { resource: kept(old.map(|old| &old.resource), ResourceKey::Address(ip), body), service, namespaces }
        });
        let same = same(old.map(|old| &old.resource), new.as_ref().map(|new| &new.resource))
            && old.map(|old| &old.namespaces) == new.as_ref().map(|new| &new.namespaces);
        match new {
            Some(new) => self.addresses.insert_mut(ip, new),
            None => drop(self.addresses.remove_mut(&ip)),
        }
        !same
    }

    /// What is at an address, by what the index already holds of workloads.
    fn target(&self, ip: IpAddr, vips: &Vips, seen: &Seen) -> Option<(wire::address::Target, Option<ServiceName>)> {
        let by_number = seen.set.claimants(ip).find(|resource| matches!(&resource.spec, Spec::Service(_)));
        let given = vips.owner(ip).filter(|key| seen.set.contains_key(key));
        if let Some(key) = by_number.map(|resource| &resource.key).or(given)
            && let Ok(name) = ServiceName::new(&key.namespace, &key.name)
        {
            return Some((wire::address::Target::Service(name.to_string()), Some(name)));
        }
        if let Some((resource, workload, identity)) = seen.workload_at(ip) {
            let known = self.workloads.get(&resource.key.qualified())?;
            let ports = match &known.inbound.body {
                Some(wire::resource::Body::Inbound(inbound)) => inbound.ports.as_slice(),
                _ => &[],
            };
            let target = endpoints::direct(resource, workload, ip, &identity, ports);
            return Some((wire::address::Target::Workload(target), None));
        }
        endpoints::external(ip, seen).map(|external| (wire::address::Target::Workload(external), None))
    }

    /// The addresses that a workload had when it was last looked at.
    fn addresses_of(&self, key: &ResourceRef) -> Vec<IpAddr> {
        let body = self.workloads.get(&key.qualified()).and_then(|known| known.inbound.body.as_ref());
        match body {
            Some(wire::resource::Body::Inbound(inbound)) => {
                inbound.addresses.iter().filter_map(|ip| ip.parse().ok()).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn known<'a>(resource: &'a Resource, old: Option<&Known>, seen: &Seen<'a>) -> Option<Known> {
    let Spec::Workload(workload) = &resource.spec else { return None };
    let identity = identity_of(resource, workload, seen.trust).ok()?;
    let declared = endpoints::declared(resource, seen);
    let mut inbound = wire::Inbound {
        workload: resource.key.qualified(),
        addresses: workload.addresses.iter().map(IpAddr::to_string).collect(),
        ports: inbound::ports(resource, &declared, &seen.policies),
        default_policy: Some(seen.policies.for_port(resource, &[])),
        default_standing: seen.policies.standing(&resource.key.namespace, &[]),
        registered: Vec::new(),
    };
    inbound.registered = registered::told(&inbound, &resource.key.namespace, seen);
    let body = wire::resource::Body::Inbound(inbound);
    let inbound = kept(old.map(|old| &old.inbound), ResourceKey::Inbound, body);
    let egress = seen.egress.for_workload(resource);
    let egress = old.map(|old| &old.egress).filter(|old| **old == egress).cloned().unwrap_or(egress);
    let dns_names = names::of_leaf(resource, workload, seen);
    Some(Known { identity, site: workload.site.clone(), inbound, egress, dns_names })
}

fn addresses_of(resource: Option<&Arc<Resource>>) -> impl Iterator<Item = IpAddr> {
    let addresses = match resource.map(|resource| &resource.spec) {
        Some(Spec::Workload(workload)) => workload.addresses.as_slice(),
        _ => &[],
    };
    addresses.iter().copied()
}

/// Of `<namespace>/<name>`.
fn namespace_of(name: &str) -> String {
    name.split('/').next().unwrap_or_default().to_string()
}

fn same(old: Option<&Arc<Told>>, new: Option<&Arc<Told>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    }
}
