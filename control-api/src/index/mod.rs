//! What each proxy should see: resources in, wire resources out. Synchronous, built aside by one writer, clusterless.
//!
//! [`Index::build`] makes every wire resource once, keeping those of the index before that did not change, so that
//! "unchanged" is a pointer comparison; [`Index::view`] picks what one proxy needs; [`diff`] says what to send. How a
//! workload's policy comes about is in [`policy`], how a service finds its endpoints in [`endpoints`].
//!
//! It refuses nothing: [`crate::validate`] did. What it cannot resolve it leaves out, which a proxy reads as "absent".

mod egress;
mod endpoints;
mod inbound;
mod look;
mod policy;
mod standing;
mod traffic;
mod view;
mod vips;

pub use policy::compile_rule;
pub use view::{View, diff};
pub use vips::allocate;

use crate::validate::ResourceRef;
use crate::validate::cross::{self, Set};
use crate::validate::resource::{MeshConfig, Resource, Spec, Workload};
use endpoints::Endpoints;
use isthmus_certs::{Revocations, SpiffeId, TrustDomain};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Enforcement, ResourceKey, ServiceName, write_revocations};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

#[cfg(test)]
#[path = "diff_test.rs"]
mod diff_test;
#[cfg(test)]
#[path = "egress_test.rs"]
mod egress_test;
#[cfg(test)]
#[path = "index_test.rs"]
mod index_test;
#[cfg(test)]
#[path = "standing_test.rs"]
mod standing_test;

/// What the mesh is, beside its resources.
#[derive(Clone, Debug)]
pub struct Trust {
    pub trust_domain: TrustDomain,
    pub roots_der: Vec<Vec<u8>>,
    pub revocations: Arc<Revocations>,
}

pub type Vips = BTreeMap<ResourceRef, Vec<IpAddr>>;

#[derive(Clone, Debug, Default)]
pub struct Index {
    /// By site.
    mesh: HashMap<String, Arc<wire::Resource>>,
    /// By `<namespace>/<name>`.
    workloads: HashMap<String, Known>,
    services: HashMap<ServiceName, Arc<wire::Resource>>,
    addresses: HashMap<IpAddr, Target>,
}

#[derive(Clone, Debug)]
struct Known {
    identity: SpiffeId,
    site: String,
    inbound: Arc<wire::Resource>,
    egress: Arc<wire::Resource>,
}

#[derive(Clone, Debug)]
struct Target {
    resource: Arc<wire::Resource>,
    /// Sent along with the address.
    service: Option<ServiceName>,
}

/// The parts of views that differ between two indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub mesh: bool,
    /// Inbound and egress views, by `<namespace>/<name>` of the workload.
    pub inbound: BTreeSet<String>,
    /// Services and addresses.
    pub keys: BTreeSet<ResourceKey>,
}

impl Changed {
    pub fn is_empty(&self) -> bool {
        !self.mesh && self.inbound.is_empty() && self.keys.is_empty()
    }

    /// Whether a proxy of this workload, which uses these keys, has anything to be told.
    pub fn concerns<'a>(&self, workload: &str, mut used: impl Iterator<Item = &'a ResourceKey>) -> bool {
        self.mesh || self.inbound.contains(workload) || used.any(|key| self.keys.contains(key))
    }
}

impl Index {
    /// Costs one pass over all resources. `before` gives unchanged parts their identity.
    pub fn build(set: &Set, vips: &Vips, trust: &Trust, before: &Index) -> Index {
        let mesh = cross::mesh_config(set);
        let traffic = traffic::Traffic::of(set);
        let endpoints = Endpoints::of(set, trust, &traffic);
        let policies = policy::Policies::of(set, &mesh, trust);
        let outside = egress::Policies::of(set, &mesh);
        let mut index = Index::default();
        index.add_mesh(set, &mesh, trust, outside.restrict(), before);
        for resource in set.values() {
            match &resource.spec {
                Spec::Workload(workload) => {
                    let given = (&endpoints, &policies, outside.for_workload(resource));
                    index.add_workload(resource, workload, given, trust, before);
                }
                Spec::Service(service) => {
                    let found = endpoints.of_service(&resource.key);
                    let vips = service_vips(resource, vips);
                    let seen = endpoints::Seen { policies: &policies, traffic: &traffic, mesh: &mesh };
                    let body = endpoints::service(resource, service, &vips, found, &seen);
                    index.add_service(&resource.key, body, &vips, before);
                }
                _ => {}
            }
        }
        for (ip, external) in endpoints.external() {
            index.add_address(ip, wire::address::Target::Workload(external), None, before);
        }
        index
    }

