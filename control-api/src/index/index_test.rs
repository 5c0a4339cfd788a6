//! Views of a small mesh, read back the way a proxy reads them.

use super::*;
use crate::validate::parse;
use isthmus_proto::model::{self, Body};
use std::collections::BTreeMap;

const MESH: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { enforcement: Enforce, vipRanges: [10.96.0.0/16, "fd00:96::/112"] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: web, labels: { app: web } }
spec: { site: dc1, addresses: [10.20.1.11], serviceAccount: web }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { selector: { app: orders }, clusterIP: 10.96.0.10, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: ledger }
spec: { clusterIP: 10.96.0.20, ports: [{ name: pg, port: 5432, appProtocol: postgres }] }
---
apiVersion: v1
kind: Endpoints
metadata: { namespace: shop, name: ledger }
subsets: [{ addresses: [{ ip: 10.20.9.9 }], ports: [{ name: pg, port: 15432 }] }]
"#;

pub(super) fn trust() -> Trust {
    Trust {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        roots_der: vec![vec![1]],
        revocations: Default::default(),
        issuing: Default::default(),
    }
}

pub(super) fn set(yaml: &str) -> Set {
    let (parsed, problems) = parse("f", yaml);
    assert_eq!(problems, []);
    parsed.into_iter().map(|p| Arc::new(p.resource)).collect()
}

fn index(more: &str) -> Index {
    let set = set(&format!("{MESH}---\n{more}"));
    assert_eq!(cross::check(&set, &trust().trust_domain).faults, []);
    Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust() })
}

fn keys(names: &[&str]) -> BTreeSet<ResourceKey> {
    let key = |name: &&str| match name.parse::<IpAddr>() {
        Ok(ip) => ResourceKey::Address(ip),
        Err(_) => ResourceKey::Service(name.parse().unwrap()),
    };
    names.iter().map(key).collect()
}

/// A view through the eyes of a proxy; nothing in it may be beyond its understanding.
fn read(index: &Index, workload: &str, subscriptions: &[&str]) -> BTreeMap<ResourceKey, Body> {
    let view = index.view(workload, &keys(subscriptions)).unwrap();
    let (upserts, removals) = diff(&View::default(), &view);
    let upserts = upserts.iter().map(|r| (**r).clone()).collect();
    let removals = removals.into_iter().map(Into::into).collect();
    let delta = wire::Delta { version: 1, upserts, removals, first_sync_complete: true, signature: None };
    let (delta, problems) = model::Delta::read(delta);
    assert_eq!(problems, []);
    delta.upserts.into_iter().map(|r| (r.key, r.body.unwrap())).collect()
}

fn inbound(index: &Index, workload: &str) -> model::Inbound {
    match read(index, workload, &[]).remove(&ResourceKey::Inbound) {
        Some(Body::Inbound(inbound)) => *inbound,
        other => panic!("{other:?}"),
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: {name} }}\nspec: {{ {spec} }}\n"
    )
}

#[test]
fn without_asking_a_proxy_gets_the_mesh_and_its_own_inbound_only() {
    let view = read(&index(""), "shop/orders", &[]);
    assert_eq!(
        view.keys().cloned().collect::<Vec<_>>(),
        [ResourceKey::Mesh, ResourceKey::Inbound, ResourceKey::Egress]
    );
    let Body::Mesh(mesh) = &view[&ResourceKey::Mesh] else { panic!() };
    assert_eq!((mesh.site.as_str(), mesh.sites.len(), mesh.vip_ranges.len()), ("dc1", 1, 2));
}

#[test]
fn an_address_brings_its_service_along() {
    let view = read(&index(""), "shop/web", &["10.96.0.10"]);
    let Some(Body::Service(service)) = view.get(&keys(&["shop/orders"]).pop_first().unwrap()) else { panic!() };
    assert_eq!(service.hostnames, ["orders.shop.svc.cluster.local", "orders.shop.svc", "orders.shop"]);
    let endpoint = service.endpoints[0].as_ref().unwrap();
    assert_eq!(endpoint.target_ports, BTreeMap::from([(80, 8080)]));
    let mesh = endpoint.mesh.as_ref().unwrap();
    assert_eq!(mesh.identities[0].as_str(), "spiffe://shop.example/ns/shop/sa/orders");
}

#[test]
fn what_does_not_exist_is_answered_as_absent() {
    let view = index("").view("shop/web", &keys(&["10.20.77.77", "shop/nothing"])).unwrap();
    let (_, removals) = diff(&View::default(), &view);
    assert_eq!(removals.into_iter().collect::<BTreeSet<_>>(), keys(&["10.20.77.77", "shop/nothing"]));
}

