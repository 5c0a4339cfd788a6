//! What is counted. Everything is prepared before the first call, as it is in the proxy.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::mesh;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use isthmus_certs::{SpiffeId, TrustDomain};
use isthmus_proto::model::{
    self, Action, Address, AppProtocol, Body, Conditions, Delta, Endpoint, Enforcement, IdentityPattern, MeshPeer,
    PathPattern, PortPolicy, Resource, ResourceKey, Rule, RuleMode, ServiceName, ServicePort, Site, Target, TlsVersion,
    Transport,
};
use isthmus_proxy::detect::{classify, client_hello};
use isthmus_proxy::flows::{FlowTable, Observed, Verdict, Way};
use isthmus_proxy::http::headers::sanitize;
use isthmus_proxy::state::Mesh;
use isthmus_proxy::state::policy::{Arrived, CompiledPolicy, Facts, HttpFacts, decide};
use isthmus_proxy::telemetry::{Direction, EdgeOf, Metrics, TraceContext};

/// One function with its surroundings.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    /// Makes what the calls need. A call is told its number.
    pub(crate) prepare: fn() -> Box<dyn FnMut(u64)>,
}

/// All there are.
pub(crate) const ALL: &[Case] = &[
    Case { name: "policy-10", what: "policy decision, the last of 10 rules allows", prepare: || policy(10) },
    Case { name: "policy-100", what: "policy decision, the last of 100 rules allows", prepare: || policy(100) },
    Case { name: "policy-1000", what: "policy decision, the last of 1,000 rules allows", prepare: || policy(1_000) },
    Case { name: "policy-10000", what: "policy decision, the last of 10,000 rules allows", prepare: || policy(10_000) },
    Case { name: "policy-deny-10", what: "policy decision, none of 10 deny rules", prepare: || deny(10) },
    Case { name: "policy-deny-10000", what: "policy decision, none of 10,000 deny rules", prepare: || deny(10_000) },
    Case { name: "policy-pairs-10000", what: "policy decision, 100 callers by 100 templates", prepare: pairs },
    Case { name: "snapshot-10", what: "destination look-up among 10 services", prepare: || snapshot(10) },
    Case { name: "snapshot-100000", what: "destination look-up among 100,000 services", prepare: || snapshot(100_000) },
    Case { name: "client-hello", what: "ClientHello parse (1.4 KB, ML-KEM share)", prepare: hello },
    Case { name: "detect-http1", what: "detection of an HTTP/1.1 request", prepare: || detect(REQUEST) },
    Case { name: "detect-http2", what: "detection of an HTTP/2 preface", prepare: || detect(PREFACE) },
    Case {
        name: "detect-opaque",
        what: "detection of bytes that are nothing known",
        prepare: || detect(b"*3\r\n$3\r\nSET"),
    },
    Case { name: "sanitise-clean", what: "header sanitise, 10 headers, none to remove", prepare: sanitise_clean },
    Case {
        name: "sanitise-dirty",
        what: "header sanitise, 2 of 12 to remove (with their insertion)",
        prepare: sanitise_dirty,
    },
    Case { name: "edge-known", what: "edge count of one request, known edge", prepare: edge_known },
    Case { name: "metrics-request", what: "metrics record of one request", prepare: metrics },
    Case { name: "flow-known", what: "record of one decision, in a way seen before", prepare: flow_known },
    Case { name: "flow-many", what: "record of one decision, among 1,000 ways and 100 paths", prepare: flow_many },
    Case { name: "trace-context", what: "trace context parse (traceparent and tracestate)", prepare: trace_context },
    Case { name: "trace-child", what: "trace context of the next hop", prepare: trace_child },
    Case { name: "mesh-exchange", what: "request and answer on a mesh connection, both ends", prepare: mesh::exchange },
    Case { name: "mesh-exchange-h2", what: "the same by the h2 crate", prepare: mesh::h2_exchange },
    Case { name: "mesh-bulk", what: "256 KiB through a tunnel's stream, both ends", prepare: mesh::bulk },
    Case { name: "mesh-bulk-h2", what: "the same by the h2 crate", prepare: mesh::h2_bulk },
];

