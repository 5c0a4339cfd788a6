//! Who is behind a service: Workloads that its labels select, and addresses written by hand.

use super::policy::Policies;
use super::traffic::Traffic;
use super::{Trust, identity_of};
use crate::validate::ResourceRef;
use crate::validate::cross::Set;
use crate::validate::resource::{
    AppProtocol, Endpoints as Written, MeshConfig, Resource, Service, Site, Spec, Subset, TargetPort, TlsVersion,
    Transport, Workload, selects,
};
use isthmus_certs::SpiffeId;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::TrafficOptions;
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

/// Who is behind what, for a whole set.
pub(super) struct Endpoints<'a> {
    of_service: HashMap<&'a ResourceRef, Vec<Behind<'a>>>,
    declared: HashMap<&'a ResourceRef, Vec<Declared>>,
    /// Hand-written addresses that are no workload's, with their ports by the app's port.
    external: BTreeMap<IpAddr, wire::Workload>,
}

/// One endpoint, with the workload whose sidecar is in front of it.
pub(super) struct Behind<'a> {
    pub(super) endpoint: wire::Endpoint,
    pub(super) workload: Option<&'a Resource>,
}

struct World<'a> {
    trust: &'a Trust,
    traffic: &'a Traffic<'a>,
    /// Workloads by (namespace, label, value).
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Resource>>,
    by_address: HashMap<IpAddr, (&'a Resource, &'a Workload)>,
    sites: Vec<(&'a str, &'a Site)>,
}

impl<'a> Endpoints<'a> {
    pub(super) fn of(set: &'a Set, trust: &'a Trust, traffic: &'a Traffic<'a>) -> Self {
        let world = World::of(set, trust, traffic);
        let mut all = Endpoints { of_service: HashMap::new(), declared: HashMap::new(), external: BTreeMap::new() };
        for resource in set.values() {
            if let Spec::Service(service) = &resource.spec {
                all.select(resource, service, &world);
            }
        }
        for resource in set.values() {
            if let Spec::Endpoints(written) = &resource.spec {
                let key = ResourceRef::new("Service", &resource.key.namespace, &written.service);
                if let Some((key, service)) = set.get_key_value(&key) {
                    all.write(key, service, written, &world);
                }
            }
        }
        all
    }

    fn select(&mut self, resource: &'a Resource, service: &'a Service, world: &World<'a>) {
        for workload in world.selected(&resource.key.namespace, service) {
            let Spec::Workload(spec) = &workload.spec else { continue };
            let Ok(identity) = identity_of(workload, spec, world.trust) else {
                continue;
            };
            let mut target_ports = BTreeMap::new();
            for port in &service.ports {
                let TargetPort::Number(target) = port.target else {
                    continue;
                };
                target_ports.insert(u32::from(port.port), u32::from(target));
                let (protocol, options) = world.traffic.carried(&resource.key.namespace, &resource.key.name, port);
                let declared = Declared { service: resource.key.name.clone(), target, protocol, options };
                self.declared.entry(&workload.key).or_default().push(declared);
            }
            for ip in &spec.addresses {
                let endpoint = with_sidecar(workload, spec, *ip, &identity, target_ports.clone());
                let behind = Behind { endpoint, workload: Some(workload) };
                self.of_service.entry(&resource.key).or_default().push(behind);
            }
        }
    }

    fn write(&mut self, key: &'a ResourceRef, service: &'a Resource, written: &'a Written, world: &World<'a>) {
        let Spec::Service(spec) = &service.spec else { return };
        for subset in &written.subsets {
            let target_ports = written_ports(spec, subset);
            for ip in &subset.addresses {
                let (behind, is_external) = world.at(*ip, target_ports.clone());
                if is_external {
                    self.add_external(*ip, (key, spec), &behind.endpoint, world.traffic);
                }
                let list = self.of_service.entry(key).or_default();
                match list.iter_mut().find(|known| known.endpoint.ip == behind.endpoint.ip) {
                    Some(known) => known.endpoint.target_ports.extend(behind.endpoint.target_ports),
                    None => list.push(behind),
                }
            }
        }
    }

