//! Does an EgressPolicy fit the mesh? Refused: what is lower than the mesh's floor. Said as a warning: rules for
//! addresses and names of the mesh itself, which a ServicePolicy decides.

use super::cross::{Findings, check_floor};
use super::cross_addresses::overlap;
use super::resource::*;
use super::set::Set;
use ipnet::IpNet;

/// The floor that EgressPolicies have, in the form in which services have theirs.
fn floor(mesh: &MeshConfig) -> Floor {
    Floor { transport: mesh.floor.egress, ..mesh.floor }
}

pub(super) fn check_mesh(found: &mut Findings, resource: &Resource, mesh: &MeshConfig) {
    let EgressDefaults { transport, min_tls, .. } = mesh.egress;
    check_floor(found, resource, "spec.egress.", (Some(transport), Some(min_tls)), &floor(mesh));
}

pub(super) fn check(found: &mut Findings, resource: &Resource, policy: &EgressPolicy, mesh: &MeshConfig, set: &Set) {
    check_floor(found, resource, "spec.", (policy.transport, policy.min_tls), &floor(mesh));
    for (i, rule) in policy.allow.iter().enumerate() {
        let at = format!("spec.allow[{i}].");
        check_floor(found, resource, &at, (rule.transport, rule.min_tls), &floor(mesh));
    }
    for (list, rules) in [("allow", &policy.allow), ("deny", &policy.deny)] {
        for (i, rule) in rules.iter().enumerate() {
            warn_of_ours(found, &format!("{}: spec.{list}[{i}]", resource.key), rule, mesh, set);
        }
    }
    if let Some(labels) = &policy.workloads {
        let mut all = set.of_kind("Workload", Some(&resource.key.namespace));
        if !all.any(|workload| selects(labels, &workload.labels)) {
            found.warnings.push(format!("{}: selects no Workload in {}", resource.key, resource.key.namespace));
        }
    }
}

fn warn_of_ours(found: &mut Findings, at: &str, rule: &EgressRule, mesh: &MeshConfig, set: &Set) {
    let sites = set.of_kind("Site", None).filter_map(|other| match &other.spec {
        Spec::Site(site) => Some(site.ranges.iter()),
        _ => None,
    });
    let ours: Vec<&IpNet> = sites.flatten().chain(&mesh.vip_ranges).collect();
    for range in rule.cidrs.iter().flatten() {
        // A range that holds all of ours and more (0.0.0.0/0) is meant for the rest.
        if ours.iter().any(|ours| overlap(ours, range) && ours.prefix_len() <= range.prefix_len()) {
            found.warnings.push(format!("{at}: {range} is inside the mesh, where ServicePolicies decide"));
        }
    }
    for host in rule.hosts.iter().flatten() {
        if mesh.dns_suffixes.iter().any(|suffix| host.ends_with(&format!(".{suffix}"))) {
            found.warnings.push(format!("{at}: `{host}` is a name of the mesh, where ServicePolicies decide"));
        }
    }
}
