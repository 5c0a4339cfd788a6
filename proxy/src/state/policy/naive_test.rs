//! Decisions against a naive evaluator: model in, three values, no compilation.

use std::net::IpAddr;

use http::HeaderMap;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{
    Action, Conditions, HeaderMatch, HostPattern, IdentityPattern, ModelError, PathPattern, PortPolicy, Rule, RuleMode,
    SiteName,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::policy_test::{id, policy, request, rule};
use super::*;

/// In three values; `None`: cannot be told.
fn any<T>(list: &Option<Vec<T>>, fact: Option<impl Fn(&T) -> Option<bool>>) -> Option<bool> {
    let Some(list) = list else { return Some(true) };
    let each: Vec<_> = list.iter().map(fact?).collect();
    if each.contains(&Some(true)) {
        Some(true)
    } else if each.contains(&None) {
        None
    } else {
        Some(false)
    }
}

fn naive_holds(c: &Conditions, f: &Facts) -> Option<bool> {
    let header = |m: &HeaderMatch| f.http.map(|h| h.headers.contains_key(&m.name));
    let all = [
        any(&c.identities, f.peer.map(|peer| move |p: &IdentityPattern| Some(naive_identity(p, peer)))),
        any(&c.namespaces, f.peer.map(|peer| move |n: &String| Some(n == peer.namespace()))),
        any(&c.sites, f.peer_site.map(|site| move |s: &SiteName| Some(s.as_str() == site))),
        any(&c.cidrs, Some(|range: &ipnet::IpNet| Some(range.contains(&f.peer_ip)))),
        any(&c.ports, Some(|port: &u16| Some(*port == f.port))),
        any(&c.methods, f.http.map(|h| move |m: &String| naive_method(m, h.method))),
        any(&c.hosts, f.http.and_then(|h| h.host).map(|host| move |p: &HostPattern| Some(naive_host(p, host)))),
        match (&c.paths, f.http) {
            (None, _) => Some(true),
            (Some(_), None) => None,
            (Some(list), Some(http)) => naive_path(list, http.path),
        },
    ];
    let all: Vec<_> = all.into_iter().chain(c.headers.iter().map(header)).collect();
    if all.contains(&Some(false)) {
        Some(false)
    } else if all.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn naive_identity(pattern: &IdentityPattern, peer: &SpiffeId) -> bool {
    match pattern {
        IdentityPattern::Exact(id) => id == peer,
        IdentityPattern::Prefix(prefix) => peer.to_string().starts_with(prefix),
        IdentityPattern::Wildcard(_) => unreachable!("not generated"),
    }
}

fn naive_method(listed: &str, method: &str) -> Option<bool> {
    if listed == method { Some(true) } else { (!listed.eq_ignore_ascii_case(method)).then_some(false) }
}

fn naive_host(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => *exact == host.to_lowercase(),
        HostPattern::Suffix(suffix) => host.to_lowercase().ends_with(suffix),
    }
}

/// All readings of one of [`path`]'s values must agree.
fn naive_path(list: &[PathPattern], path: &str) -> Option<bool> {
    let readings = match path {
        "/a/../b" | "//a" => return None,
        "/%61/b" => vec![path, "/a/b"],
        "/a;v=1/b" => vec![path, "/a/b"],
        _ => vec![path],
    };
    let matches = |reading: &str| {
        list.iter().any(|pattern| match pattern {
            PathPattern::Exact(exact) => exact == reading,
            PathPattern::Prefix(prefix) => reading.starts_with(prefix),
            PathPattern::Template(_) => unreachable!("not generated"),
        })
    };
    let matching = readings.iter().filter(|reading| matches(reading)).count();
    if matching == readings.len() { Some(true) } else { (matching == 0).then_some(false) }
}

/// What refused, if anything did, and the rule it rests on, of those in `deny` or `allow`.
fn naive(p: &PortPolicy, f: &Facts, audit: bool) -> (Option<Reason>, Option<u32>) {
    let counts = |r: &&Rule| audit || r.mode == RuleMode::Enforce;
    let holds = |r: &Rule| r.conditions.as_ref().ok().map(|c| naive_holds(c, f));
    for rule in p.deny.iter().filter(counts) {
        match holds(rule) {
            None => return (Some(Reason::UnknownFeature), Some(rule.index)),
            Some(Some(false)) => {}
            Some(Some(true) | None) => return (Some(Reason::DeniedByRule), Some(rule.index)),
        }
    }
    if let Some(rule) = p.allow.iter().filter(counts).find(|r| holds(r) == Some(Some(true))) {
        return (None, Some(rule.index));
    }
    if let Some(rule) = p.allow.iter().filter(counts).find(|r| r.conditions.is_err()) {
        return (Some(Reason::UnknownFeature), Some(rule.index));
    }
    let closed = p.default_action == Action::Deny || (audit && p.allow.iter().any(|r| r.mode == RuleMode::Audit));
    (closed.then_some(Reason::NotAllowed), None)
}

fn account() -> impl Strategy<Value = SpiffeId> {
    prop::sample::select(vec!["web", "web-2", "batch"]).prop_map(id)
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["/", "/a", "/a/b", "/ab", "/%61/b", "/a;v=1/b", "/a/../b", "//a"])
}

fn few<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Vec<T>>> {
    option::of(vec(one, 1..3))
}

