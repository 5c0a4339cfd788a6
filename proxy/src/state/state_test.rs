//! Look-ups, deltas, and waiting for an answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{SpiffeId, TrustDomain};
use isthmus_proto::model::{self, Body, Delta, ModelError, Resource, ResourceKey, Target};
use tokio::time::Instant;

use super::ranges::Ranges;
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn site(name: &str, range: &str) -> Site {
    Site { name: name.parse().unwrap(), ranges: vec![range.parse().unwrap()], resolvers: vec![], seen_as: vec![] }
}

fn mesh() -> Resource {
    let mesh = model::Mesh {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        enforcement: Enforcement::Enforce,
        site: "azure-eastus".parse().unwrap(),
        sites: vec![site("azure-eastus", "10.10.0.0/16"), site("dc1", "10.20.0.0/16")],
        vip_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        dns_suffixes: vec![],
        links: vec![model::Link {
            name: "circuit".into(),
            site_a: "azure-eastus".parse().unwrap(),
            site_b: "dc1".parse().unwrap(),
        }],
        roots_der: vec![],
        telemetry: Ok(model::Telemetry::default()),
        leaf_lifetime: None,
        revocations: Default::default(),
        crypto_profile: Default::default(),
        trust_domains: Default::default(),
        upkeep: Default::default(),
    };
    Resource { key: ResourceKey::Mesh, body: Ok(Body::Mesh(Box::new(mesh))) }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        site: Some("dc1".parse().unwrap()),
        ip: ip(address),
        target_ports: BTreeMap::from([(80, 8080)]),
        workload: Some("shop/orders".parse().unwrap()),
        mesh: Some(MeshPeer {
            port: 15008,
            identities: vec![SpiffeId::parse("spiffe://shop.example/ns/shop/sa/orders").unwrap()],
        }),
    }
}

fn port(number: u16) -> (u16, model::Understood<ServicePort>) {
    let port = ServicePort {
        port: number,
        name: "http".into(),
        protocol: AppProtocol::Http,
        transport: Some(Transport::MeshOnly),
        min_tls_version: None,
        options: Default::default(),
        standing: Default::default(),
    };
    (number, Ok(port))
}

fn orders(vip: &str) -> model::Service {
    model::Service {
        name: "shop/orders".parse().unwrap(),
        hostnames: vec!["orders.shop".into()],
        vips: vec![ip(vip)],
        ports: vec![port(80), (81, Err(ModelError::new("protocol", "99")))],
        endpoints: vec![Ok(endpoint("10.20.1.10"))],
        external: None,
    }
}

fn service(service: model::Service) -> Resource {
    Resource { key: ResourceKey::Service(service.name.clone()), body: Ok(Body::Service(Box::new(service))) }
}

fn address(at: &str, target: Target) -> Resource {
    let body = model::Address { ip: ip(at), target };
    Resource { key: ResourceKey::Address(ip(at)), body: Ok(Body::Address(Box::new(body))) }
}

fn not_understood(key: ResourceKey) -> Resource {
    Resource { key, body: Err(ModelError::new("requires", "weather/v9")) }
}

fn upserts(upserts: Vec<Resource>) -> Delta {
    Delta { version: 7, upserts, removals: vec![], first_sync_complete: false }
}

fn removal(key: ResourceKey) -> Delta {
    Delta { removals: vec![key], ..upserts(vec![]) }
}

fn known() -> Mesh {
    let direct = model::Workload { endpoint: endpoint("10.20.1.10"), ports: vec![port(8080)] };
    Mesh::unknown().apply(upserts(vec![
        mesh(),
        service(orders("10.96.0.10")),
        address("10.96.0.10", Target::Service("shop/orders".parse().unwrap())),
        address("10.20.1.10", Target::Workload(direct)),
    ]))
}

fn word(destination: Destination) -> &'static str {
    match destination {
        Destination::Service { .. } => "service",
        Destination::Workload { port: Some(_), .. } => "workload",
        Destination::Workload { port: None, .. } => "workload, undeclared port",
        Destination::Outside => "outside",
        Destination::Pending => "pending",
        Destination::Absent => "absent",
        Destination::UnknownFeature => "unknown feature",
    }
}