    fn add_external(
        &mut self,
        ip: IpAddr,
        (key, service): (&ResourceRef, &Service),
        endpoint: &wire::Endpoint,
        traffic: &Traffic,
    ) {
        let entry = self.external.entry(ip).or_insert_with(|| wire::Workload {
            endpoint: Some(wire::Endpoint { target_ports: BTreeMap::new(), ..endpoint.clone() }),
            ports: Vec::new(),
        });
        for port in &service.ports {
            let Some(target) = endpoint.target_ports.get(&u32::from(port.port)) else {
                continue;
            };
            if !entry.ports.iter().any(|known| known.port == *target) {
                let (protocol, options) = traffic.carried(&key.namespace, &key.name, port);
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

    pub(super) fn of_service(&self, service: &ResourceRef) -> &[Behind<'a>] {
        self.of_service.get(service).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn declared(&self, workload: &ResourceRef) -> &[Declared] {
        self.declared.get(workload).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn external(&self) -> impl Iterator<Item = (IpAddr, wire::Workload)> {
        self.external.iter().map(|(ip, workload)| (*ip, workload.clone()))
    }
}

impl<'a> World<'a> {
    fn of(set: &'a Set, trust: &'a Trust, traffic: &'a Traffic<'a>) -> Self {
        let mut world =
            World { trust, traffic, by_label: HashMap::new(), by_address: HashMap::new(), sites: Vec::new() };
        for resource in set.values() {
            let namespace = resource.key.namespace.as_str();
            match &resource.spec {
                Spec::Workload(workload) => {
                    for (name, value) in &resource.labels {
                        world.by_label.entry((namespace, name, value)).or_default().push(resource);
                    }
                    world.by_address.extend(workload.addresses.iter().map(|ip| (*ip, (&**resource, workload))));
                }
                Spec::Site(site) => world.sites.push((&resource.key.name, site)),
                _ => {}
            }
        }
        world
    }

    /// Workloads of the namespace with all labels of the selector, found by its rarest one.
    fn selected(&self, namespace: &str, service: &Service) -> Vec<&'a Resource> {
        let lists = service.selector.iter().map(|(name, value)| self.by_label.get(&(namespace, name, value)));
        let Some(shortest) = lists.min_by_key(|list| list.map_or(0, Vec::len)).flatten() else {
            return Vec::new();
        };
        shortest.iter().copied().filter(|workload| selects(&service.selector, &workload.labels)).collect()
    }

    /// What is at a hand-written address: a workload's own address keeps its sidecar, any other has none.
    fn at(&self, ip: IpAddr, target_ports: BTreeMap<u32, u32>) -> (Behind<'a>, bool) {
        if let Some((resource, workload)) = self.by_address.get(&ip)
            && let Ok(identity) = identity_of(resource, workload, self.trust)
        {
            let endpoint = with_sidecar(resource, workload, ip, &identity, target_ports);
            return (Behind { endpoint, workload: Some(resource) }, false);
        }
        let site = self.sites.iter().find(|(_, site)| site.ranges.iter().any(|range| range.contains(&ip)));
        let endpoint = wire::Endpoint {
            site: site.map(|(name, _)| name.to_string()).unwrap_or_default(),
            ip: ip.to_string(),
            target_ports,
            ..wire::Endpoint::default()
        };
        (Behind { endpoint, workload: None }, true)
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

/// What decides how a service is seen.
pub(super) struct Seen<'a> {
    pub(super) policies: &'a Policies<'a>,
    pub(super) traffic: &'a Traffic<'a>,
    pub(super) mesh: &'a MeshConfig,
}

/// A service as its callers see it.
pub(super) fn service(
    resource: &Resource,
    service: &Service,
    vips: &[IpAddr],
    behind: &[Behind],
    seen: &Seen,
) -> wire::Service {
    let name = &resource.key.name;
    let namespace = &resource.key.namespace;
    let mut hostnames: Vec<String> =
        seen.mesh.dns_suffixes.iter().map(|suffix| format!("{name}.{namespace}.{suffix}")).collect();
    hostnames.extend([format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")]);
    let (transport, min_tls) = least(resource, behind, seen.policies);
    let port = |port: &crate::validate::resource::ServicePort| {
        let (protocol, options) = seen.traffic.carried(namespace, name, port);
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
        endpoints: behind.iter().map(|behind| behind.endpoint.clone()).collect(),
    }
}

/// What every endpoint of the service demands at least: the sender refuses by this, the callee by its own.
fn least(resource: &Resource, behind: &[Behind], policies: &Policies) -> (Transport, TlsVersion) {
    let base = policies.for_service(&resource.key.namespace, &resource.key.name);
    let of_service = [resource.key.name.as_str()];
    let theirs = behind.iter().filter_map(|behind| behind.workload);
    let theirs = theirs.map(|workload| policies.transport_for_port(workload, &of_service));
    theirs.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1))).unwrap_or(base)
}