fn identity_pattern() -> impl Strategy<Value = IdentityPattern> {
    prop_oneof![
        account().prop_map(IdentityPattern::Exact),
        account().prop_map(|id| IdentityPattern::Prefix(id.to_string()))
    ]
}

fn path_pattern() -> impl Strategy<Value = PathPattern> {
    prop_oneof![path().prop_map(|p| PathPattern::Exact(p.into())), path().prop_map(|p| PathPattern::Prefix(p.into()))]
}

fn host_pattern() -> impl Strategy<Value = HostPattern> {
    prop::sample::select(vec![HostPattern::Exact("a.shop".into()), HostPattern::Suffix(".shop".into())])
}

fn header() -> impl Strategy<Value = HeaderMatch> {
    prop::sample::select(vec!["x-a", "x-b"]).prop_map(|name| HeaderMatch { name: name.into(), any_of: vec![] })
}

prop_compose! {
    fn any_rule()(
        audits in prop::bool::weighted(0.2),
        readable in prop::bool::weighted(0.95),
        from in (few(identity_pattern()), few(prop::sample::select(vec!["shop".to_owned(), "bank".to_owned()]))),
        place in (
            few(prop::sample::select(vec!["dc1", "azure-eastus"]).prop_map(|s| s.parse().unwrap())),
            few(prop::sample::select(vec!["10.10.0.0/16", "10.20.0.0/16"]).prop_map(|s| s.parse().unwrap())),
        ),
        to in (few(prop::sample::select(vec![8080u16, 9090])), few(path_pattern())),
        methods in few(prop::sample::select(vec!["GET".to_owned(), "PUT".to_owned()])),
        heads in (few(host_pattern()), vec(header(), 0..2)),
    ) -> Rule {
        let (identities, namespaces) = from;
        let (sites, cidrs) = place;
        let (ports, paths) = to;
        let (hosts, headers) = heads;
        let conditions = Conditions { identities, namespaces, sites, cidrs, ports, methods, paths, hosts, headers, ..Default::default() };
        Rule {
            conditions: if readable { Ok(conditions) } else { Err(ModelError::new("requires", "weather/v9")) },
            mode: if audits { RuleMode::Audit } else { RuleMode::Enforce },
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
    port: u16,
    http: Option<(&'static str, &'static str, Option<&'static str>, Option<&'static str>)>,
}

prop_compose! {
    fn traffic()(
        peer in option::of(account()),
        ip in prop::sample::select(vec!["10.10.1.10", "10.20.1.10", "fd00::1"]),
        site in option::of(prop::sample::select(vec!["dc1", "azure-eastus"])),
        port in prop::sample::select(vec![8080u16, 9090]),
        http in option::weighted(0.8, (
            prop::sample::select(vec!["GET", "PUT", "get"]),
            path(),
            option::of(prop::sample::select(vec!["A.shop", "b.shop"])),
            option::of(prop::sample::select(vec!["x-a", "x-b"])),
        )),
    ) -> Traffic {
        Traffic { peer, ip: ip.parse().unwrap(), site, port, http }
    }
}

fn compare(policy: &PortPolicy, t: &Traffic) -> Result<(), TestCaseError> {
    let mut headers = HeaderMap::new();
    if let Some((.., Some(name))) = t.http {
        headers.insert(name, http::HeaderValue::from_static("1"));
    }
    let http = t.http.map(|(method, path, host, _)| HttpFacts { host, ..request(&headers, method, path) });
    let facts = Facts { peer: t.peer.as_ref(), peer_ip: t.ip, peer_site: t.site, port: t.port, now_ms: 0, http };
    let compiled = CompiledPolicy::new(policy.clone());
    let decision = decide(&compiled, &facts);
    prop_assert_eq!((decision.reason, decision.rule), naive(policy, &facts, false));
    prop_assert_eq!(decision.allowed, decision.reason.is_none());
    let (would_refuse, by) = naive(policy, &facts, true);
    let expected = would_refuse.filter(|_| decision.allowed).map(|reason| (reason, by));
    prop_assert_eq!(decision.audit.map(|finding| (finding.reason, finding.rule)), expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn decides_as_the_naive_evaluator_does(
        deny in rules(0..3),
        allow in rules(0..4),
        open in prop::bool::ANY,
        traffic in traffic(),
    ) {
        compare(&policy(deny, allow, if open { Action::Allow } else { Action::Deny }), &traffic)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn decides_as_the_naive_evaluator_does_among_many_rules(
        deny in rules(0..3),
        allow in rules(0..100),
        open in prop::bool::ANY,
        traffic in vec(traffic(), 20),
    ) {
        let policies = [policy(vec![], deny.clone(), Action::Deny), policy(deny, allow.clone(), Action::Deny),
            policy(allow, vec![], if open { Action::Allow } else { Action::Deny })];
        for (policy, traffic) in policies.iter().zip(traffic.chunks(7)).flat_map(|(p, t)| t.iter().map(move |t| (p, t))) {
            compare(policy, traffic)?;
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
        let facts = Facts { peer: None, peer_ip: ip, peer_site: None, port: 8080, now_ms: 0, http };
        assert_eq!((decide(&allows, &facts).allowed, decide(&allows, &facts).rule), (true, Some(place)));
        assert_eq!((decide(&denies, &facts).allowed, decide(&denies, &facts).rule), (false, Some(place)));
    }
}
