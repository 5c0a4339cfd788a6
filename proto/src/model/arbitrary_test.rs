//! Any valid model is what it was after a way over the wire.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use isthmus_certs::{CryptoProfile, Federation, Revocations, Serial, SpiffeId, TrustBundle, TrustDomain};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::discovery::v1 as wire;
use rules::{host_pattern, rule, some};

#[path = "arbitrary_rule_test.rs"]
mod rules;

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9.-]{0,12}[a-z0-9])?"
}

fn site() -> impl Strategy<Value = SiteName> {
    name().prop_map(|n| n.parse().unwrap())
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (name(), name()).prop_map(|(ns, n)| ServiceName::new(&ns, &n).unwrap())
}

fn workload_name() -> impl Strategy<Value = WorkloadName> {
    (name(), name()).prop_map(|(ns, n)| WorkloadName::new(&ns, &n).unwrap())
}

fn ip() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>()
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), 0u8..=32).prop_map(|(ip, length)| IpNet::new(ip, length).unwrap())
}

fn port() -> impl Strategy<Value = u16> {
    1u16..
}

fn id() -> impl Strategy<Value = SpiffeId> {
    let td = TrustDomain::parse("shop.example").unwrap();
    ("[a-z][a-z0-9]{0,8}", "[a-z][a-z0-9]{0,8}").prop_map(move |(ns, sa)| SpiffeId::workload(&td, &ns, &sa).unwrap())
}

fn protocol() -> impl Strategy<Value = AppProtocol> {
    use AppProtocol::*;
    prop::sample::select(vec![Detect, Http, Http2, Tls, Tcp, ServerFirst, Postgres])
}

fn transport() -> impl Strategy<Value = Transport> {
    prop::sample::select(vec![Transport::Permissive, Transport::HttpsOnly, Transport::MeshOnly])
}

fn tls_version() -> impl Strategy<Value = TlsVersion> {
    use TlsVersion::*;
    prop::sample::select(vec![V1_0, V1_1, V1_2, V1_3])
}

fn options() -> impl Strategy<Value = TrafficOptions> {
    let timeout = option::of((1..=86_400_000_u64).prop_map(std::time::Duration::from_millis));
    let b3 = option::of(prop_oneof![Just(B3Headers::Single), Just(B3Headers::Multi)]);
    let told = (option::of(0..=MILLION), b3);
    (any::<(bool, bool, bool, bool)>(), timeout, told).prop_map(
        |((connect, source, proxy, names), request_timeout, (sampling_millionths, b3))| TrafficOptions {
            connect: if connect { Connect::Confirm } else { Connect::Early },
            source_address: if source { SourceAddress::Proxy } else { SourceAddress::Preserve },
            proxy_protocol: if proxy { ProxyProtocol::V2 } else { ProxyProtocol::None },
            header_names: if names { HeaderNames::Preserve } else { HeaderNames::TitleCase },
            request_timeout,
            sampling_millionths,
            b3,
        },
    )
}

fn service_ports() -> impl Strategy<Value = Vec<(u16, Understood<ServicePort>)>> {
    let one = (name(), protocol(), option::of(transport()), option::of(tls_version()), options());
    prop::collection::btree_map(port(), one, 0..4).prop_map(|ports| {
        let read = |(port, (name, protocol, transport, min_tls_version, options))| {
            let port_read =
                ServicePort { port, name, protocol, transport, min_tls_version, options, standing: Default::default() };
            (port, Ok(port_read))
        };
        ports.into_iter().map(read).collect()
    })
}

prop_compose! {
    fn endpoint()(
        site in option::of(site()),
        ip in ip(),
        target_ports in prop::collection::btree_map(port(), port(), 0..4),
        workload in option::of(workload_name()),
        mesh in option::of((port(), vec(id(), 1..3))),
    ) -> Endpoint {
        let mesh = mesh.map(|(port, identities)| MeshPeer { port, identities });
        Endpoint { site, ip, target_ports, workload, mesh }
    }
}

prop_compose! {
    fn service()(
        name in service_name(),
        hostnames in vec(name(), 0..3),
        vips in vec(ip(), 0..3),
        ports in service_ports(),
        endpoints in vec(endpoint().prop_map(Ok), 0..4),
        external in option::of(external()),
    ) -> Service {
        Service { name, hostnames, vips, ports, endpoints, external }
    }
}

prop_compose! {
    fn external()(
        name in option::of("[a-z]{1,5}\\.[a-z]{2,5}"),
        target_ports in prop::collection::btree_map(port(), port(), 0..3),
        tls in option::of(("[a-z]{1,5}", vec(vec(any::<u8>(), 0..4), 0..2), any::<bool>())),
        health in option::of(health()),
    ) -> External {
        let files = || ("/c.pem".to_owned(), "/k.pem".to_owned());
        let tls = tls.map(|(server_name, roots_der, client)| TlsOrigination {
            server_name,
            roots_der,
            client: client.then(files),
        });
        External { name, target_ports, tls, health }
    }
}

