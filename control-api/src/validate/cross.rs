//! Do the resources fit together? Checked over the set as it would be, before anything is stored: after a change, what
//! was changed and who refers to it ([`check_changed`]), which finds what checking everything ([`check`]) would.
//!
//! Refused: a reference to nothing, an address or range that belongs to two, what is lower than the mesh's floor, and
//! what takes a name that the mesh keeps for itself. Said as a warning: what is true and allowed, but rarely meant.

use super::cross_addresses::{addresses, check_addresses, check_own, check_ranges, claimants, cluster_ip_field};
use super::cross_egress;
use super::names::camel_case;
use super::problem::ResourceRef;
use super::resource::*;
use crate::index::{Tenancy, compile_rule};
use isthmus_certs::TrustDomain;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub use super::set::Set;

#[path = "federation.rs"]
mod federation;

#[cfg(test)]
#[path = "cross_test.rs"]
mod cross_test;

/// One thing that does not fit, on the resource whose author can put it right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub key: ResourceRef,
    pub field: String,
    pub reason: String,
}

#[derive(Debug, Default)]
pub struct Findings {
    pub faults: Vec<Fault>,
    pub warnings: Vec<String>,
}

impl Findings {
    pub(super) fn fault(&mut self, resource: &Resource, field: impl Into<String>, reason: String) {
        self.faults.push(Fault { key: resource.key.clone(), field: field.into(), reason });
    }
}

/// The mesh's configuration, or what holds until one is applied: Observe, no VIPs.
pub fn mesh_config(set: &Set) -> MeshConfig {
    match set.get(&ResourceRef::new("MeshConfig", "", "mesh")).map(|r| &r.spec) {
        Some(Spec::MeshConfig(mesh)) => mesh.clone(),
        _ => MeshConfig::default(),
    }
}

/// Checks a whole set. `trust_domain` is what this control plane issues certificates for.
pub fn check(set: &Set, trust_domain: &TrustDomain) -> Findings {
    check_these(set, trust_domain, set.values())
}

/// Checks a set that was sound before these resources changed (were put or deleted).
pub fn check_changed(set: &Set, changed: &[ResourceRef], trust_domain: &TrustDomain) -> Findings {
    if changed.iter().any(|key| key.kind == "MeshConfig") {
        return check(set, trust_domain);
    }
    let mut concerned: BTreeMap<&ResourceRef, &Arc<Resource>> = BTreeMap::new();
    for key in changed {
        let new = set.get(key);
        concerned.extend(new.map(|resource| (&resource.key, resource)));
        concerned.extend(set.referrers(key).map(|resource| (&resource.key, resource)));
        if let Some(new) = new {
            let same = addresses(new).0.iter().flat_map(|ip| set.claimants(*ip));
            concerned.extend(same.map(|resource| (&resource.key, resource)));
        }
        // Of two that say the same, the one whose name comes later is told; a change may make that another one.
        if key.kind == "TrafficPolicy" {
            let all = set.of_kind(&key.kind, Some(&key.namespace));
            concerned.extend(all.map(|resource| (&resource.key, resource)));
        }
        if key.kind == "Tenant" {
            concerned.extend(set.of_kind("Tenant", None).map(|resource| (&resource.key, resource)));
        }
        if key.kind == "Site" {
            concerned.extend(set.of_kind("Site", None).map(|resource| (&resource.key, resource)));
            concerned.extend(claimants(new, set).map(|resource| (&resource.key, resource)));
        }
    }
    concerned.extend(set.loose().map(|resource| (&resource.key, resource)));
    check_these(set, trust_domain, concerned.into_values())
}