#[test]
fn hand_written_endpoints_have_no_sidecar_and_their_own_port() {
    let view = read(&index(""), "shop/web", &["shop/ledger", "10.20.9.9"]);
    let Some(Body::Service(service)) = view.values().find(|b| matches!(b, Body::Service(_))) else { panic!() };
    let endpoint = service.endpoints[0].as_ref().unwrap();
    assert_eq!((endpoint.mesh.is_none(), endpoint.target_ports[&5432]), (true, 15432));
    assert_eq!(endpoint.site.as_ref().unwrap().as_str(), "dc1");
    let Some(Body::Address(address)) = view.values().find(|b| matches!(b, Body::Address(_))) else { panic!() };
    let model::Target::Workload(workload) = &address.target else { panic!() };
    assert_eq!(workload.ports[0].0, 15432);
}

#[test]
fn an_allow_rule_closes_what_it_selects_and_nothing_else() {
    let index =
        index(&policy("p", "services: [orders], transport: HttpsOnly, allow: [{ from: { serviceAccounts: [web] } }]"));
    let inbound = inbound(&index, "shop/orders");
    assert_eq!((inbound.ports.len(), inbound.ports[0].port), (1, 8080));
    let port = inbound.ports[0].policy.as_ref().unwrap();
    assert_eq!((port.transport, port.default_action), (model::Transport::HttpsOnly, model::Action::Deny));
    assert_eq!(port.default_from.as_deref(), Some("shop/p"));
    let conditions = port.allow[0].conditions.as_ref().unwrap();
    let identities: Vec<String> = conditions.identities.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(identities, ["spiffe://shop.example/ns/shop/sa/web"]);
    let other = inbound.default_policy.as_ref().unwrap();
    assert_eq!((other.transport, other.default_action), (model::Transport::MeshOnly, model::Action::Allow));
}

#[test]
fn of_several_policies_the_strictest_holds_and_the_most_specific_names_the_default() {
    let more = [
        policy("all", "transport: Permissive, minTlsVersion: '1.3', allow: [{}]"),
        policy("labels", "workloads: { matchLabels: { app: orders } }, transport: MeshOnly"),
        policy("service", "services: [orders], transport: HttpsOnly, minTlsVersion: '1.2', allow: [{}]"),
    ];
    let inbound = inbound(&index(&more.join("---\n")), "shop/orders");
    let port = inbound.ports[0].policy.as_ref().unwrap();
    assert_eq!((port.transport, port.min_tls_version), (model::Transport::MeshOnly, model::TlsVersion::V1_3));
    assert_eq!((port.allow.len(), port.default_from.as_deref()), (2, Some("shop/service")));
    assert_eq!(inbound.default_policy.unwrap().default_from.as_deref(), Some("shop/all"));
}

#[test]
fn an_audit_policy_reports_and_changes_nothing() {
    let before = inbound(&index(""), "shop/orders").ports[0].policy.clone().unwrap();
    let index = index(&policy(
        "p",
        "mode: Audit, transport: Permissive, allow: [{ from: { serviceAccounts: [web] } }], deny: [{}]",
    ));
    let port = inbound(&index, "shop/orders").ports[0].policy.clone().unwrap();
    assert_eq!((port.transport, port.default_action), (before.transport, before.default_action));
    assert!(port.allow.iter().chain(&port.deny).all(|rule| rule.mode == model::RuleMode::Audit));
}

#[test]
fn a_policy_concerns_the_selected_workload_and_nobody_else() {
    let before = set(MESH);
    let (vips, trust) = (Vips::default(), trust());
    let old = Index::build(Wanted { set: &before, vips: &vips, trust: &trust });
    let policy = policy("p", "services: [orders], allow: [{ from: { serviceAccounts: [web] } }]");
    let after = set(&format!("{MESH}---\n{policy}"));
    let keys_put = [ResourceRef::new("ServicePolicy", "shop", "p")];
    let difference = Difference { before: &before, keys: &keys_put, vips: &vips, given: &Given::new(), trust: false };
    let (_, changed) = old.apply(Wanted { set: &after, vips: &vips, trust: &trust }, difference);
    assert_eq!(changed, Changed { inbound: ["shop/orders".to_string()].into(), ..Changed::default() });
    let used: View = keys(&["10.96.0.10", "shop/orders"]).into_iter().map(|key| (key, None)).collect();
    assert!(changed.concerns("shop/orders", &View::default()));
    assert!(!changed.concerns("shop/web", &used));
}

