//! Names beside the mesh's own identities: what DNS names a leaf carries, and which other trust domains are believed.

use super::endpoints::{self, Seen};
use crate::validate::resource::{MeshConfig, Resource, Spec, Workload};
use crate::validate::set::Set;
use isthmus_certs::{CryptoProfile, Federation};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::write_federation;

/// Each has a few names, and the leaf is sent with each handshake.
const MOST_SERVICES_IN_A_LEAF: usize = 8;

/// By policy: the workload's own, and those of its services where the mesh says so. A workload of another mesh gets its
/// certificate there.
pub(super) fn of_leaf(resource: &Resource, workload: &Workload, seen: &Seen) -> Vec<String> {
    let mut names = workload.dns_names.clone();
    if seen.mesh.service_names && workload.trust_domain.is_none() {
        let mut services: Vec<String> =
            endpoints::declared(resource, seen).into_iter().map(|declared| declared.service).collect();
        services.sort_unstable();
        services.dedup();
        for service in services.iter().take(MOST_SERVICES_IN_A_LEAF) {
            names.extend(endpoints::hostnames(&resource.key.namespace, service, seen.mesh));
        }
    }
    names
}

pub(super) fn trust_domains(set: &Set) -> Vec<wire::TrustDomainBundle> {
    let mut others = Federation::new();
    for resource in set.of_kind("TrustDomain", None) {
        if let Spec::TrustDomain(other) = &resource.spec
            && let Some(name) = &other.name
        {
            others.insert(name.clone(), other.bundle.clone());
        }
    }
    write_federation(&others)
}

/// An older proxy would go on with algorithms that the mesh rules out.
pub(super) fn profile(mesh: &MeshConfig) -> Option<&'static str> {
    (mesh.crypto_profile == CryptoProfile::Fips).then_some("crypto-profile/v1")
}