    fn add_mesh(&mut self, set: &Set, mesh: &MeshConfig, trust: &Trust, egress: bool, before: &Index) {
        let base = wire_mesh(set, mesh, trust);
        // A proxy that knows nothing of egress would let through what is restricted.
        let requires = if egress { vec![egress::EGRESS.to_string()] } else { Vec::new() };
        for site in &base.sites {
            let body = wire::resource::Body::Mesh(wire::Mesh { site: site.name.clone(), ..base.clone() });
            let resource = kept_requiring(before.mesh.get(&site.name), ResourceKey::Mesh, requires.clone(), body);
            self.mesh.insert(site.name.clone(), resource);
        }
    }

    fn add_workload(
        &mut self,
        resource: &Resource,
        workload: &Workload,
        (endpoints, policies, egress): (&Endpoints, &policy::Policies, Arc<wire::Resource>),
        trust: &Trust,
        before: &Index,
    ) {
        let name = resource.key.qualified();
        let Ok(identity) = identity_of(resource, workload, trust) else {
            return;
        };
        let ports = inbound::ports(resource, endpoints.declared(&resource.key), policies);
        for ip in &workload.addresses {
            let target = endpoints::direct(resource, workload, *ip, &identity, &ports);
            self.add_address(*ip, wire::address::Target::Workload(target), None, before);
        }
        let inbound = wire::Inbound {
            workload: name.clone(),
            addresses: workload.addresses.iter().map(IpAddr::to_string).collect(),
            ports,
            default_policy: Some(policies.for_port(resource, &[])),
            default_standing: policies.standing(&resource.key.namespace, &[]),
        };
        let old = before.workloads.get(&name);
        let body = wire::resource::Body::Inbound(inbound);
        let inbound = kept(old.map(|known| &known.inbound), ResourceKey::Inbound, body);
        let egress = old.map(|known| &known.egress).filter(|old| **old == egress).cloned().unwrap_or(egress);
        self.workloads.insert(name, Known { identity, site: workload.site.clone(), inbound, egress });
    }

    fn add_service(&mut self, key: &ResourceRef, body: wire::Service, vips: &[IpAddr], before: &Index) {
        let Ok(name) = ServiceName::new(&key.namespace, &key.name) else {
            return;
        };
        for vip in vips {
            self.add_address(*vip, wire::address::Target::Service(name.to_string()), Some(name.clone()), before);
        }
        let old = before.services.get(&name);
        let resource = kept(old, ResourceKey::Service(name.clone()), wire::resource::Body::Service(body));
        self.services.insert(name, resource);
    }

    /// The first to claim an address keeps it: workloads and VIPs are unique, hand-written endpoints come last.
    fn add_address(&mut self, ip: IpAddr, target: wire::address::Target, service: Option<ServiceName>, before: &Index) {
        let body = wire::resource::Body::Address(wire::Address { ip: ip.to_string(), target: Some(target) });
        let old = before.addresses.get(&ip).map(|target| &target.resource);
        let resource = kept(old, ResourceKey::Address(ip), body);
        self.addresses.entry(ip).or_insert(Target { resource, service });
    }

    /// The identity that a workload's certificate carries; none if there is no such workload.
    pub fn identity_of(&self, workload: &str) -> Option<&SpiffeId> {
        self.workloads.get(workload).map(|known| &known.identity)
    }

    /// Whether any workload has this identity.
    pub fn has_identity(&self, id: &SpiffeId) -> bool {
        self.workloads.values().any(|known| known.identity == *id)
    }