fn check_these<'a>(
    set: &Set,
    trust_domain: &TrustDomain,
    resources: impl Iterator<Item = &'a Arc<Resource>>,
) -> Findings {
    let mesh = mesh_config(set);
    let world = World::new(set, trust_domain);
    let (tenancy, mut found) = (Tenancy::of(set), Findings::default());
    let mut sites = false;
    for resource in resources {
        match &resource.spec {
            Spec::MeshConfig(mesh) => check_mesh(&mut found, resource, mesh, trust_domain.as_str()),
            Spec::Link(link) => check_link(&mut found, resource, link, &world),
            Spec::TrustDomain(other) => federation::check_domain(&mut found, resource, other, &world),
            Spec::Workload(workload) => {
                check_workload(&mut found, resource, workload, &world);
                check_own(&mut found, resource, workload, set);
                federation::check_workload(&mut found, resource, workload, &mesh, &world);
            }
            Spec::Service(service) => check_service(&mut found, resource, service, &mesh, set),
            Spec::Endpoints(endpoints) => check_endpoints(&mut found, resource, endpoints, &world),
            Spec::ServicePolicy(policy) => check_policy(&mut found, resource, policy, &mesh, &world),
            Spec::TrafficPolicy(policy) => check_traffic(&mut found, resource, policy, &world),
            Spec::EgressPolicy(policy) => cross_egress::check(&mut found, resource, policy, &mesh, set),
            Spec::Enforcement(Enforcement { services, .. }) | Spec::Bypass(Bypass { services, .. }) => {
                check_selected(&mut found, resource, services, &world);
            }
            Spec::OperatorRole(role) => {
                crate::index::check_role(set, &role.tenants, &mut |field, reason| found.fault(resource, field, reason));
            }
            Spec::Tenant(_) => {
                crate::index::check_tenant(set, resource, &mut |field, reason| found.fault(resource, field, reason));
            }
            Spec::Site(_) => sites = true,
        }
        check_addresses(&mut found, resource, set, &tenancy);
    }
    if sites {
        check_ranges(&mut found, set, &mesh);
    }
    found
}

struct World<'a> {
    set: &'a Set,
    trust_domain: &'a TrustDomain,
    sites: HashMap<&'a str, &'a Site>,
}

impl<'a> World<'a> {
    fn new(set: &'a Set, trust_domain: &'a TrustDomain) -> Self {
        let site = |r: &'a Arc<Resource>| match &r.spec {
            Spec::Site(site) => Some((r.key.name.as_str(), site)),
            _ => None,
        };
        World { trust_domain, set, sites: set.of_kind("Site", None).filter_map(site).collect() }
    }

    fn has_service(&self, namespace: &str, name: &str) -> bool {
        self.set.contains_key(&ResourceRef::new("Service", namespace, name))
    }

    fn no_site(&self, name: &str) -> Option<String> {
        if self.sites.contains_key(name) {
            return None;
        }
        let mut known: Vec<&str> = self.sites.keys().copied().collect();
        known.sort_unstable();
        Some(format!("there is no Site `{name}`{}", hint(name, &known)))
    }

    fn services_of(&self, namespace: &'a str) -> Vec<&'a str> {
        self.set.of_kind("Service", Some(namespace)).map(|service| service.key.name.as_str()).collect()
    }
}

fn check_selected(found: &mut Findings, resource: &Resource, services: &[String], world: &World) {
    let namespace = &resource.key.namespace;
    for (i, service) in services.iter().enumerate().filter(|(_, name)| !world.has_service(namespace, name)) {
        let reason = format!(
            "there is no Service `{service}` in namespace {namespace}{}",
            hint(service, &world.services_of(namespace))
        );
        found.fault(resource, format!("spec.services[{i}]"), reason);
    }
}

fn hint(word: &str, known: &[&str]) -> String {
    match super::field::nearest(word, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if known.is_empty() => "; none is defined".to_string(),
        None => format!("; there are {}", known.iter().take(8).copied().collect::<Vec<_>>().join(", ")),
    }
}

fn check_mesh(found: &mut Findings, resource: &Resource, mesh: &MeshConfig, trust_domain: &str) {
    if let Some(written) = &mesh.trust_domain
        && written != trust_domain
    {
        let reason =
            format!("`{written}` is not the trust domain of this control plane, which issues for `{trust_domain}`");
        found.fault(resource, "spec.trustDomain", reason);
    }
    let Defaults { transport, min_tls, .. } = mesh.defaults;
    check_floor(found, resource, "spec.defaults.", (Some(transport), Some(min_tls)), &mesh.floor);
    cross_egress::check_mesh(found, resource, mesh);
    if mesh.leaf_lifetime < Duration::from_secs(30 * 60) {
        found.warnings.push(format!(
            "MeshConfig mesh: certificates live {} s, less than 30 minutes: that clocks may differ by up to 5 minutes \
             is then no longer promised",
            mesh.leaf_lifetime.as_secs()
        ));
    }
}

