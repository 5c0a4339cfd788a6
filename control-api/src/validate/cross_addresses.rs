//! An address belongs to one: ranges to one site, addresses to one workload, VIPs to one service.

use super::cross::Findings;
use super::resource::*;
use super::set::Set;
use crate::index::Tenancy;
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

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
    check_seen_as(found, set, mesh);
}

/// Who is seen as an address can be in one place only: rules on sites go by it.
fn check_seen_as(found: &mut Findings, set: &Set, mesh: &MeshConfig) {
    let mut taken: Vec<(&Resource, usize, IpNet)> = Vec::new();
    for resource in set.of_kind("Site", None) {
        let Spec::Site(site) = &resource.spec else { continue };
        for (i, range) in site.seen_as.iter().enumerate() {
            let clash = taken.iter().find(|(owner, _, other)| owner.key != resource.key && overlap(range, other));
            if let Some((owner, j, other)) = clash {
                let reason = format!(
                    "{range} overlaps with {other}, spec.seenAs[{j}] of Site {}: nobody could tell which site a caller \
                     is in",
                    owner.key.name
                );
                found.fault(resource, format!("spec.seenAs[{i}]"), reason);
            }
            if let Some(vips) = mesh.vip_ranges.iter().find(|vips| overlap(range, vips)) {
                let reason = format!("{range} overlaps with {vips} of MeshConfig's spec.vipRanges");
                found.fault(resource, format!("spec.seenAs[{i}]"), reason);
            }
            taken.push((resource, i, *range));
        }
    }
}

/// Who claims an address that a site is seen as.
pub(super) fn claimants<'a>(site: Option<&'a Arc<Resource>>, set: &'a Set) -> impl Iterator<Item = &'a Arc<Resource>> {
    let ranges = match site.map(|resource| &resource.spec) {
        Some(Spec::Site(site)) => site.seen_as.as_slice(),
        _ => &[],
    };
    let own = move |ip: &&IpAddr| ranges.iter().any(|range| range.contains(*ip));
    let none = ranges.is_empty();
    set.claimed_addresses().filter(move |ip| !none && own(ip)).flat_map(|ip| set.claimants(*ip))
}

/// The site that is seen as this address.
fn seen_as(set: &Set, ip: IpAddr) -> Option<&Resource> {
    let is =
        |resource: &&Resource| matches!(&resource.spec, Spec::Site(s) if s.seen_as.iter().any(|r| r.contains(&ip)));
    set.of_kind("Site", None).map(|resource| &**resource).find(is)
}

/// An address that stands for a whole site is no workload's own: the two could not be told apart.
pub(super) fn check_own(found: &mut Findings, resource: &Resource, workload: &Workload, set: &Set) {
    for (i, ip) in workload.addresses.iter().enumerate() {
        if let Some(site) = seen_as(set, *ip) {
            let reason =
                format!("{ip} is what Site {} is seen as (its spec.seenAs), and so no workload's own", site.key.name);
            found.fault(resource, format!("spec.addresses[{i}]"), reason);
        }
    }
}

pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// What is said of an address that somebody has of whom the author is not told.
pub(crate) const OTHERS: &str = "already belongs to another tenant";

/// An address belongs to one workload, a VIP to one service: to the first that says so, by their names.
pub(super) fn check_addresses(found: &mut Findings, resource: &Resource, set: &Set, tenancy: &Tenancy) {
    let (addresses, field) = addresses(resource);
    let mut own: HashSet<&IpAddr> = HashSet::new();
    for (i, ip) in addresses.iter().enumerate() {
        let owner = set.claimants(*ip).next().map_or(&resource.key, |first| &first.key);
        if own.insert(ip) && *owner == resource.key {
            continue;
        }
        let reason = match tenancy.sees(&resource.key.namespace, &owner.namespace) {
            true => format!("{ip} already belongs to {owner}"),
            false => format!("{ip} {OTHERS}"),
        };
        found.fault(resource, field_of(field, i), reason);
    }
}

/// One of what [`addresses`] gives.
pub(crate) fn field_of(field: &str, i: usize) -> String {
    if field == "spec.clusterIP" { field.to_string() } else { format!("{field}[{i}]") }
}

/// What a resource claims for itself, and where it says so.
pub(crate) fn addresses(resource: &Resource) -> (&[IpAddr], &'static str) {
    match &resource.spec {
        Spec::Workload(workload) => (&workload.addresses, "spec.addresses"),
        Spec::Service(service) => (&service.vips, cluster_ip_field(resource)),
        _ => (&[], ""),
    }
}

pub(super) fn cluster_ip_field(resource: &Resource) -> &'static str {
    if resource.json.pointer("/spec/clusterIPs").is_some() { "spec.clusterIPs" } else { "spec.clusterIP" }
}