    /// What changed from `before` to here. Costs one pass of pointer comparisons.
    pub fn changed_since(&self, before: &Index) -> Changed {
        let mut changed =
            Changed { mesh: differs(&self.mesh, &before.mesh, |r| r).next().is_some(), ..Changed::default() };
        changed.inbound = differs(&self.workloads, &before.workloads, |known| &known.inbound).cloned().collect();
        changed.inbound.extend(differs(&self.workloads, &before.workloads, |known| &known.egress).cloned());
        changed
            .keys
            .extend(differs(&self.services, &before.services, |r| r).map(|name| ResourceKey::Service(name.clone())));
        changed.keys.extend(
            differs(&self.addresses, &before.addresses, |target| &target.resource).map(|ip| ResourceKey::Address(*ip)),
        );
        changed
    }
}

/// Keys whose resource is new, gone or another one.
fn differs<'a, K: Eq + std::hash::Hash, V>(
    new: &'a HashMap<K, V>,
    old: &'a HashMap<K, V>,
    resource: impl Fn(&V) -> &Arc<wire::Resource> + Copy + 'a,
) -> impl Iterator<Item = &'a K> {
    let changed = new
        .iter()
        .filter(move |(key, value)| !old.get(*key).is_some_and(|old| Arc::ptr_eq(resource(old), resource(value))));
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    changed.map(|(key, _)| key).chain(gone)
}

/// The resource as it was, if it still says the same.
fn kept(old: Option<&Arc<wire::Resource>>, key: ResourceKey, body: wire::resource::Body) -> Arc<wire::Resource> {
    kept_requiring(old, key, Vec::new(), body)
}

fn kept_requiring(
    old: Option<&Arc<wire::Resource>>,
    key: ResourceKey,
    requires: Vec<String>,
    body: wire::resource::Body,
) -> Arc<wire::Resource> {
    match old {
        Some(old) if old.body.as_ref() == Some(&body) && old.requires == requires => old.clone(),
        _ => Arc::new(wire::Resource { key: Some(key.into()), requires, body: Some(body) }),
    }
}

fn identity_of(resource: &Resource, workload: &Workload, trust: &Trust) -> Result<SpiffeId, isthmus_certs::IdError> {
    SpiffeId::workload(&trust.trust_domain, &resource.key.namespace, &workload.service_account)
}

/// Asked for by the author, or given by us.
fn service_vips(resource: &Resource, given: &Vips) -> Vec<IpAddr> {
    match &resource.spec {
        Spec::Service(service) if !service.vips.is_empty() => service.vips.clone(),
        _ => given.get(&resource.key).cloned().unwrap_or_default(),
    }
}

fn wire_mesh(set: &Set, mesh: &MeshConfig, trust: &Trust) -> wire::Mesh {
    let enforcement = if mesh.enforce { Enforcement::Enforce } else { Enforcement::Observe };
    let mut message = wire::Mesh {
        trust_domain: trust.trust_domain.to_string(),
        enforcement: wire::Enforcement::from(enforcement).into(),
        vip_ranges: mesh.vip_ranges.iter().map(ToString::to_string).collect(),
        dns_suffixes: mesh.dns_suffixes.clone(),
        roots_der: trust.roots_der.clone(),
        telemetry: Some(wire::Telemetry { otlp_endpoint: mesh.otlp.clone(), sampling_ratio: mesh.sampling }),
        leaf_lifetime_seconds: u32::try_from(mesh.leaf_lifetime.as_secs()).unwrap_or(u32::MAX),
        revocations: (trust.revocations.epoch > 0).then(|| write_revocations(&trust.revocations)),
        ..wire::Mesh::default()
    };
    for resource in set.values() {
        let name = resource.key.name.clone();
        match &resource.spec {
            Spec::Site(site) => {
                message.sites.push(wire::Site {
                    name,
                    ranges: site.ranges.iter().map(ToString::to_string).collect(),
                    resolvers: site.resolvers.iter().map(ToString::to_string).collect(),
                });
            }
            Spec::Link(link) => {
                let [site_a, site_b] = link.sites.clone();
                message.links.push(wire::Link { name, site_a, site_b });
            }
            _ => {}
        }
    }
    message
}