prop_compose! {
    fn health()(
        how in prop_oneof![
            Just(Asking::Tcp),
            "/[!-~]{0,8}".prop_map(Asking::Http),
            "[!-~]{0,8}".prop_map(Asking::Grpc),
        ],
        timeout in 1..=1_000_u64,
        longer in 0..=3_599_000_u64,
        failures in 1..=MOST_IN_A_ROW,
        successes in 1..=MOST_IN_A_ROW,
    ) -> HealthCheck {
        let ms = std::time::Duration::from_millis;
        HealthCheck { how, interval: ms(1_000 + longer), timeout: ms(timeout), failures, successes }
    }
}

prop_compose! {
    fn port_policy()(
        transport in transport(),
        min_tls_version in tls_version(),
        deny in vec(rule(), 0..3),
        allow in vec(rule(), 0..3),
        closed in any::<bool>(),
        default_from in option::of(name()),
    ) -> PortPolicy {
        let default_action = if closed { Action::Deny } else { Action::Allow };
        PortPolicy { transport, min_tls_version, deny, allow, default_action, default_from }
    }
}

prop_compose! {
    fn inbound()(
        workload in workload_name(),
        addresses in vec(ip(), 0..3),
        ports in prop::collection::btree_map(
            port(),
            (protocol(), vec(service_name(), 0..2), port_policy(), options(), standing(), vec(probe(), 0..2)),
            0..3,
        ),
        default_policy in port_policy().prop_map(Ok),
        default_standing in standing(),
        registered_of in vec((id(), site(), vec(ip(), 0..3)), 0..2),
    ) -> Inbound {
        let read = |(port, (protocol, services, policy, options, standing, probes))| {
            let https_redirect = (port % 2 == 0).then(|| format!("h.example:{port}"));
            InboundPort { port, protocol, services, policy: Ok(policy), options, standing, probes, https_redirect }
        };
        let ports = BTreeMap::into_iter(ports).map(read).collect();
        let registered = |(identity, site, addresses)| Registered { identity, site, addresses };
        let registered = registered_of.into_iter().map(registered).collect();
        Inbound { workload, addresses, ports, default_policy, default_standing, registered }
    }
}

fn probe() -> impl Strategy<Value = Probe> {
    let what = prop_oneof!["/[a-z/]{0,5}".prop_map(Probing::Path), Just(Probing::Grpc), Just(Probing::Connect)];
    (vec(net(), 0..3), what).prop_map(|(cidrs, what)| Probe { cidrs, what })
}

prop_compose! {
    fn standing()(
        enforcement in option::of(prop_oneof![Just(Enforcement::Observe), Just(Enforcement::Enforce)]),
        bypass_until_ms in option::of(1i64..),
    ) -> Standing {
        Standing { enforcement, bypass_until_ms }
    }
}

fn kept((errors, denied, slower): (bool, bool, Option<u16>)) -> KeepSpans {
    let slower_than = slower.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.into()));
    KeepSpans { errors, denied, slower_than }
}

prop_compose! {
    fn mesh()(
        enforce in any::<bool>(),
        site in site(),
        sites in vec((site(), vec(net(), 0..3), vec(ip(), 0..2), vec(net(), 0..2)), 0..3),
        vip_ranges in vec(net(), 0..3),
        dns_suffixes in vec(name(), 0..2),
        links in vec((name(), site_pair()), 0..2),
        roots_der in vec(vec(any::<u8>(), 0..8), 0..2),
        otlp in option::of(prop_oneof![
            "http://[a-z]{1,8}:4317(/v1/traces)?".prop_map(OtlpEndpoint::Http),
            "/[a-z/]{1,8}".prop_map(OtlpEndpoint::Unix),
        ]),
        (sampling_ratio, keep) in (0.0..=1.0, any::<(bool, bool, Option<u16>)>()),
        every_ms in option::of(1..u32::MAX),
        leaf in option::of(1u64..100_000),
    ) -> Mesh {
        let link = |(name, (site_a, site_b))| Link { name, site_a, site_b };
        Mesh {
            trust_domain: TrustDomain::parse("shop.example").unwrap(),
            enforcement: if enforce { Enforcement::Enforce } else { Enforcement::Observe },
            site,
            sites: sites
                .into_iter()
                .map(|(name, ranges, resolvers, seen_as)| Site { name, ranges, resolvers, seen_as })
                .collect(),
            vip_ranges,
            dns_suffixes,
            links: links.into_iter().map(link).collect(),
            roots_der,
            telemetry: Ok(Telemetry {
                otlp,
                sampling_ratio,
                keep: kept(keep),
                metrics_every: every_ms.map(|ms| Duration::from_millis(ms.into())),
            }),
            leaf_lifetime: leaf.map(Duration::from_secs),
            revocations: revoked(leaf),
            crypto_profile: if enforce { CryptoProfile::Fips } else { CryptoProfile::Default },
            trust_domains: federated(leaf),
            upkeep: Upkeep {
                issuing_root: leaf.map(|leaf| [leaf as u8; 32]),
                renew_within: Duration::from_secs(leaf.unwrap_or(0)),
                max_stream_age: Duration::from_secs(leaf.unwrap_or(7)),
            },
        }
    }
}

