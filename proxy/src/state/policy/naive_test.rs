//! Any decisions, against those of a naive evaluator.

use std::net::IpAddr;

use http::HeaderMap;
use isthmus_certs::{SpiffeId, TrustDomain};
use isthmus_proto::model::{
    Action, Conditions, GrpcPattern, HeaderMatch, HostPattern, IdentityPattern, ModelError, PathPattern, PortPolicy,
    Rule, RuleMode, SiteName,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::policy_test::{policy, request, rule};
use super::*;
use evaluator::{HOSTS, PATHS, naive};

#[path = "naive_evaluator_test.rs"]
mod evaluator;

fn account() -> impl Strategy<Value = SpiffeId> {
    let ids = ["shop.example/ns/shop/sa/web", "shop.example/ns/shop/sa/web-2", "shop.example/ns/bank/sa/web"];
    let ids = ids.into_iter().chain(["partner.example/ns/shop/sa/batch"]);
    prop::sample::select(ids.map(|id| SpiffeId::parse(&format!("spiffe://{id}")).unwrap()).collect::<Vec<_>>())
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(PATHS.map(|(raw, _)| raw).to_vec())
}

fn few<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Vec<T>>> {
    option::weighted(0.3, vec(one, 1..3))
}

fn parsed<T>(texts: &[&'static str]) -> impl Strategy<Value = T>
where
    T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug,
{
    prop::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
}

fn identity_pattern() -> impl Strategy<Value = IdentityPattern> {
    parsed(&[
        "spiffe://shop.example/ns/shop/sa/web",
        "spiffe://shop.example/ns/shop/sa/batch",
        "spiffe://shop.example/ns/shop/*",
        "spiffe://shop.example/ns/shop/sa/web*",
        "*",
        "spiffe://*/ns/*/sa/web",
        "spiffe://*/ns/shop/sa/*",
        "spiffe://partner.example/ns/*/sa/*",
    ])
}

fn path_pattern() -> impl Strategy<Value = PathPattern> {
    parsed(&[
        "/", "/*", "/a", "/A", "/a/", "/a/b", "/a/b/*", "/a*", "/a/*", "/ab", "/{x}", "/a/{x}", "/{x}/b", "/a/{x}/*",
        "/{x}/*", "*", "/a/x@y",
    ])
}

fn headers() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let any_of = parsed_texts(&[&[], &["1"], &["1", "2"], &["2"], &["V"], &["v", "2"]]);
    let one = (prop::sample::select(vec!["x-a", "x-b", "x_b"]), any_of);
    vec(one.prop_map(|(name, any_of)| HeaderMatch { name: name.into(), any_of }), 0..2)
}

fn parsed_texts(lists: &[&'static [&'static str]]) -> impl Strategy<Value = Vec<String>> {
    prop::sample::select(lists.to_vec()).prop_map(|list| list.iter().map(ToString::to_string).collect())
}

prop_compose! {
    fn asked()(
        from in (
            few(identity_pattern()),
            few(prop::sample::select(vec!["shop".to_owned(), "bank".to_owned()])),
            few(prop::sample::select(vec!["shop.example", "partner.example"]).prop_map(|t| TrustDomain::parse(t).unwrap())),
            few(parsed::<SiteName>(&["dc1", "azure-eastus"])),
            few(parsed::<ipnet::IpNet>(&["10.10.0.0/16", "10.10.1.0/24", "10.20.0.0/16", "fd00::/8"])),
        ),
        to in (
            few(prop::sample::select(vec![8080u16, 9090])),
            few(path_pattern()),
            few(prop::sample::select(vec!["GET".to_owned(), "POST".to_owned()])),
            few(parsed::<HostPattern>(&["a.shop", "*.shop", "b.shop", "*.a.shop", "[fd00::1]", "10.0.0.1"])),
            few(parsed::<GrpcPattern>(&["shop.Orders", "shop.Orders/Get", "shop.Order"])),
        ),
        headers in headers(),
    ) -> Conditions {
        let (identities, namespaces, trust_domains, sites, cidrs) = from;
        let (ports, paths, methods, hosts, grpc) = to;
        Conditions { identities, namespaces, trust_domains, sites, cidrs, ports, paths, methods, hosts, grpc, headers,
            ..Default::default() }
    }
}

prop_compose! {
    fn any_rule()(
        audits in prop::bool::weighted(0.2),
        readable in prop::bool::weighted(0.95),
        until_ms in option::weighted(0.2, prop::sample::select(vec![999i64, 1_000, 1_001])),
        asked in asked(),
        not in option::weighted(0.3, asked()),
    ) -> Rule {
        let not = not.unwrap_or_default();
        let conditions = Conditions {
            not_identities: not.identities,
            not_trust_domains: not.trust_domains,
            not_namespaces: not.namespaces,
            not_sites: not.sites,
            not_cidrs: not.cidrs,
            not_ports: not.ports,
            not_hosts: not.hosts,
            not_methods: not.methods,
            not_paths: not.paths,
            not_grpc: not.grpc,
            not_headers: not.headers,
            ..asked
        };
        Rule {
            conditions: if readable { Ok(conditions) } else { Err(ModelError::new("requires", "weather/v9")) },
            mode: if audits { RuleMode::Audit } else { RuleMode::Enforce },
            until_ms,
            ..rule(0, Conditions::default())
        }
    }
}

/// Each rule bears its own place.
fn rules(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Rule>> {
    vec(any_rule(), count).prop_map(|mut rules| {
        for (rule, place) in rules.iter_mut().zip(0..) {
            rule.index = place;
        }
        rules
    })
}

#[derive(Debug, Clone)]
struct Traffic {
    peer: Option<SpiffeId>,
    ip: IpAddr,
    site: Option<&'static str>,
    behind: Option<Vec<IpAddr>>,
    port: u16,
    http: Option<HttpTraffic>,
}

const HEADERS: [(&str, &str); 10] = [
    ("x-a", "1"),
    ("x-b", "2"),
    ("x-a", "1, 2"),
    ("x-a", "V"),
    ("x-b", "v"),
    ("x-b", "2;q=1"),
    ("x-a", "\"v\", 3"),
    ("x_b", "2"),
    ("x_a", "3"),
    ("content-type", "application/grpc"),
];

/// Method, path, host and headers.
type HttpTraffic = (&'static str, &'static str, Option<&'static str>, Vec<(&'static str, &'static str)>);

prop_compose! {
    fn traffic()(
        peer in option::weighted(0.9, account()),
        ip in prop::sample::select(vec!["10.10.1.10", "10.20.1.10", "fd00::1"]),
        site in option::of(prop::sample::select(vec!["dc1", "azure-eastus"])),
        behind in option::weighted(0.3, vec(parsed::<IpAddr>(&["10.10.1.10", "10.10.2.1", "10.20.1.10"]), 0..3)),
        port in prop::sample::select(vec![8080u16, 9090]),
        http in option::weighted(0.8, (
            prop::sample::select(vec!["GET", "POST", "get", "PUT"]),
            path(),
            option::of(prop::sample::select(HOSTS.map(|(raw, _)| raw).to_vec())),
            vec(prop::sample::select(HEADERS.to_vec()), 0..3),
        )),
    ) -> Traffic {
        Traffic { peer, ip: ip.parse().unwrap(), site, behind, port, http }
    }
}

fn compare(policy: &PortPolicy, compiled: &CompiledPolicy, t: &Traffic) -> Result<(), TestCaseError> {
    let mut headers = HeaderMap::new();
    for (name, value) in t.http.iter().flat_map(|(.., headers)| headers) {
        if *name == "content-type" {
            headers.insert(*name, http::HeaderValue::from_static(value));
        } else {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
    }
    let http =
        t.http.as_ref().map(|(method, path, host, _)| HttpFacts { host: *host, ..request(&headers, method, path) });
    let facts = Facts {
        peer: t.peer.as_ref(),
        foreign: t.peer.as_ref().is_some_and(|peer| peer.trust_domain().as_str() != "shop.example"),
        peer_ip: t.ip,
        peer_site: t.site,
        behind: t.behind.as_deref(),
        port: t.port,
        now_ms: 1_000,
        http,
    };
    let decision = decide(compiled, &facts);
    prop_assert_eq!((decision.reason, decision.rule), naive(policy, &facts, false));
    prop_assert_eq!(decision.allowed, decision.reason.is_none());
    let (would_refuse, by) = naive(policy, &facts, true);
    let expected = would_refuse.filter(|_| decision.allowed).map(|reason| (reason, by));
    prop_assert_eq!(decision.audit.map(|finding| (finding.reason, finding.rule)), expected);
    Ok(())
}

/// Policies; each is asked about several kinds of traffic. `ISTHMUS_POLICY_CASES=100` runs each test a hundred times as
/// long: millions of decisions.
fn cases(usual: u32) -> u32 {
    let times = std::env::var("ISTHMUS_POLICY_CASES").ok().and_then(|text| text.parse::<u32>().ok());
    usual.saturating_mul(times.unwrap_or(1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2_000)))]

    #[test]
    fn decides_as_the_naive_evaluator_does(
        deny in rules(0..3),
        allow in rules(0..4),
        open in prop::bool::ANY,
        traffic in vec(traffic(), 10),
    ) {
        let policy = policy(deny, allow, if open { Action::Allow } else { Action::Deny });
        let compiled = CompiledPolicy::new(policy.clone());
        traffic.iter().try_for_each(|traffic| compare(&policy, &compiled, traffic))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]

    #[test]
    fn decides_as_the_naive_evaluator_does_among_many_rules(
        deny in rules(0..3),
        allow in rules(0..100),
        open in prop::bool::ANY,
        traffic in vec(traffic(), 20),
    ) {
        let policies = [policy(vec![], deny.clone(), Action::Deny), policy(deny, allow.clone(), Action::Deny),
            policy(allow, vec![], if open { Action::Allow } else { Action::Deny })];
        for (policy, traffic) in policies.iter().zip(traffic.chunks(7)) {
            let compiled = CompiledPolicy::new(policy.clone());
            traffic.iter().try_for_each(|traffic| compare(policy, &compiled, traffic))?;
        }
    }

    #[test]
    fn every_prefix_of_a_text_is_found_longest_first(
        prefixes in prop::collection::hash_set("[ab]{0,5}", 0..40),
        text in "[ab]{0,8}",
    ) {
        let values = prefixes.iter().map(|p| (p.as_bytes().into(), p.clone())).collect();
        let mut found = Vec::new();
        super::prefixes::Prefixes::<String>::new(values).each_of(text.as_bytes(), |prefix| found.push(prefix.clone()));
        let mut expected: Vec<_> = prefixes.into_iter().filter(|p| text.starts_with(p.as_str())).collect();
        expected.sort_by_key(|p| std::cmp::Reverse(p.len()));
        prop_assert_eq!(found, expected);
    }
}

/// More rules than one index holds: the last one decides as well as the first.
#[test]
fn each_of_many_rules_is_found() {
    let on =
        |place: u32| Conditions { paths: Some(vec![PathPattern::Exact(format!("/{place}"))]), ..Default::default() };
    let many = || (0..2_050).map(|place| rule(place, on(place))).collect::<Vec<_>>();
    let headers = HeaderMap::new();
    let (allows, denies) = (policy(vec![], many(), Action::Deny), policy(many(), vec![], Action::Allow));
    let (allows, denies) = (CompiledPolicy::new(allows), CompiledPolicy::new(denies));
    for place in [0, 63, 64, 1_023, 1_024, 2_047, 2_048, 2_049] {
        let path = format!("/{place}");
        let ip = "10.10.1.10".parse().unwrap();
        let http = Some(request(&headers, "GET", &path));
        let facts = Facts {
            peer: None,
            foreign: false,
            peer_ip: ip,
            peer_site: None,
            behind: None,
            port: 8080,
            now_ms: 0,
            http,
        };
        assert_eq!((decide(&allows, &facts).allowed, decide(&allows, &facts).rule), (true, Some(place)));
        assert_eq!((decide(&denies, &facts).allowed, decide(&denies, &facts).rule), (false, Some(place)));
    }
}