const REQUEST: &[u8] = b"GET /v1/orders/17 HTTP/1.1\r\nHost: orders.shop\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.example/ns/shop/sa/{account}")).expect("an id")
}

/// As in W2: every rule is about this caller, and only the last about this request.
fn policy(rules: u32) -> Box<dyn FnMut(u64)> {
    let caller = id("web");
    let one = |index: u32| {
        let last = index + 1 == rules;
        let (methods, path) =
            if last { (["GET", "POST"], "/".to_owned()) } else { (["PUT", "PATCH"], format!("/v1/{index}/")) };
        let conditions = Conditions {
            identities: Some(vec![IdentityPattern::Exact(caller.clone())]),
            methods: Some(methods.map(str::to_owned).to_vec()),
            paths: Some(vec![PathPattern::Prefix(path)]),
            ..Conditions::default()
        };
        rule(index, conditions)
    };
    decision(Vec::new(), (0..rules).map(one).collect())
}

/// Every deny is about another path, as in a list of what is closed to all.
fn deny(rules: u32) -> Box<dyn FnMut(u64)> {
    let closed = |index: u32| {
        let path = format!("/v1/internal-{index}/").parse().expect("a path");
        rule(index, Conditions { paths: Some(vec![path]), ..Conditions::default() })
    };
    decision((0..rules).map(closed).collect(), vec![rule(0, Conditions::default())])
}

/// Neither the caller nor the path tells a rule by itself.
fn pairs() -> Box<dyn FnMut(u64)> {
    let pair = |index: u32| {
        let account = if index / 100 == 99 { "web".to_owned() } else { format!("caller-{}", index / 100) };
        let path =
            if index % 100 == 99 { "/v1/orders/{id}".to_owned() } else { format!("/v1/kind-{}/{{id}}", index % 100) };
        let conditions = Conditions {
            identities: Some(vec![IdentityPattern::Exact(id(&account))]),
            paths: Some(vec![path.parse().expect("a path")]),
            ..Conditions::default()
        };
        rule(index, conditions)
    };
    decision(Vec::new(), (0..10_000).map(pair).collect())
}

fn rule(index: u32, conditions: Conditions) -> Rule {
    let policy = "shop/orders".to_owned();
    Rule { policy, index, mode: RuleMode::Enforce, until_ms: None, conditions: Ok(conditions) }
}

fn decision(deny: Vec<Rule>, allow: Vec<Rule>) -> Box<dyn FnMut(u64)> {
    let caller = id("web");
    let compiled = CompiledPolicy::new(PortPolicy {
        transport: Transport::MeshOnly,
        min_tls_version: TlsVersion::V1_2,
        deny,
        allow,
        default_action: Action::Deny,
        default_from: None,
    });
    let headers = typical_headers();
    Box::new(move |_| {
        let http = HttpFacts { host: Some("orders.shop"), method: "GET", path: "/v1/orders/17", headers: &headers };
        let peer_ip = IpAddr::V4(Ipv4Addr::new(10, 10, 1, 10));
        let facts = Facts {
            peer: Some(&caller),
            foreign: false,
            peer_ip,
            peer_site: Some("dc1"),
            behind: None,
            port: 8080,
            now_ms: 0,
            http: Some(http),
        };
        assert!(black_box(decide(&compiled, black_box(&facts))).allowed);
    })
}

/// The address of a service in turn, so that it is not always the same one in the cache of a look-up.
fn snapshot(services: u32) -> Box<dyn FnMut(u64)> {
    let mesh = mesh_of(services);
    Box::new(move |number| {
        // An odd step far from a power of two visits all of them.
        let service = (number.wrapping_mul(7_919) % u64::from(services)) as u32;
        let found = mesh.destination(black_box(SocketAddr::new(vip(service), 80)));
        assert!(matches!(black_box(found), isthmus_proxy::state::Destination::Service { .. }));
    })
}

fn vip(service: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 112, 0, 0).to_bits() + service).into()
}

