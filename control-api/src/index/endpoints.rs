//! Who is behind a service: Workloads that its labels select, and addresses written by hand.

use super::egress;
use super::policy::Policies;
use super::tenants::Tenancy;
use super::traffic::Traffic;
use super::{Trust, identity_of};
use crate::validate::ResourceRef;
use crate::validate::resource::{
    AppProtocol, MeshConfig, Resource, Service, Site, Spec, Subset, TargetPort, TlsVersion, Transport, Workload,
};
use crate::validate::set::Set;
use isthmus_certs::SpiffeId;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::TrafficOptions;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// The port on which every sidecar listens for its peers.
const MESH_PORT: u32 = 15008;

/// A port of a workload, as one service declares it.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    /// The service's name, in the workload's namespace.
    pub(super) service: String,
    pub(super) target: u16,
    pub(super) protocol: AppProtocol,
    pub(super) options: TrafficOptions,
}

/// One endpoint, with the workload whose sidecar is in front of it.
struct Behind<'a> {
    endpoint: wire::Endpoint,
    workload: Option<&'a Resource>,
}

/// What decides how services and workloads are seen.
pub(super) struct Seen<'a> {
    pub(super) set: &'a Set,
    pub(super) trust: &'a Trust,
    pub(super) mesh: &'a MeshConfig,
    pub(super) policies: Policies<'a>,
    pub(super) egress: egress::Policies<'a>,
    pub(super) sites: Vec<(&'a str, &'a Site)>,
    pub(super) tenancy: Tenancy,
    pub(super) registered: OnceCell<Vec<wire::Registered>>,
}

impl<'a> Seen<'a> {
    pub(super) fn of(set: &'a Set, trust: &'a Trust, mesh: &'a MeshConfig) -> Self {
        let site = |resource: &'a std::sync::Arc<Resource>| match &resource.spec {
            Spec::Site(site) => Some((resource.key.name.as_str(), site)),
            _ => None,
        };
        let sites = set.of_kind("Site", None).filter_map(site).collect();
        let (policies, egress) = (Policies::of(set, mesh, trust), egress::Policies::of(set, mesh));
        let (tenancy, registered) = (Tenancy::of(set), OnceCell::new());
        Seen { set, trust, mesh, policies, egress, sites, tenancy, registered }
    }

    /// What is at a hand-written address: a workload's own address keeps its sidecar, any other has none.
    fn at(&self, ip: IpAddr, target_ports: BTreeMap<u32, u32>) -> Behind<'a> {
        if let Some((resource, workload, identity)) = self.workload_at(ip) {
            let endpoint = with_sidecar(resource, workload, ip, &identity, target_ports);
            return Behind { endpoint, workload: Some(resource) };
        }
        let site = self.sites.iter().find(|(_, site)| site.ranges.iter().any(|range| range.contains(&ip)));
        let endpoint = wire::Endpoint {
            site: site.map(|(name, _)| name.to_string()).unwrap_or_default(),
            ip: ip.to_string(),
            target_ports,
            ..wire::Endpoint::default()
        };
        Behind { endpoint, workload: None }
    }

    /// The workload whose own address this is.
    pub(super) fn workload_at(&self, ip: IpAddr) -> Option<(&'a Resource, &'a Workload, SpiffeId)> {
        let found = self.set.claimants(ip).find_map(|resource| match &resource.spec {
            Spec::Workload(workload) => Some((&**resource, workload)),
            _ => None,
        });
        let (resource, workload) = found?;
        Some((resource, workload, identity_of(resource, workload, self.trust).ok()?))
    }
}

/// What services declare of a workload's ports, in the order of their names.
pub(super) fn declared(workload: &Resource, seen: &Seen) -> Vec<Declared> {
    let namespace = &workload.key.namespace;
    let mut all = Vec::new();
    for service in seen.set.selecting(namespace, &workload.labels).iter() {
        let Spec::Service(spec) = &service.spec else { continue };
        let traffic = Traffic::of(seen.set, namespace, &service.key.name);
        for port in &spec.ports {
            let TargetPort::Number(target) = port.target else { continue };
            let (protocol, options) = traffic.carried(port);
            all.push(Declared { service: service.key.name.clone(), target, protocol, options });
        }
    }
    all
}

