//! Decisions against a naive evaluator: model in, three values, no compilation.

use std::net::IpAddr;

use http::HeaderMap;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{Action, Conditions, IdentityPattern, ModelError, PathPattern, PortPolicy, Rule, RuleMode};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::policy_test::{id, policy, request, rule};
use super::*;

fn any<T>(list: &Option<Vec<T>>, fact: Option<impl Fn(&T) -> bool>) -> Option<bool> {
    match (list, fact) {
        (None, _) => Some(true),
        (Some(_), None) => None,
        (Some(list), Some(matches)) => Some(list.iter().any(matches)),
    }
}

fn naive_holds(c: &Conditions, f: &Facts) -> Option<bool> {
    let all = [
        any(&c.identities, f.peer.map(|peer| move |p: &IdentityPattern| naive_identity(p, peer))),
        any(&c.namespaces, f.peer.map(|peer| move |n: &String| n == peer.namespace())),
        any(&c.sites, f.peer_site.map(|site| move |s: &isthmus_proto::model::SiteName| s.as_str() == site)),
        any(&c.cidrs, Some(|range: &ipnet::IpNet| range.contains(&f.peer_ip))),
        any(&c.ports, Some(|port: &u16| *port == f.port)),
        any(&c.methods, f.http.map(|h| move |m: &String| m == h.method)),
        any(&c.paths, f.http.map(|h| move |p: &PathPattern| naive_path(p, h.path))),
    ];
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
    }
}

fn naive_path(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact == path,
        PathPattern::Prefix(prefix) => path.starts_with(prefix),
    }
}

fn naive(p: &PortPolicy, f: &Facts) -> bool {
    let counts = |r: &&Rule| r.mode == RuleMode::Enforce;
    let holds = |r: &Rule| r.conditions.as_ref().ok().map(|c| naive_holds(c, f));
    let denied = p.deny.iter().filter(counts).any(|r| holds(r) != Some(Some(false)));
    let allowed = p.allow.iter().filter(counts).any(|r| holds(r) == Some(Some(true)));
    let unreadable = p.allow.iter().filter(counts).any(|r| r.conditions.is_err());
    !denied && (allowed || (!unreadable && p.default_action == Action::Allow))
}

fn account() -> impl Strategy<Value = SpiffeId> {
    prop::sample::select(vec!["web", "web-2", "batch"]).prop_map(id)
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["/", "/a", "/a/b", "/ab"])
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

prop_compose! {
    fn any_rule()(
        index in 0u32..4,
        audits in prop::bool::weighted(0.2),
        readable in prop::bool::weighted(0.9),
        from in (few(identity_pattern()), few(prop::sample::select(vec!["shop".to_owned(), "bank".to_owned()]))),
        place in (
            few(prop::sample::select(vec!["dc1", "azure-eastus"]).prop_map(|s| s.parse().unwrap())),
            few(prop::sample::select(vec!["10.10.0.0/16", "10.20.0.0/16"]).prop_map(|s| s.parse().unwrap())),
        ),
        to in (few(prop::sample::select(vec![8080u16, 9090])), few(path_pattern())),
        methods in few(prop::sample::select(vec!["GET".to_owned(), "PUT".to_owned()])),
    ) -> Rule {
        let (identities, namespaces) = from;
        let (sites, cidrs) = place;
        let (ports, paths) = to;
        let conditions =
            Conditions { identities, namespaces, sites, cidrs, ports, methods, paths, ..Default::default() };
        Rule {
            conditions: if readable { Ok(conditions) } else { Err(ModelError::new("requires", "weather/v9")) },
            mode: if audits { RuleMode::Audit } else { RuleMode::Enforce },
            ..rule(index, Conditions::default())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn decides_as_the_naive_evaluator_does(
        deny in vec(any_rule(), 0..3),
        allow in vec(any_rule(), 0..4),
        open in prop::bool::ANY,
        peer in option::of(account()),
        peer_ip in prop::sample::select(vec!["10.10.1.10", "10.20.1.10", "fd00::1"]),
        peer_site in option::of(prop::sample::select(vec!["dc1", "azure-eastus"])),
        port in prop::sample::select(vec![8080u16, 9090]),
        http in option::of((prop::sample::select(vec!["GET", "PUT"]), path())),
    ) {
        let headers = HeaderMap::new();
        let facts = Facts {
            peer: peer.as_ref(),
            peer_ip: peer_ip.parse::<IpAddr>().unwrap(),
            peer_site,
            port,
            http: http.map(|(method, path)| request(&headers, method, path)),
        };
        let policy = policy(deny, allow, if open { Action::Allow } else { Action::Deny });
        let decision = decide(&CompiledPolicy::new(policy.clone()), &facts);
        prop_assert_eq!(decision.allowed, naive(&policy, &facts));
        prop_assert_eq!(decision.reason.is_none(), decision.allowed);
        prop_assert!(decision.allowed || decision.audit.is_none());
    }
}