fn mesh_of(services: u32) -> Arc<Mesh> {
    let site: model::SiteName = "dc1".parse().expect("a name");
    let world = model::Mesh {
        trust_domain: TrustDomain::parse("shop.example").expect("a trust domain"),
        enforcement: Enforcement::Enforce,
        site: site.clone(),
        sites: vec![Site {
            name: site.clone(),
            ranges: vec!["10.10.0.0/16".parse().expect("a range")],
            resolvers: Vec::new(),
            seen_as: Vec::new(),
        }],
        vip_ranges: vec!["10.112.0.0/12".parse().expect("a range")],
        dns_suffixes: Vec::new(),
        links: Vec::new(),
        roots_der: Vec::new(),
        telemetry: Ok(model::Telemetry::default()),
        leaf_lifetime: None,
        revocations: Default::default(),
        crypto_profile: Default::default(),
        trust_domains: Default::default(),
        upkeep: Default::default(),
    };
    let mut upserts = vec![Resource { key: ResourceKey::Mesh, body: Ok(Body::Mesh(Box::new(world))) }];
    for number in 0..services {
        let name: ServiceName = format!("shop/s{number}").parse().expect("a name");
        let address = Address { ip: vip(number), target: Target::Service(name.clone()) };
        let key = ResourceKey::Address(vip(number));
        upserts.push(Resource { key, body: Ok(Body::Address(Box::new(address))) });
        let service = service(name.clone(), number, &site);
        upserts.push(Resource { key: ResourceKey::Service(name), body: Ok(Body::Service(Box::new(service))) });
    }
    let delta = Delta { version: 1, upserts, removals: Vec::new(), first_sync_complete: true };
    Arc::new(Mesh::unknown().apply(delta))
}

fn service(name: ServiceName, number: u32, site: &model::SiteName) -> model::Service {
    let port = ServicePort {
        port: 80,
        name: "http".to_owned(),
        protocol: AppProtocol::Http,
        transport: Some(Transport::MeshOnly),
        min_tls_version: None,
        options: Default::default(),
        standing: Default::default(),
    };
    let endpoint = Endpoint {
        site: Some(site.clone()),
        ip: IpAddr::V4(Ipv4Addr::new(10, 10, 0, 1)),
        target_ports: BTreeMap::from([(80, 8080)]),
        workload: Some("shop/orders".parse().expect("a name")),
        mesh: Some(MeshPeer { port: 15008, identities: vec![id("orders")] }),
    };
    model::Service {
        name,
        hostnames: Vec::new(),
        vips: vec![vip(number)],
        ports: vec![(80, Ok(port))],
        endpoints: vec![Ok(endpoint)],
        external: None,
    }
}

/// Made by hand, as browsers and rustls send it: making one with a TLS library takes another number of instructions each
/// time. With a share of a post-quantum key it is longer than a segment.
fn hello() -> Box<dyn FnMut(u64)> {
    let bytes = hello_bytes();
    Box::new(move |_| {
        let parsed = client_hello::parse(black_box(&bytes));
        assert!(matches!(black_box(parsed), client_hello::Parsed::Hello(..)));
    })
}

fn hello_bytes() -> Vec<u8> {
    let prefixed = |content: &[u8]| [&(content.len() as u16).to_be_bytes()[..], content].concat();
    let extension = |kind: u16, content: &[u8]| [kind.to_be_bytes().to_vec(), prefixed(content)].concat();
    // X25519MLKEM768: 1,184 and 32 bytes.
    let share = [&[0x11, 0xec][..], &prefixed(&[7; 1_216])].concat();
    let name = [&[0][..], &prefixed(b"orders.shop.example")].concat();
    let extensions = [
        extension(0, &prefixed(&name)),
        extension(10, &prefixed(&[0x11, 0xec, 0, 29, 0, 23])),
        extension(13, &prefixed(&[4, 3, 8, 4, 4, 1])),
        extension(16, &prefixed(b"\x02h2\x08http/1.1")),
        extension(43, &[4, 3, 4, 3, 3]),
        extension(51, &prefixed(&share)),
    ];
    // Version 1.2, random, session id of 32 bytes, three suites, no compression.
    let head = [&[3, 3][..], &[7; 32], &[32], &[9; 32], &prefixed(&[0x13, 1, 0x13, 2, 0x13, 3]), &[1, 0]].concat();
    let body = [head, prefixed(&extensions.concat())].concat();
    let message = [&[1, 0][..], &prefixed(&body)].concat();
    [&[22, 3, 1][..], &prefixed(&message)].concat()
}