/// All endpoints of a service that are there: selected ones, then hand-written ones; an address that is written twice is
/// one endpoint.
fn behind<'a>(resource: &Resource, service: &Service, seen: &Seen<'a>) -> Vec<Behind<'a>> {
    let mut all = selected(resource, service, seen);
    let mut places: HashMap<String, usize> = HashMap::new();
    for (i, behind) in all.iter().enumerate() {
        places.entry(behind.endpoint.ip.clone()).or_insert(i);
    }
    for written in seen.set.referrers(&resource.key) {
        let Spec::Endpoints(written) = &written.spec else { continue };
        for subset in &written.subsets {
            let target_ports = written_ports(service, subset);
            for ip in &subset.addresses {
                let behind = seen.at(*ip, target_ports.clone());
                // Writing down another tenant's address does not make a way to it.
                let foreign = |w: &Resource| !seen.tenancy.sees(&resource.key.namespace, &w.key.namespace);
                if behind.workload.is_some_and(|workload| seen.set.is_away(&workload.key) || foreign(workload)) {
                    continue;
                }
                let place = *places.entry(behind.endpoint.ip.clone()).or_insert(all.len());
                match all.get_mut(place) {
                    Some(known) => known.endpoint.target_ports.extend(behind.endpoint.target_ports),
                    None => all.push(behind),
                }
            }
        }
    }
    all
}

fn selected<'a>(resource: &Resource, service: &Service, seen: &Seen<'a>) -> Vec<Behind<'a>> {
    let number = |port: &crate::validate::resource::ServicePort| match port.target {
        TargetPort::Number(target) => Some((u32::from(port.port), u32::from(target))),
        TargetPort::Name(_) => None,
    };
    let target_ports: BTreeMap<u32, u32> = service.ports.iter().filter_map(number).collect();
    let mut all = Vec::new();
    for workload in seen.set.selected(&resource.key.namespace, &service.selector) {
        if seen.set.is_away(&workload.key) {
            continue;
        }
        let Spec::Workload(spec) = &workload.spec else { continue };
        let Ok(identity) = identity_of(workload, spec, seen.trust) else { continue };
        for ip in &spec.addresses {
            let endpoint = with_sidecar(workload, spec, *ip, &identity, target_ports.clone());
            all.push(Behind { endpoint, workload: Some(workload) });
        }
    }
    all
}

/// A hand-written address that is no workload's, with its ports by the app's port; none if nobody wrote it.
pub(super) fn external(ip: IpAddr, seen: &Seen) -> Option<wire::Workload> {
    let mut found: Option<wire::Workload> = None;
    for resource in seen.set.written_at(ip) {
        let Spec::Endpoints(written) = &resource.spec else { continue };
        let key = ResourceRef::new("Service", &resource.key.namespace, &written.service);
        let Some(Spec::Service(service)) = seen.set.get(&key).map(|service| &service.spec) else { continue };
        let traffic = Traffic::of(seen.set, &key.namespace, &key.name);
        for subset in written.subsets.iter().filter(|subset| subset.addresses.contains(&ip)) {
            let endpoint = found.get_or_insert_with(|| {
                let endpoint = Some(seen.at(ip, BTreeMap::new()).endpoint);
                wire::Workload { endpoint, ports: Vec::new() }
            });
            add_ports(endpoint, service, &written_ports(service, subset), &traffic);
        }
    }
    found
}

fn add_ports(entry: &mut wire::Workload, service: &Service, target_ports: &BTreeMap<u32, u32>, traffic: &Traffic) {
    for port in &service.ports {
        let Some(target) = target_ports.get(&u32::from(port.port)) else {
            continue;
        };
        if !entry.ports.iter().any(|known| known.port == *target) {
            let (protocol, options) = traffic.carried(port);
            entry.ports.push(wire::ServicePort {
                port: *target,
                name: port.name.clone(),
                protocol: wire::AppProtocol::from(protocol).into(),
                options: options.write(),
                ..Default::default()
            });
        }
    }
}

fn with_sidecar(
    resource: &Resource,
    workload: &Workload,
    ip: IpAddr,
    identity: &SpiffeId,
    target_ports: BTreeMap<u32, u32>,
) -> wire::Endpoint {
    wire::Endpoint {
        site: workload.site.clone(),
        ip: ip.to_string(),
        target_ports,
        workload: resource.key.qualified(),
        identities: vec![identity.to_string()],
        mesh_port: MESH_PORT,
        requires: Vec::new(),
    }
}

/// As Kubernetes joins them: by the port's name, or without names if there is but one on each side.
fn written_ports(service: &Service, subset: &Subset) -> BTreeMap<u32, u32> {
    let single = service.ports.len() == 1 && subset.ports.len() == 1;
    let mut ports = BTreeMap::new();
    for port in &service.ports {
        let found = subset.ports.iter().find(|written| written.name == port.name || single);
        if let Some(written) = found {
            ports.insert(u32::from(port.port), u32::from(written.port));
        }
    }
    ports
}