pub(super) fn check_floor(
    found: &mut Findings,
    resource: &Resource,
    prefix: &str,
    (transport, min_tls): (Option<Transport>, Option<TlsVersion>),
    floor: &Floor,
) {
    if let (Some(asked), Some(floor)) = (transport, floor.transport)
        && asked < floor
    {
        let reason = format!("{asked:?} is below the mesh's floor, {floor:?} (MeshConfig spec.floor.transport)");
        found.fault(resource, format!("{prefix}transport"), reason);
    }
    if let (Some(asked), Some(floor)) = (min_tls, floor.min_tls)
        && asked < floor
    {
        let reason = format!(
            "{} is below the mesh's floor, {} (MeshConfig spec.floor.minTlsVersion)",
            written(asked),
            written(floor)
        );
        found.fault(resource, format!("{prefix}minTlsVersion"), reason);
    }
}

/// As it is written in YAML.
fn written(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_0 => "1.0",
        TlsVersion::V1_1 => "1.1",
        TlsVersion::V1_2 => "1.2",
        TlsVersion::V1_3 => "1.3",
    }
}

fn check_link(found: &mut Findings, resource: &Resource, link: &Link, world: &World) {
    for (i, site) in link.sites.iter().enumerate() {
        if let Some(reason) = world.no_site(site) {
            found.fault(resource, format!("spec.sites[{i}]"), reason);
        }
    }
}

fn check_workload(found: &mut Findings, resource: &Resource, workload: &Workload, world: &World) {
    if resource.key.namespace == isthmus_certs::id::SYSTEM_NAMESPACE {
        let reason = "is kept for the control plane and its operators; choose another namespace".to_string();
        found.fault(resource, "metadata.namespace", reason);
    }
    let Some(site) = world.sites.get(workload.site.as_str()) else {
        found.fault(resource, "spec.site", world.no_site(&workload.site).unwrap_or_default());
        return;
    };
    for (i, ip) in workload.addresses.iter().enumerate() {
        if !site.ranges.iter().any(|range| range.contains(ip)) {
            let reason = format!(
                "{ip} is in none of the ranges of site {}; others would take it for an address outside the mesh",
                workload.site
            );
            found.fault(resource, format!("spec.addresses[{i}]"), reason);
        }
    }
}

fn check_service(found: &mut Findings, resource: &Resource, service: &Service, mesh: &MeshConfig, set: &Set) {
    for ip in &service.vips {
        if !mesh.vip_ranges.iter().any(|range| range.contains(ip)) {
            let reason = format!("{ip} is in none of MeshConfig's spec.vipRanges; proxies would pass it as outside");
            found.fault(resource, cluster_ip_field(resource), reason);
        }
    }
    if service.vips.is_empty() && !service.headless && mesh.vip_ranges.is_empty() {
        found.warnings.push(format!("{}: gets no VIP, since MeshConfig has no spec.vipRanges", resource.key));
    }
    let key = &resource.key;
    if !service.selector.is_empty() && set.selected(&key.namespace, &service.selector).next().is_none() {
        let wanted: Vec<String> = service.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        found.warnings.push(format!("{key}: selects no Workload in {} ({})", key.namespace, wanted.join(",")));
    }
    for (i, port) in service.ports.iter().enumerate() {
        if let TargetPort::Name(name) = &port.target
            && !service.selector.is_empty()
        {
            let reason = format!("`{name}` is a name, but Workloads have no named ports; write the number");
            found.fault(resource, format!("spec.ports[{i}].targetPort"), reason);
        }
    }
}

fn check_endpoints(found: &mut Findings, resource: &Resource, endpoints: &Endpoints, world: &World) {
    if !world.has_service(&resource.key.namespace, &endpoints.service) {
        let known = world.services_of(&resource.key.namespace);
        let reason = format!("there is no Service `{}`{}", endpoints.service, hint(&endpoints.service, &known));
        let field = if resource.key.kind == "Endpoints" { "metadata.name" } else { "metadata.labels" };
        found.fault(resource, field, reason);
    }
}