#[test]
fn every_kind_of_destination() {
    let mesh = known();
    for (at, expected) in [
        ("10.96.0.10:80", "service"),
        ("[::ffff:10.96.0.10]:80", "service"),
        ("10.96.0.10:443", "absent"),
        ("10.96.0.10:81", "unknown feature"),
        ("10.20.1.10:8080", "workload"),
        ("10.20.1.10:22", "workload, undeclared port"),
        ("10.96.0.11:80", "pending"),
        ("10.10.9.9:80", "pending"),
        ("1.1.1.1:443", "outside"),
        ("[2001:db8::1]:443", "outside"),
    ] {
        assert_eq!(word(mesh.destination(addr(at))), expected, "{at}");
    }
}

#[test]
fn before_the_first_sync_nothing_is_outside_and_nothing_comes_in() {
    let mesh = Mesh::unknown();
    assert!(!mesh.is_ready());
    assert_eq!(word(mesh.destination(addr("1.1.1.1:443"))), "pending");
    assert_eq!(mesh.enforcement(), Enforcement::Enforce);
    let port = mesh.inbound_port(8080);
    assert_eq!(policy::check_transport(&port.policy, policy::Arrived::Mesh), Err(crate::reason::Reason::NotReady));
}

#[test]
fn what_is_not_understood_is_refused_by_its_key() {
    let name: ServiceName = "shop/orders".parse().unwrap();
    let mesh = known().apply(upserts(vec![not_understood(ResourceKey::Service(name))]));
    assert_eq!(word(mesh.destination(addr("10.96.0.10:80"))), "unknown feature");
    let mesh = known().apply(upserts(vec![not_understood(ResourceKey::Address(ip("10.20.1.10")))]));
    assert_eq!(word(mesh.destination(addr("10.20.1.10:8080"))), "unknown feature");
    let mesh = known().apply(upserts(vec![not_understood(ResourceKey::Mesh)]));
    assert_eq!(word(mesh.destination(addr("1.1.1.1:443"))), "unknown feature");
    assert_eq!(mesh.enforcement(), Enforcement::Enforce);
    let mesh = known().apply(upserts(vec![not_understood(ResourceKey::Inbound)]));
    let refused = policy::check_transport(&mesh.inbound_port(8080).policy, policy::Arrived::Mesh);
    assert_eq!(refused, Err(crate::reason::Reason::UnknownFeature));
}

#[test]
fn a_service_whose_endpoints_are_all_from_the_future_is_refused_as_such() {
    let future = || Err(ModelError::new("requires", "weather/v9"));
    let all = model::Service { endpoints: vec![future()], ..orders("10.96.0.10") };
    let some = model::Service { endpoints: vec![future(), Ok(endpoint("10.20.1.10"))], ..orders("10.96.0.10") };
    let mesh = known().apply(upserts(vec![service(all)]));
    assert_eq!(word(mesh.destination(addr("10.96.0.10:80"))), "unknown feature");
    let mesh = mesh.apply(upserts(vec![service(some)]));
    let Destination::Service { service, .. } = mesh.destination(addr("10.96.0.10:80")) else { panic!("a service") };
    assert_eq!((service.endpoints.len(), service.unusable_endpoints), (1, 1));
}

#[test]
fn removals_are_definitive_and_a_vip_that_moved_is_found_at_its_new_service() {
    let gone = known().apply(removal(ResourceKey::Address(ip("10.20.1.10"))));
    assert_eq!(word(gone.destination(addr("10.20.1.10:8080"))), "absent");
    let gone = known().apply(removal(ResourceKey::Service("shop/orders".parse().unwrap())));
    assert_eq!(word(gone.destination(addr("10.96.0.10:80"))), "absent");
    let moved = known().apply(upserts(vec![service(orders("10.96.0.77"))]));
    assert_eq!(word(moved.destination(addr("10.96.0.77:80"))), "service");
}