#[test]
fn vips_are_given_once_and_stay() {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: {name} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
        )
    };
    let ranges: Vec<ipnet::IpNet> = vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
    let key = |name: &str| ResourceRef::new("Service", "shop", name);
    let one = set(&format!("{MESH}---\n{}", service("a")));
    let allocation = allocate(&one, &ranges, &Vips::default(), &[key("a")]);
    assert_eq!((allocation.given.len(), &allocation.full), (1, &Vec::new()));
    let a = allocation.given[&key("a")].clone();
    assert!(a.iter().all(|ip| ranges.iter().any(|range| range.contains(ip))) && a.len() == 2);
    let mut vips = Vips::default();
    vips.settle(&allocation);
    let two = set(&format!("{MESH}---\n{}---\n{}", service("a"), service("b")));
    let mesh = ResourceRef::new("MeshConfig", "", "mesh");
    let allocation = allocate(&two, &ranges, &vips, &[mesh, key("b")]);
    assert_eq!(allocation.given.keys().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["b"], "a keeps what it has");
    let allocation = allocate(&set(MESH), &ranges, &vips, &[key("a")]);
    assert_eq!(allocation.given, Given::from([(key("a"), Vec::new())]), "given back when the service goes");
    let by_number = service("c").replace("spec: {", &format!("spec: {{ clusterIP: {},", a[0]));
    let taken = set(&format!("{MESH}---\n{}---\n{by_number}", service("a")));
    let allocation = allocate(&taken, &ranges, &vips, &[key("c")]);
    assert!(!allocation.given[&key("a")].contains(&a[0]), "who asks by number gets it, who was given it another one");
}

#[test]
fn who_got_no_vip_is_served_when_one_is_free() {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: {name} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
        )
    };
    // Two addresses that are neither the network nor its broadcast.
    let tiny: Vec<ipnet::IpNet> = vec!["10.96.1.0/30".parse().unwrap()];
    let key = |name: &str| ResourceRef::new("Service", "shop", name);
    let three = set(&format!("{MESH}---\n{}---\n{}---\n{}", service("a"), service("b"), service("c")));
    let allocation = allocate(&three, &tiny, &Vips::default(), &["a", "b", "c"].map(key));
    assert_eq!((allocation.given.len(), allocation.full.len()), (2, 1));
    let mut vips = Vips::default();
    vips.settle(&allocation);
    let two = set(&format!("{MESH}---\n{}---\n{}", service("b"), service("c")));
    vips.settle(&allocate(&two, &tiny, &vips, &[key("a")]));
    let allocation = allocate(&two, &tiny, &vips, &[]);
    assert!(!allocation.given[&key("c")].is_empty());
}

#[test]
fn a_traffic_policy_reaches_callers_and_callee_and_the_named_service_wins_over_its_namespace() {
    let traffic = |name: &str, spec: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ namespace: shop, name: {name} }}\nspec: {{ {spec} }}\n"
        )
    };
    let more = format!(
        "{}---\n{}",
        traffic(
            "all",
            "connect: confirm, headerNames: Preserve, timeouts: { request: 90s }, telemetry: { sampling: 0.25 }"
        ),
        traffic("orders", "services: [orders], connect: early, proxyProtocol: v2, telemetry: { b3: single }")
    );
    let index = index(&more);
    let options =
        |view: &BTreeMap<ResourceKey, Body>, service: &str| match &view[&keys(&[service]).pop_first().unwrap()] {
            Body::Service(service) => service.ports[0].1.clone().unwrap(),
            other => panic!("{other:?}"),
        };
    let view = read(&index, "shop/web", &["shop/orders", "shop/ledger"]);
    let (orders, ledger) = (options(&view, "shop/orders"), options(&view, "shop/ledger"));
    let expected = model::TrafficOptions {
        connect: model::Connect::Early,
        proxy_protocol: model::ProxyProtocol::V2,
        header_names: model::HeaderNames::Preserve,
        request_timeout: Some(std::time::Duration::from_secs(90)),
        sampling_millionths: Some(250_000),
        b3: Some(model::B3Headers::Single),
        ..Default::default()
    };
    assert_eq!((orders.options, orders.protocol), (expected, model::AppProtocol::Tcp), "a PROXY header is for bytes");
    assert_eq!(ledger.options.connect, model::Connect::Confirm);
    assert_eq!(inbound(&index, "shop/orders").ports[0].options, expected);
    let wire = index.view("shop/orders", &BTreeSet::new()).unwrap().get(&ResourceKey::Inbound).cloned().unwrap();
    let Some(wire::resource::Body::Inbound(wire)) = &wire.body else { panic!() };
    assert!(wire.ports[0].policy.as_ref().unwrap().requires.contains(&"proxy-protocol/v2".to_string()));
}

#[test]
fn without_a_policy_the_protocol_says_how_to_connect() {
    let view = read(&index(""), "shop/web", &["shop/ledger"]);
    let Body::Service(ledger) = &view[&keys(&["shop/ledger"]).pop_first().unwrap()] else { panic!() };
    assert_eq!(ledger.ports[0].1.as_ref().unwrap().options.connect, model::Connect::Confirm);
}
