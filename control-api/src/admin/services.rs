//! Services as their callers see them, for an operator who asks why nobody answers.

use super::Operators;
use crate::ledger::World;
use crate::operators::Caller;
use crate::push::registry::{DownBy, Found, Registry};
use crate::validate::resource::{Resource, Spec};
use isthmus_proto::admin::v1::{self as wire, EndpointView, ListServicesRequest, ListServicesResponse, ServiceView};
use isthmus_proto::discovery::v1 as discovery;
use isthmus_proto::model::ServiceName;
use std::collections::HashSet;
use std::net::IpAddr;
use tonic::Status;

pub(super) fn list(
    this: &Operators,
    caller: &Caller,
    request: &ListServicesRequest,
) -> Result<ListServicesResponse, Status> {
    let world = this.ledger.world();
    let namespace = Some(request.namespace.as_str()).filter(|name| !name.is_empty());
    let by_name = !request.name.is_empty();
    let connected = if by_name { this.registry.connected_workloads() } else { HashSet::new() };
    let mut services = Vec::new();
    for service in world.resources.of_kind("Service", namespace) {
        if (by_name && service.key.name != request.name) || !caller.sees_resource(&service.key) {
            continue;
        }
        let Some(seen) = world.index.service(&service.key) else { continue };
        let mut view = view(service, seen, &world, &this.registry);
        if by_name {
            view.each = each(service, seen, &world, &connected, &this.registry);
            health(&mut view, &this.registry, caller);
        }
        services.push(view);
    }
    if by_name && services.is_empty() {
        return Err(Status::not_found(format!("there is no Service {}/{}", request.namespace, request.name)));
    }
    Ok(ListServicesResponse { revision: world.revision, services })
}

fn view(service: &Resource, seen: &discovery::Service, world: &World, registry: &Registry) -> ServiceView {
    let name = ServiceName::new(&service.key.namespace, &service.key.name).ok();
    let users = name.map_or(0, |name| registry.users(&name));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ServiceView {
        namespace: seen.namespace.clone(),
        name: seen.name.clone(),
        vips: seen.vips.clone(),
        hostnames: seen.hostnames.clone(),
        ports: seen.ports.iter().map(|port| format!("{}/{}", port.port, port.name)).collect(),
        endpoints: count(seen.endpoints.len()),
        away: count(away(service, world).count()),
        users: count(users),
        each: Vec::new(),
    }
}

/// Workloads that it selects, and that are away.
fn away<'a>(service: &'a Resource, world: &'a World) -> impl Iterator<Item = &'a Resource> {
    let selector = match &service.spec {
        Spec::Service(spec) => Some(&spec.selector),
        _ => None,
    };
    let selected = selector.into_iter().flat_map(|selector| world.resources.selected(&service.key.namespace, selector));
    selected.map(|workload| &**workload).filter(|workload| world.resources.is_away(&workload.key))
}

fn each(
    service: &Resource,
    seen: &discovery::Service,
    world: &World,
    connected: &HashSet<String>,
    registry: &Registry,
) -> Vec<EndpointView> {
    let present = seen.endpoints.iter().map(|endpoint| EndpointView {
        site: endpoint.site.clone(),
        ip: endpoint.ip.clone(),
        workload: endpoint.workload.clone(),
        state: match endpoint.workload.as_str() {
            "" => "no-sidecar",
            workload if connected.contains(workload) => "connected",
            _ => "not-connected",
        }
        .to_string(),
        ports: endpoint.target_ports.iter().map(|(from, to)| format!("{from}→{to}")).collect(),
        health: Vec::new(),
    });
    let mut views: Vec<EndpointView> = present.collect();
    let unready = registry.unready_anywhere();
    for workload in away(service, world) {
        let Spec::Workload(spec) = &workload.spec else { continue };
        views.extend(spec.addresses.iter().map(|ip| EndpointView {
            site: spec.site.clone(),
            ip: ip.to_string(),
            workload: workload.key.qualified(),
            state: if unready.contains(&workload.key.qualified()) { "unready" } else { "away" }.to_string(),
            ports: Vec::new(),
            health: Vec::new(),
        }));
    }
    views.iter_mut().for_each(|view| view.ports.sort());
    views
}

/// What the proxies that use it find, at its endpoints without sidecar. Names are those that the caller sees; the numbers
/// are of all.
fn health(view: &mut ServiceView, registry: &Registry, caller: &Caller) {
    let Ok(name) = ServiceName::new(&view.namespace, &view.name) else { return };
    let found = registry.use_of(&name).found;
    for endpoint in view.each.iter_mut().filter(|endpoint| endpoint.workload.is_empty()) {
        let ip: Option<IpAddr> = endpoint.ip.parse().ok();
        let here = found.iter().filter(|found| Some(found.at.ip()) == ip);
        endpoint.health = here.map(|found| port_health(found, caller)).collect();
    }
}

fn port_health(found: &Found, caller: &Caller) -> wire::PortHealth {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let first_down = found.down_by.first().map(|down| down.since_unix_ms);
    let named = found.down_by.iter().filter(|down| caller.sees_workload(&down.workload));
    let down_by = |down: &DownBy| wire::DownBy {
        workload: down.workload.clone(),
        since_unix_ms: down.since_unix_ms,
        reason: down.reason.clone(),
    };
    wire::PortHealth {
        port: found.at.port().into(),
        up: count(found.up),
        down: count(found.down),
        since_unix_ms: first_down.unwrap_or(found.up_since_unix_ms),
        down_by: named.map(down_by).collect(),
    }
}
