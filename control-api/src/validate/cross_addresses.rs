//! An address belongs to one: ranges to one site, addresses to one workload, VIPs to one service.

use super::cross::Findings;
use super::resource::*;
use super::set::Set;
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::IpAddr;

/// Undeclared overlap of sites is refused: an address would belong to two places. So is a VIP range inside a site.
pub(super) fn check_ranges(found: &mut Findings, set: &Set, mesh: &MeshConfig) {
    let mut taken: Vec<(&Resource, usize, IpNet)> = Vec::new();
    for resource in set.of_kind("Site", None) {
        let Spec::Site(site) = &resource.spec else { continue };
        for (i, range) in site.ranges.iter().enumerate() {
            let clash = taken.iter().find(|(_, _, other)| overlap(range, other));
            if let Some((owner, j, other)) = clash {
                let reason = format!(
                    "{range} overlaps with {other}, spec.ranges[{j}] of Site {}; sites must not",
                    owner.key.name
                );
                found.fault(resource, format!("spec.ranges[{i}]"), reason);
            }
            if let Some(vips) = mesh.vip_ranges.iter().find(|vips| overlap(range, vips)) {
                let reason = format!("{range} overlaps with {vips} of MeshConfig's spec.vipRanges");
                found.fault(resource, format!("spec.ranges[{i}]"), reason);
            }
            taken.push((resource, i, *range));
        }
    }
}

pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// An address belongs to one workload, a VIP to one service: to the first that says so, by their names.
pub(super) fn check_addresses(found: &mut Findings, resource: &Resource, set: &Set) {
    let (addresses, field) = addresses(resource);
    let mut own: HashSet<&IpAddr> = HashSet::new();
    for (i, ip) in addresses.iter().enumerate() {
        let owner = set.claimants(*ip).next().map_or(&resource.key, |first| &first.key);
        if own.insert(ip) && *owner == resource.key {
            continue;
        }
        let place = if field == "spec.clusterIP" { field.to_string() } else { format!("{field}[{i}]") };
        found.fault(resource, place, format!("{ip} already belongs to {owner}"));
    }
}

/// What a resource claims for itself, and where it says so.
pub(super) fn addresses(resource: &Resource) -> (&[IpAddr], &'static str) {
    match &resource.spec {
        Spec::Workload(workload) => (&workload.addresses, "spec.addresses"),
        Spec::Service(service) => (&service.vips, cluster_ip_field(resource)),
        _ => (&[], ""),
    }
}

pub(super) fn cluster_ip_field(resource: &Resource) -> &'static str {
    if resource.json.pointer("/spec/clusterIPs").is_some() { "spec.clusterIPs" } else { "spec.clusterIP" }
}