fn detect(bytes: &'static [u8]) -> Box<dyn FnMut(u64)> {
    Box::new(move |_| {
        black_box(classify(black_box(bytes)));
    })
}

pub(crate) fn typical_headers() -> HeaderMap {
    let pairs = [
        ("host", "orders.shop"),
        ("user-agent", "curl/8.5.0"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "en"),
        ("cookie", "session=0123456789abcdef"),
        ("content-type", "application/json"),
        ("x-request-id", "7f1c2d3e"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "vendor=t61rcWkgMzE,other=00f067aa0ba902b7"),
    ];
    pairs.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn sanitise_clean() -> Box<dyn FnMut(u64)> {
    let mut headers = typical_headers();
    Box::new(move |_| sanitize(black_box(&mut headers)))
}

fn sanitise_dirty() -> Box<dyn FnMut(u64)> {
    let mut headers = typical_headers();
    Box::new(move |_| {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("keep-alive"));
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
        sanitize(black_box(&mut headers));
    })
}

fn metrics() -> Box<dyn FnMut(u64)> {
    let metrics = Metrics::new(4).for_worker(1);
    Box::new(move |number| {
        let elapsed = Duration::from_micros(black_box(300 + number % 64));
        metrics.request(Direction::Inbound, black_box(200), elapsed, None);
    })
}

/// The lookup by the edge's names and the counts, native histogram included.
fn edge_known() -> Box<dyn FnMut(u64)> {
    let edges = Metrics::new(4).for_worker(1).edges();
    let edge = EdgeOf { direction: Direction::Outbound, namespace: "shop", name: "orders", port: 80, site: "dc1" };
    Box::new(move |number| {
        let elapsed = Duration::from_micros(black_box(300 + number % 64));
        edges.request(black_box(edge), black_box(200), elapsed, None);
    })
}

/// What a request costs beyond its decision: the same caller and template as before, another id.
fn flow_known() -> Box<dyn FnMut(u64)> {
    let caller = id("web");
    let mut table = FlowTable::default();
    table.record(&observed(&caller, "/v1/orders/17"));
    let paths = ["/v1/orders/18", "/v1/orders/19"];
    Box::new(move |number| table.record(black_box(&observed(&caller, paths[(number % 2) as usize]))))
}

fn flow_many() -> Box<dyn FnMut(u64)> {
    let callers: Vec<_> = (0..10).map(|number| id(&format!("caller-{number}"))).collect();
    let names = ["items", "orders", "carts", "users", "stock"];
    let path = |n: usize| format!("/v1/{}/{}/17", names[n % 5], (b'a' + (n / 5) as u8) as char);
    let paths: Vec<_> = (0..100).map(path).collect();
    let mut table = FlowTable::default();
    for (caller, path) in callers.iter().flat_map(|caller| paths.iter().map(move |path| (caller, path))) {
        table.record(&observed(caller, path));
    }
    Box::new(move |number| {
        let number = number as usize;
        table.record(black_box(&observed(&callers[number % 10], &paths[number * 7 % 100])));
    })
}

fn observed<'a>(caller: &'a SpiffeId, path: &'a str) -> Observed<'a> {
    Observed {
        way: Way::In,
        peer: Some(caller),
        ip: IpAddr::V4(Ipv4Addr::new(10, 10, 1, 10)),
        port: 8080,
        arrived: Arrived::Mesh,
        method: Some("GET"),
        path: Some(path),
        host: None,
        verdict: Verdict::Allowed,
        reason: None,
        policy: Some("shop/orders"),
        rule: Some(0),
        audit: None,
    }
}

fn trace_context() -> Box<dyn FnMut(u64)> {
    let headers = typical_headers();
    Box::new(move |_| {
        assert!(black_box(TraceContext::parse(black_box(&headers))).is_some());
    })
}

fn trace_child() -> Box<dyn FnMut(u64)> {
    let context = TraceContext::parse(&typical_headers()).expect("a context");
    Box::new(move |_| {
        black_box(black_box(&context).child());
    })
}