/// A workload that is addressed by its own address.
pub(super) fn direct(
    resource: &Resource,
    workload: &Workload,
    ip: IpAddr,
    identity: &SpiffeId,
    ports: &[wire::InboundPort],
) -> wire::Workload {
    let port = |port: &wire::InboundPort| wire::ServicePort {
        port: port.port,
        name: String::new(),
        protocol: port.protocol,
        transport: port.policy.as_ref().map_or(0, |policy| policy.transport),
        min_tls_version: port.policy.as_ref().map_or(0, |policy| policy.min_tls_version),
        options: port.options,
        standing: port.standing,
    };
    wire::Workload {
        endpoint: Some(with_sidecar(resource, workload, ip, identity, BTreeMap::new())),
        ports: ports.iter().map(port).collect(),
    }
}

/// A service as its callers see it.
pub(super) fn service(resource: &Resource, service: &Service, vips: &[IpAddr], seen: &Seen) -> wire::Service {
    let name = &resource.key.name;
    let namespace = &resource.key.namespace;
    let hostnames = hostnames(namespace, name, seen.mesh);
    let behind = behind(resource, service, seen);
    let (transport, min_tls) = least(resource, &behind, &seen.policies);
    let traffic = Traffic::of(seen.set, namespace, name);
    let port = |port: &crate::validate::resource::ServicePort| {
        let (protocol, options) = traffic.carried(port);
        wire::ServicePort {
            port: port.port.into(),
            name: port.name.clone(),
            protocol: wire::AppProtocol::from(protocol).into(),
            transport: wire::Transport::from(transport).into(),
            min_tls_version: wire::TlsVersion::from(min_tls).into(),
            options: options.write(),
            standing: seen.policies.standing(namespace, &[name]),
        }
    };
    wire::Service {
        namespace: namespace.clone(),
        name: name.clone(),
        hostnames,
        vips: vips.iter().map(IpAddr::to_string).collect(),
        ports: service.ports.iter().map(port).collect(),
        endpoints: behind.into_iter().map(|behind| behind.endpoint).collect(),
        external: outside(service, &traffic),
    }
}

/// What a proxy has to understand of a service that has an [`External`](wire::External).
pub(super) const EXTERNAL: &str = "external/v1";

fn outside(service: &Service, traffic: &Traffic) -> Option<wire::External> {
    let (name, tls, health) = (service.external_name.as_ref(), traffic.tls(), traffic.health_check());
    if name.is_none() && tls.is_none() && health.is_none() {
        return None;
    }
    let target = |port: &crate::validate::resource::ServicePort| match port.target {
        TargetPort::Number(target) => Some((u32::from(port.port), u32::from(target))),
        TargetPort::Name(_) => None,
    };
    let tls = tls.and_then(|tls| {
        let (client_certificate, client_key) = tls.client.clone().unwrap_or_default();
        Some(wire::TlsOrigination {
            server_name: tls.server_name.as_ref().or(name)?.clone(),
            roots_der: tls.roots_der.clone(),
            client_certificate,
            client_key,
        })
    });
    Some(wire::External {
        name: name.cloned().unwrap_or_default(),
        target_ports: service.ports.iter().filter_map(target).collect(),
        tls,
        health_check: health.cloned().map(Into::into),
    })
}

/// The names by which a service is called.
pub(super) fn hostnames(namespace: &str, name: &str, mesh: &MeshConfig) -> Vec<String> {
    let with = |suffix: &String| format!("{name}.{namespace}.{suffix}");
    let mut hostnames: Vec<String> = mesh.dns_suffixes.iter().map(with).collect();
    hostnames.extend([format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")]);
    hostnames
}

/// What every endpoint of the service demands at least: the sender refuses by this, the callee by its own.
fn least(resource: &Resource, behind: &[Behind], policies: &Policies) -> (Transport, TlsVersion) {
    let of_service = [resource.key.name.as_str()];
    let theirs = behind.iter().filter_map(|behind| behind.workload);
    let theirs = theirs.map(|workload| {
        // A hand-written address may be a workload's of another namespace, whose policies do not mean this service.
        let is_near = workload.key.namespace == resource.key.namespace;
        policies.transport_for_port(workload, if is_near { &of_service } else { &[] })
    });
    let least = theirs.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)));
    least.unwrap_or_else(|| policies.for_service(&resource.key.namespace, &resource.key.name))
}
