//! What each proxy should see: resources in, wire resources out. Synchronous, one writer, pure, clusterless.
//!
//! [`Index::apply`] makes the next index from the present one: [`touch`] says whom a change concerns, and only they are
//! made anew; all else is shared. What still says the same keeps its identity, so that "unchanged" is a pointer
//! comparison. [`Index::view`] picks what one proxy needs; [`diff`] says what to send. How a workload's policy comes
//! about is in [`policy`], how a service finds its endpoints in [`endpoints`].
//!
//! It refuses nothing: [`crate::validate`] did. What it cannot resolve it leaves out, which a proxy reads as "absent".

mod apply;
mod egress;
mod endpoints;
mod inbound;
mod look;
mod names;
mod policy;
mod registered;
mod standing;
mod tenants;
mod told;
mod touch;
mod traffic;
mod view;
mod vips;

pub use policy::compile_rule;
pub use tenants::Tenancy;
pub(crate) use tenants::{check as check_tenant, check_role};
pub use told::Told;
pub use view::{View, diff};
pub use vips::{Allocation, Given, Vips, allocate};

use crate::validate::ResourceRef;
use crate::validate::cross;
use crate::validate::resource::{MeshConfig, Resource, Spec, Workload};
use crate::validate::set::Set;
use endpoints::Seen;
use isthmus_certs::{Revocations, SpiffeId, TrustDomain};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Enforcement, ResourceKey, ServiceName, Upkeep, write_profile, write_revocations};
use rpds::HashTrieMapSync;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
#[path = "apply_test.rs"]
mod apply_test;
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
#[path = "probes_test.rs"]
mod probes_test;
#[cfg(test)]
#[path = "registered_test.rs"]
mod registered_test;
#[cfg(test)]
#[path = "standing_test.rs"]
mod standing_test;

/// What the mesh is, beside its resources.
#[derive(Clone, Debug)]
pub struct Trust {
    pub trust_domain: TrustDomain,
    pub roots_der: Vec<Vec<u8>>,
    pub revocations: Arc<Revocations>,
    pub issuing: Issuing,
}

/// Which root issues now, and over what time the holders of others renew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuing {
    pub root: Option<[u8; 32]>,
    pub renew_within: Duration,
}

/// The mesh as it is to be indexed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub set: &'a Set,
    pub vips: &'a Vips,
    pub trust: &'a Trust,
}

