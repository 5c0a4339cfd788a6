//! One decision by each attribute that rules can be told apart by: among 10 rules, and among 10,000, of which the last one
//! allows (or, of deny rules, none matches).

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{
    Action, Conditions, HeaderMatch, IdentityPattern, PathPattern, PortPolicy, Rule, RuleMode, TlsVersion, Transport,
};
use isthmus_proxy::state::policy::{CompiledPolicy, Facts, HttpFacts, decide};

use crate::cases::Case;

/// A rule about the traffic at hand, or about other traffic, by its place.
type Asks = fn(Option<u32>) -> Conditions;

macro_rules! among {
    ($($name:literal, $what:literal, $asks:expr;)*) => {
        &[$(
            Case { name: concat!($name, "-10"), what: concat!("policy, by ", $what, ", the last of 10"), prepare: || last(10, $asks) },
            Case { name: concat!($name, "-10000"), what: concat!("policy, by ", $what, ", the last of 10,000"), prepare: || last(10_000, $asks) },
            Case { name: concat!($name, "-deny-10"), what: concat!("policy, by ", $what, ", none of 10 deny"), prepare: || none(10, $asks) },
            Case { name: concat!($name, "-deny-10000"), what: concat!("policy, by ", $what, ", none of 10,000 deny"), prepare: || none(10_000, $asks) },
        )*]
    };
}

pub(crate) const ALL: &[Case] = among! {
    "by-identity", "identity", identity;
    "by-wildcard", "identity with a wildcard", wildcard;
    "by-path", "path", exact_path;
    "by-template", "template of a path", template;
    "by-host", "host", host;
    "by-wild-host", "host below a name", wild_host;
    "by-cidr", "address range", cidr;
    "by-method", "method", method;
    "by-grpc", "gRPC method", grpc;
    "by-header", "header", header;
    "by-site", "site", site;
};

fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.example/ns/shop/sa/{account}")).expect("an id")
}

fn some<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Option<Vec<T>> {
    Some(vec![text.parse().expect("a pattern")])
}

fn identity(other: Option<u32>) -> Conditions {
    let account = other.map_or("web".to_owned(), |n| format!("caller-{n}"));
    Conditions { identities: Some(vec![IdentityPattern::Exact(id(&account))]), ..Conditions::default() }
}

fn wildcard(other: Option<u32>) -> Conditions {
    let account = other.map_or("web".to_owned(), |n| format!("caller-{n}"));
    Conditions { identities: some(&format!("spiffe://shop.example/ns/*/sa/{account}")), ..Conditions::default() }
}

fn exact_path(other: Option<u32>) -> Conditions {
    let path = other.map_or("/shop.v1.Orders/Get".to_owned(), |n| format!("/shop.v1.Orders/Get{n}"));
    Conditions { paths: Some(vec![PathPattern::Exact(path)]), ..Conditions::default() }
}

fn template(other: Option<u32>) -> Conditions {
    let path = other.map_or("/shop.v1.Orders/{call}".to_owned(), |n| format!("/shop.n{n}.Orders/{{call}}"));
    Conditions { paths: some(&path), ..Conditions::default() }
}

fn host(other: Option<u32>) -> Conditions {
    Conditions {
        hosts: some(&other.map_or("orders.shop".to_owned(), |n| format!("h{n}.shop"))),
        ..Conditions::default()
    }
}

fn wild_host(other: Option<u32>) -> Conditions {
    Conditions { hosts: some(&other.map_or("*.shop".to_owned(), |n| format!("*.h{n}"))), ..Conditions::default() }
}

fn cidr(other: Option<u32>) -> Conditions {
    let range = other.map_or("10.10.1.0/24".to_owned(), |n| format!("10.{}.{}.0/24", 11 + n / 256, n % 256));
    Conditions { cidrs: some(&range), ..Conditions::default() }
}

fn method(other: Option<u32>) -> Conditions {
    let method = other.map_or("POST".to_owned(), |n| format!("REPORT-{n}"));
    Conditions { methods: Some(vec![method]), ..Conditions::default() }
}

fn grpc(other: Option<u32>) -> Conditions {
    Conditions {
        grpc: some(&other.map_or("shop.v1.Orders/Get".to_owned(), |n| format!("shop.v1.Orders/Get{n}"))),
        ..Conditions::default()
    }
}

fn header(other: Option<u32>) -> Conditions {
    let value = other.map_or("blue".to_owned(), |n| format!("team-{n}"));
    Conditions { headers: vec![HeaderMatch { name: "x-team".into(), any_of: vec![value] }], ..Conditions::default() }
}

fn site(other: Option<u32>) -> Conditions {
    Conditions { sites: some(&other.map_or("dc1".to_owned(), |n| format!("dc-{n}"))), ..Conditions::default() }
}

fn rules(count: u32, asks: Asks, last: bool) -> Vec<Rule> {
    let one = |index: u32| Rule {
        policy: "shop/orders".to_owned(),
        index,
        mode: RuleMode::Enforce,
        until_ms: None,
        conditions: Ok(asks((!last || index + 1 < count).then_some(index))),
    };
    (0..count).map(one).collect()
}

fn last(count: u32, asks: Asks) -> Box<dyn FnMut(u64)> {
    decision(Vec::new(), rules(count, asks, true), Action::Deny)
}

fn none(count: u32, asks: Asks) -> Box<dyn FnMut(u64)> {
    decision(rules(count, asks, false), Vec::new(), Action::Allow)
}

/// A gRPC call, which has all that rules can ask for.
fn decision(deny: Vec<Rule>, allow: Vec<Rule>, default_action: Action) -> Box<dyn FnMut(u64)> {
    let caller = id("web");
    let compiled = CompiledPolicy::new(PortPolicy {
        transport: Transport::MeshOnly,
        min_tls_version: TlsVersion::V1_2,
        deny,
        allow,
        default_action,
        default_from: None,
    });
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("x-team", HeaderValue::from_static("blue"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("user-agent", HeaderValue::from_static("grpc-go/1.70"));
    Box::new(move |_| {
        let http =
            HttpFacts { host: Some("orders.shop"), method: "POST", path: "/shop.v1.Orders/Get", headers: &headers };
        let facts = Facts {
            peer: Some(&caller),
            foreign: false,
            peer_ip: IpAddr::V4(Ipv4Addr::new(10, 10, 1, 10)),
            peer_site: Some("dc1"),
            behind: None,
            port: 8080,
            now_ms: 0,
            http: Some(http),
        };
        assert!(black_box(decide(&compiled, black_box(&facts))).allowed);
    })
}