fn outside_transport() -> impl Strategy<Value = Transport> {
    prop::sample::select(vec![Transport::Permissive, Transport::HttpsOnly])
}

prop_compose! {
    fn egress_rule()(
        policy in name(),
        index in any::<u32>(),
        audit in any::<bool>(),
        (hosts, cidrs, ports) in (some(host_pattern()), some(net()), some(port())),
        transport in option::of(outside_transport()),
        min_tls_version in option::of(tls_version()),
    ) -> EgressRule {
        let mode = if audit { RuleMode::Audit } else { RuleMode::Enforce };
        let conditions = EgressConditions { hosts, cidrs, ports, transport, min_tls_version };
        EgressRule { policy, index, mode, conditions: Ok(conditions) }
    }
}

prop_compose! {
    fn egress_default()(
        closed in any::<bool>(),
        action_from in option::of(name()),
        transport in outside_transport(),
        min_tls_version in tls_version(),
        transport_from in option::of(name()),
    ) -> EgressDefault {
        let action = if closed { Action::Deny } else { Action::Allow };
        EgressDefault { action, action_from, transport, min_tls_version, transport_from }
    }
}

prop_compose! {
    fn egress()(
        deny in vec(egress_rule(), 0..3),
        allow in vec(egress_rule(), 0..3),
        enforced in egress_default(),
        audited in option::of(egress_default()),
    ) -> Egress {
        Egress { deny, allow, enforced, audited }
    }
}

/// Follows from another arbitrary value; what matters is that it comes back as it went.
fn revoked(seed: Option<u64>) -> Revocations {
    let Some(seed) = seed else { return Revocations::default() };
    let id = SpiffeId::parse(&format!("spiffe://shop.example/ns/shop/sa/a{seed}")).unwrap();
    let serial = Serial::from_bytes(&seed.to_be_bytes()).unwrap();
    Revocations { epoch: seed + 1, serials: [serial].into(), identities: [(id, seed)].into(), ..Revocations::default() }
}

/// The same for another trust domain: there or not; the roots of a bundle are the concern of `certs`.
fn federated(seed: Option<u64>) -> Federation {
    let name = seed.map(|seed| TrustDomain::parse(&format!("d{seed}.example")).unwrap());
    name.into_iter().map(|name| (name, TrustBundle::empty())).collect()
}

fn site_pair() -> impl Strategy<Value = (SiteName, SiteName)> {
    (site(), site())
}

fn resource() -> impl Strategy<Value = Resource> {
    let direct = (endpoint(), service_ports());
    let workload = direct.prop_map(|(endpoint, ports)| Target::Workload(Workload { endpoint, ports }));
    let target = prop_oneof![service_name().prop_map(Target::Service), workload];
    prop_oneof![
        mesh().prop_map(|m| Resource { key: ResourceKey::Mesh, body: Ok(Body::Mesh(Box::new(m))) }),
        egress().prop_map(|e| Resource { key: ResourceKey::Egress, body: Ok(Body::Egress(Box::new(e))) }),
        inbound().prop_map(|i| Resource { key: ResourceKey::Inbound, body: Ok(Body::Inbound(Box::new(i))) }),
        service()
            .prop_map(|s| Resource { key: ResourceKey::Service(s.name.clone()), body: Ok(Body::Service(Box::new(s))) }),
        (ip(), target).prop_map(|(ip, target)| Resource {
            key: ResourceKey::Address(ip),
            body: Ok(Body::Address(Box::new(Address { ip, target }))),
        }),
    ]
}

fn key() -> impl Strategy<Value = ResourceKey> {
    prop_oneof![
        Just(ResourceKey::Mesh),
        Just(ResourceKey::Egress),
        service_name().prop_map(ResourceKey::Service),
        ip().prop_map(ResourceKey::Address)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_delta_reads_back_as_it_was_written(
        version in any::<u64>(),
        upserts in vec(resource(), 0..4),
        removals in vec(key(), 0..4),
        first_sync_complete in any::<bool>(),
    ) {
        let delta = Delta { version, upserts, removals, first_sync_complete };
        let bytes = wire::Delta::from(delta.clone()).encode_to_vec();
        let (read, problems) = Delta::read(wire::Delta::decode(bytes.as_slice()).unwrap());
        prop_assert_eq!(problems, vec![]);
        prop_assert_eq!(read, delta);
    }

    /// What does not decode is tonic's to refuse; what does must not panic us.
    #[test]
    fn any_message_is_read_without_panic(bytes in vec(any::<u8>(), 0..256)) {
        if let Ok(message) = wire::Delta::decode(bytes.as_slice()) {
            let (delta, _) = Delta::read(message);
            let _ = wire::Delta::from(delta);
        }
    }
}