/// How it differs from what the index was made of.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a> {
    pub before: &'a Set,
    /// What was put or deleted.
    pub keys: &'a [ResourceRef],
    /// Who held which VIPs before, and what was given since.
    pub vips: &'a Vips,
    pub given: &'a Given,
    /// Whom the mesh trusts is another than before.
    pub trust: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Index {
    /// By site.
    mesh: Arc<HashMap<String, Arc<Told>>>,
    /// By `<namespace>/<name>`.
    workloads: HashTrieMapSync<String, Known>,
    /// How many workloads have an identity.
    identities: HashTrieMapSync<SpiffeId, usize>,
    services: HashTrieMapSync<ServiceName, Arc<Told>>,
    addresses: HashTrieMapSync<IpAddr, Target>,
    tenancy: Arc<Tenancy>,
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    identity: SpiffeId,
    site: String,
    inbound: Arc<Told>,
    egress: Arc<Told>,
    /// What its leaf carries beside its identity.
    dns_names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Target {
    resource: Arc<Told>,
    /// Sent along with the address.
    service: Option<ServiceName>,
    /// Whose it is.
    namespaces: Vec<String>,
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
    pub fn concerns(&self, workload: &str, used: &View) -> bool {
        self.mesh || self.inbound.contains(workload) || self.touches(used)
    }

    fn touches(&self, used: &View) -> bool {
        // By the shorter of the two: a change may be of the whole mesh, or a proxy use a lot.
        match used.len() < self.keys.len() {
            true => used.keys().any(|key| self.keys.contains(key)),
            false => self.keys.iter().any(|key| used.has(key)),
        }
    }
}

impl Index {
    /// The identity that a workload's certificate carries; none if there is no such workload.
    pub fn identity_of(&self, workload: &str) -> Option<&SpiffeId> {
        self.workloads.get(workload).map(|known| &known.identity)
    }

    /// The workloads of a service account, by name, in order. Only those of our own trust domain.
    pub fn workloads_of(&self, ours: &TrustDomain, namespace: &str, account: &str) -> Vec<&str> {
        let Ok(identity) = SpiffeId::workload(ours, namespace, account) else { return Vec::new() };
        let is = |known: &Known| known.identity == identity;
        let mut names: Vec<&str> =
            self.workloads.iter().filter(|(_, k)| is(k)).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// The DNS names that a workload's leaf carries.
    pub fn dns_names_of(&self, workload: &str) -> &[String] {
        self.workloads.get(workload).map(|known| known.dns_names.as_slice()).unwrap_or_default()
    }

    /// Whether any workload has this identity.
    pub fn has_identity(&self, id: &SpiffeId) -> bool {
        self.identities.contains_key(id)
    }
}

impl PartialEq for Index {
    /// Says the same; whether it is the same memory does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.mesh == other.mesh
            && self.workloads == other.workloads
            && self.identities == other.identities
            && self.services == other.services
            && self.addresses == other.addresses
            && self.tenancy == other.tenancy
    }
}

/// The resource as it was, if it still says the same.
fn kept(old: Option<&Arc<Told>>, key: ResourceKey, body: wire::resource::Body) -> Arc<Told> {
    kept_requiring(old, key, Vec::new(), body)
}

fn kept_requiring(
    old: Option<&Arc<Told>>,
    key: ResourceKey,
    requires: Vec<String>,
    body: wire::resource::Body,
) -> Arc<Told> {
    match old {
        Some(old) if old.body.as_ref() == Some(&body) && old.requires == requires => old.clone(),
        _ => Arc::new(Told::from(wire::Resource { key: Some(key.into()), requires, body: Some(body) })),
    }
}

fn identity_of(resource: &Resource, workload: &Workload, trust: &Trust) -> Result<SpiffeId, isthmus_certs::IdError> {
    let other = workload.trust_domain.as_deref().map(TrustDomain::parse).transpose()?;
    let domain = other.as_ref().unwrap_or(&trust.trust_domain);
    SpiffeId::workload(domain, &resource.key.namespace, &workload.service_account)
}

/// Asked for by the author, or given by us.
fn service_vips<'a>(resource: &'a Resource, given: &'a Vips) -> &'a [IpAddr] {
    match &resource.spec {
        Spec::Service(service) if !service.vips.is_empty() => &service.vips,
        _ => given.of(&resource.key),
    }
}

fn upkeep(mesh: &MeshConfig, trust: &Trust) -> wire::Upkeep {
    let Issuing { root, renew_within } = trust.issuing.clone();
    Upkeep { issuing_root: root, renew_within, max_stream_age: mesh.max_stream_age }.into()
}

fn wire_mesh(set: &Set, mesh: &MeshConfig, trust: &Trust) -> wire::Mesh {
    let enforcement = if mesh.enforce { Enforcement::Enforce } else { Enforcement::Observe };
    let mut message = wire::Mesh {
        trust_domain: trust.trust_domain.to_string(),
        enforcement: wire::Enforcement::from(enforcement).into(),
        vip_ranges: mesh.vip_ranges.iter().map(ToString::to_string).collect(),
        dns_suffixes: mesh.dns_suffixes.clone(),
        roots_der: trust.roots_der.clone(),
        telemetry: Some(wire::Telemetry {
            otlp_endpoint: mesh.otlp.clone(),
            sampling_ratio: mesh.sampling,
            keep: Some(wire::KeepSpans {
                errors: mesh.keep.errors,
                denied: mesh.keep.denied,
                slower_than_ms: mesh.keep.slower_than.map_or(0, |d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX)),
            }),
            metrics_every_ms: mesh
                .metrics_every
                .map_or(0, |every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX)),
        }),
        leaf_lifetime_seconds: u32::try_from(mesh.leaf_lifetime.as_secs()).unwrap_or(u32::MAX),
        revocations: (trust.revocations.epoch > 0).then(|| write_revocations(&trust.revocations)),
        upkeep: Some(upkeep(mesh, trust)),
        crypto_profile: write_profile(mesh.crypto_profile).into(),
        trust_domains: names::trust_domains(set),
        ..wire::Mesh::default()
    };
    for resource in set.of_kind("Site", None).chain(set.of_kind("Link", None)) {
        let name = resource.key.name.clone();
        match &resource.spec {
            Spec::Site(site) => {
                message.sites.push(wire::Site {
                    name,
                    ranges: site.ranges.iter().map(ToString::to_string).collect(),
                    resolvers: site.resolvers.iter().map(ToString::to_string).collect(),
                    seen_as: site.seen_as.iter().map(ToString::to_string).collect(),
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