#[test]
fn a_delta_leaves_the_snapshot_it_was_applied_to_as_it_was() {
    let before = known();
    let _after = before.apply(removal(ResourceKey::Service("shop/orders".parse().unwrap())));
    assert_eq!(word(before.destination(addr("10.96.0.10:80"))), "service");
}

#[test]
fn sites_and_links() {
    let mesh = known();
    let (azure, dc1) = (mesh.site_of(ip("10.10.1.1")).unwrap(), mesh.site_of(ip("10.20.1.1")).unwrap());
    assert_eq!((azure.name.as_str(), dc1.name.as_str()), ("azure-eastus", "dc1"));
    assert!(mesh.site_of(ip("10.96.0.10")).is_none(), "a VIP is nowhere");
    assert_eq!(mesh.link_between(&dc1.name, &azure.name).unwrap().as_ref(), "circuit");
    assert!(mesh.link_between(&dc1.name, &dc1.name).is_none());
}

#[test]
fn the_most_specific_range_wins() {
    let mut ranges = Ranges::default();
    for (range, value) in
        [("0.0.0.0/0", 0), ("10.0.0.0/8", 8), ("10.1.0.0/16", 16), ("fd00::/8", 6), ("10.1.2.3/32", 32)]
    {
        ranges.insert(range.parse().unwrap(), value);
    }
    for (at, expected) in [
        ("9.9.9.9", Some(0)),
        ("10.9.9.9", Some(8)),
        ("10.1.9.9", Some(16)),
        ("10.1.2.3", Some(32)),
        ("fd12::1", Some(6)),
        ("fe80::1", None),
    ] {
        assert_eq!(ranges.get(ip(at)).copied(), expected, "{at}");
    }
}

#[test]
fn a_reader_has_the_newest_snapshot_and_keeps_what_it_gave() {
    let (state, _demands) = State::new();
    let reader = Reader::new(Arc::clone(&state));
    let before = reader.snapshot();
    assert!(!before.is_ready() && before.is(&reader.snapshot()));
    state.publish(known());
    let after = reader.snapshot();
    assert!(after.is_ready() && !after.is(&before) && after.is(&reader.snapshot()));
    assert!(!before.is_ready(), "a decision under way goes on with what it began with");
}

#[tokio::test(start_paused = true)]
async fn resolve_asks_once_it_is_unknown_and_returns_with_the_answer() {
    let (state, mut demands) = State::new();
    state.publish(known());
    let waiting = tokio::spawn({
        let state = Arc::clone(&state);
        async move { state.resolve(ip("10.20.1.11")).await }
    });
    assert_eq!(demands.next().await, Some(ip("10.20.1.11")));
    state.publish(known().apply(removal(ResourceKey::Address(ip("10.20.1.11")))));
    let mesh = waiting.await.unwrap();
    assert_eq!(word(mesh.destination(addr("10.20.1.11:80"))), "absent");
}

#[tokio::test(start_paused = true)]
async fn resolve_gives_up_after_two_seconds_and_does_not_wait_for_what_is_known() {
    let (state, _demands) = State::new();
    state.publish(known());
    let began = Instant::now();
    let mesh = state.resolve(ip("10.20.1.10")).await;
    assert_eq!(word(mesh.destination(addr("10.20.1.10:8080"))), "workload");
    assert_eq!(began.elapsed(), Duration::ZERO);
    let mesh = state.resolve(ip("10.20.1.11")).await;
    assert_eq!(word(mesh.destination(addr("10.20.1.11:80"))), "pending");
    assert_eq!(began.elapsed(), RESOLVE_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn the_waiting_are_bounded_and_the_rest_is_counted() {
    let (state, _demands) = State::new();
    state.publish(known());
    let each = (0..=MAX_WAITING).map(|_| state.resolve(ip("10.20.1.11")));
    futures::future::join_all(each).await;
    assert_eq!(state.unasked(), 1);
    assert_eq!(state.waiting.load(Ordering::Relaxed), 0);
}