fn check_policy(found: &mut Findings, resource: &Resource, policy: &ServicePolicy, mesh: &MeshConfig, world: &World) {
    check_floor(found, resource, "spec.", (policy.transport, policy.min_tls), &mesh.floor);
    check_services(found, resource, &policy.services, world);
    for (list, rules) in [("allow", &policy.allow), ("deny", &policy.deny)] {
        for (i, rule) in rules.iter().enumerate() {
            let at = format!("spec.{list}[{i}]");
            for (name, sites) in [("sites", &rule.asked.sites), ("notSites", &rule.not.sites)] {
                for (j, site) in sites.iter().flatten().enumerate() {
                    if let Some(reason) = world.no_site(site) {
                        found.fault(resource, format!("{at}.from.{name}[{j}]"), reason);
                    }
                }
            }
            check_rule(found, resource, &at, rule, world.trust_domain);
        }
    }
}

fn check_services(found: &mut Findings, resource: &Resource, services: &[String], world: &World) {
    let namespace = &resource.key.namespace;
    for (i, service) in services.iter().enumerate() {
        if !world.has_service(namespace, service) {
            let known = world.services_of(namespace);
            let reason = format!("there is no Service `{service}` in {namespace}{}", hint(service, &known));
            found.fault(resource, format!("spec.services[{i}]"), reason);
        }
    }
}

/// Of two policies that name the same service and set the same option, neither could win for a reason.
fn check_traffic(found: &mut Findings, resource: &Resource, policy: &TrafficPolicy, world: &World) {
    check_services(found, resource, &policy.services, world);
    super::origination::check(found, resource, policy, world.set);
    super::health::check(found, resource, policy, world.set);
    let others = world.set.of_kind("TrafficPolicy", Some(&resource.key.namespace));
    let others = others.take_while(|other| other.key.name < resource.key.name);
    for other in others {
        let Spec::TrafficPolicy(theirs) = &other.spec else { continue };
        let both = policy.services.iter().position(|service| theirs.services.contains(service));
        if both.is_none() && !(policy.services.is_empty() && theirs.services.is_empty()) {
            continue;
        }
        let field = both.map_or("spec".to_string(), |i| format!("spec.services[{i}]"));
        for option in set_by_both(policy, theirs) {
            let reason = format!("{option} is set for the same by TrafficPolicy {} as well", other.key.name);
            found.fault(resource, field.clone(), reason);
        }
    }
}

fn set_by_both(a: &TrafficPolicy, b: &TrafficPolicy) -> impl Iterator<Item = &'static str> {
    let both = [
        ("connect", a.connect.is_some() && b.connect.is_some()),
        ("sourceAddress", a.source_address.is_some() && b.source_address.is_some()),
        ("proxyProtocol", a.proxy_protocol.is_some() && b.proxy_protocol.is_some()),
        ("headerNames", a.header_names.is_some() && b.header_names.is_some()),
        ("tls", a.tls.is_some() && b.tls.is_some()),
        ("healthCheck", a.health_check.is_some() && b.health_check.is_some()),
        ("timeouts.request", a.request_timeout.is_some() && b.request_timeout.is_some()),
        ("telemetry.sampling", a.sampling_millionths.is_some() && b.sampling_millionths.is_some()),
        ("telemetry.b3", a.b3.is_some() && b.b3.is_some()),
    ];
    both.into_iter().filter_map(|(name, both)| both.then_some(name))
}

/// Reads the rule as a proxy will: what a proxy cannot read it refuses all traffic for, so it is better refused here.
fn check_rule(found: &mut Findings, resource: &Resource, at: &str, rule: &Rule, trust_domain: &TrustDomain) {
    let Err(error) = isthmus_proto::model::Conditions::try_from(compile_rule(resource, false, 0, rule, trust_domain))
    else {
        return;
    };
    let (half, field) = match error.field.strip_prefix("not_") {
        Some(field) => (&rule.not, format!("not_{field}")),
        None => (&rule.asked, error.field.clone()),
    };
    let condition = field.trim_start_matches("not_").split(['[', '.']).next().unwrap_or_default();
    let (part, field) = match condition {
        // Which account it was, its place among the identities does not say.
        "identities" if half.service_accounts.is_some() => {
            ("from", field.replacen("identities", "service_accounts", 1))
        }
        "identities" | "namespaces" | "trust_domains" | "sites" | "cidrs" => ("from", field),
        _ => ("to", field),
    };
    let field = match field.split_once('[') {
        Some((name, _)) if name.ends_with("service_accounts") => name.to_string(),
        _ => field,
    };
    found.fault(resource, format!("{at}.{part}.{}", camel_case(&field)), error.reason);
}
