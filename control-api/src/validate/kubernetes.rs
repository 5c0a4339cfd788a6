//! Readers of Kubernetes' own kinds, as Kubernetes writes them: `Service`, `Endpoints`, `EndpointSlice`.
//!
//! Fields that Kubernetes knows and the mesh has no use for are read over by name; a field that nobody knows is a slip
//! and refused. What would change who is reached and is not done here (UDP) is refused in words.

use super::asked::Form;
use super::field::Field;
use super::names::{is_label, is_subdomain};
use super::node::Value;
use super::ours::address;
use super::resource::*;
use isthmus_proto::model::hint::hint_for;
use std::net::IpAddr;

const SERVICE_READ_OVER: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "externalIPs",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "publishNotReadyAddresses",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
];

pub(super) fn service(spec: &Field) -> Service {
    spec.only(&["selector", "ports", "clusterIP", "clusterIPs", "type", "externalName"], SERVICE_READ_OVER);
    let known = [("ClusterIP", false), ("NodePort", false), ("LoadBalancer", false), ("ExternalName", true)];
    let by_name = spec.get("type").and_then(|kind| kind.choice(&known)).unwrap_or(false);
    let external_name = external_name(spec, by_name);
    let mut ports: Vec<ServicePort> = Vec::new();
    // Kubernetes asks for no ports where there is only a name; the mesh carries those that are written.
    let written = if by_name { spec.get("ports") } else { spec.need("ports") };
    for item in written.map(|f| f.items()).unwrap_or_default() {
        let Some(port) = service_port(&item) else { continue };
        if ports.iter().any(|other| other.port == port.port) {
            item.fault(format!("port {} is declared twice", port.port));
        }
        ports.push(port);
    }
    let (vips, headless) = cluster_ips(spec);
    let selector = spec.get("selector").map(|f| super::labels(&f)).unwrap_or_default();
    if external_name.is_some() && !selector.is_empty() {
        spec.fault("has both `externalName` and a selector; a service is either outside or made of workloads");
    }
    Service { selector, ports, vips, headless, external_name }
}

fn external_name(spec: &Field, by_name: bool) -> Option<String> {
    if !by_name {
        if let Some(name) = spec.get("externalName") {
            name.fault("belongs to `type: ExternalName`");
        }
        return None;
    }
    let field = spec.need("externalName")?;
    let name = field.word()?.trim_end_matches('.').to_ascii_lowercase();
    if !is_subdomain(&name) || name.parse::<IpAddr>().is_ok() {
        field.fault(format!(
            "`{name}` is not a DNS name; for addresses write a Service without selector, and Endpoints"
        ));
        return None;
    }
    Some(name)
}

fn service_port(field: &Field) -> Option<ServicePort> {
    field.only(&["name", "port", "targetPort", "appProtocol", "protocol"], &["nodePort"]);
    tcp_only(field);
    let port = field.need("port")?.port()?;
    let name = field.get("name").and_then(|f| f.text()).unwrap_or_default().to_string();
    let app_protocol = field.get("appProtocol").and_then(|f| f.word());
    let target = match field.get("targetPort") {
        None => TargetPort::Number(port),
        Some(target) => match &target.node().value {
            Value::Text(name) if is_label(name) && name.len() <= 15 => {
                target.note(Form::Text);
                TargetPort::Name(name.clone())
            }
            _ => TargetPort::Number(target.port()?),
        },
    };
    let hint = hint_for(app_protocol, &name, port);
    Some(ServicePort { port, protocol: hint.protocol, connect: hint.connect, name, target })
}

fn tcp_only(field: &Field) {
    if let Some(protocol) = field.get("protocol")
        && let Some(text) = protocol.word()
        && text != "TCP"
    {
        protocol.fault(format!("`{text}` is not proxied; a mesh port is TCP"));
    }
}

/// `clusterIP` and `clusterIPs` say the same; `None` in either means headless.
fn cluster_ips(spec: &Field) -> (Vec<IpAddr>, bool) {
    let mut fields: Vec<Field> = spec.get("clusterIP").into_iter().collect();
    fields.extend(spec.get("clusterIPs").map(|f| f.items()).unwrap_or_default());
    let mut vips = Vec::new();
    let mut headless = false;
    for field in fields {
        match field.text() {
            Some("None") => headless = true,
            Some("") | None => {}
            Some(_) => match address(&field) {
                Some(ip) if !vips.contains(&ip) => vips.push(ip),
                _ => {}
            },
        }
    }
    if headless && !vips.is_empty() {
        spec.fault("has both `None` and an address as cluster IP");
    }
    (vips, headless)
}

pub(super) fn endpoints(root: &Field, name: &str) -> Endpoints {
    let mut subsets = Vec::new();
    for subset in root.get("subsets").map(|f| f.items()).unwrap_or_default() {
        subset.only(&["addresses", "ports"], &["notReadyAddresses"]);
        let mut addresses = Vec::new();
        for item in subset.get("addresses").map(|f| f.items()).unwrap_or_default() {
            item.only(&["ip"], &["hostname", "nodeName", "targetRef"]);
            addresses.extend(item.need("ip").and_then(|f| address(&f)));
        }
        subsets.push(Subset { addresses, ports: endpoint_ports(&subset) });
    }
    Endpoints { service: name.to_string(), subsets }
}

pub(super) fn endpoint_slice(root: &Field, labels: &Labels) -> Endpoints {
    if let Some(kind) = root.need("addressType")
        && kind.choice(&[("IPv4", true), ("IPv6", true), ("FQDN", false)]) == Some(false)
    {
        kind.fault("FQDN endpoints are not served; name addresses");
    }
    let service = labels.get("kubernetes.io/service-name").cloned().unwrap_or_default();
    if service.is_empty() {
        root.fault("needs the label `kubernetes.io/service-name`, which says whose endpoints these are");
    }
    let mut addresses = Vec::new();
    for endpoint in root.need("endpoints").map(|f| f.items()).unwrap_or_default() {
        endpoint.only(
            &["addresses", "conditions"],
            &["deprecatedTopology", "hints", "hostname", "nodeName", "targetRef", "zone"],
        );
        let items = endpoint.need("addresses").map(|f| f.items()).unwrap_or_default();
        let found: Vec<IpAddr> = items.iter().filter_map(address).collect();
        if is_ready(&endpoint) {
            addresses.extend(found);
        }
    }
    Endpoints { service, subsets: vec![Subset { addresses, ports: endpoint_ports(root) }] }
}

/// Kubernetes: an endpoint of which nothing is said is ready.
fn is_ready(endpoint: &Field) -> bool {
    let Some(conditions) = endpoint.get("conditions") else {
        return true;
    };
    conditions.only(&["ready"], &["serving", "terminating"]);
    conditions.get("ready").and_then(|f| f.flag()).unwrap_or(true)
}

fn endpoint_ports(parent: &Field) -> Vec<EndpointPort> {
    let mut ports = Vec::new();
    for item in parent.get("ports").map(|f| f.items()).unwrap_or_default() {
        item.only(&["name", "port", "protocol"], &["appProtocol"]);
        tcp_only(&item);
        let Some(port) = item.need("port").and_then(|f| f.port()) else {
            continue;
        };
        let name = item.get("name").and_then(|f| f.text()).unwrap_or_default().to_string();
        ports.push(EndpointPort { name, port });
    }
    ports
}
