//! Arbitrary rules of policies, and the patterns in their conditions.

use super::*;

fn identity_pattern() -> impl Strategy<Value = IdentityPattern> {
    prop_oneof![
        id().prop_map(IdentityPattern::Exact),
        id().prop_map(|id| IdentityPattern::Prefix(id.to_string())),
        Just(IdentityPattern::Prefix(String::new())),
        "spiffe://shop\\.example/ns/\\*/sa/[a-z]{1,6}".prop_map(|text| text.parse().unwrap()),
        "spiffe://\\*/ns/[a-z]{1,6}/sa/\\*".prop_map(|text| text.parse().unwrap()),
    ]
}

fn path_pattern() -> impl Strategy<Value = PathPattern> {
    prop_oneof![
        "/[a-zé/]{0,1}[a-z]{1,6}".prop_filter_map("ambiguous", clear_path),
        "(/[a-z]{1,6}|/\\{[a-z]{1,6}\\}){1,4}(/\\*)?".prop_map(|text| text.parse().unwrap()),
        Just(PathPattern::Prefix("".into()))
    ]
}

fn clear_path(path: String) -> Option<PathPattern> {
    (!path.contains("//")).then_some(PathPattern::Exact(path))
}

pub(super) fn host_pattern() -> impl Strategy<Value = HostPattern> {
    // What ends in a number would be an address.
    let host = || name().prop_map(|name| format!("{name}z"));
    prop_oneof![
        host().prop_map(HostPattern::Exact),
        host().prop_map(|n| HostPattern::Suffix(format!(".{n}"))),
        any::<std::net::Ipv4Addr>().prop_map(|ip| HostPattern::Exact(ip.to_string())),
        any::<std::net::Ipv6Addr>().prop_map(|ip| HostPattern::Exact(format!("[{ip}]"))),
    ]
}

pub(super) fn some<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Vec<T>>> {
    option::of(vec(one, 1..4))
}

fn grpc_pattern() -> impl Strategy<Value = GrpcPattern> {
    "[a-z]{1,4}(\\.[A-Z]{1,4}){0,2}(/[A-Z]{1,4})?".prop_map(|text| text.parse().unwrap())
}

fn headers() -> impl Strategy<Value = Vec<HeaderMatch>> {
    let one = ("[a-z][a-z-]{0,8}", vec(".{0,8}", 0..3));
    vec(one.prop_map(|(name, any_of)| HeaderMatch { name, any_of }), 0..3)
}

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z]{1,6}\\.example".prop_map(|text| TrustDomain::parse(&text).unwrap())
}

prop_compose! {
    /// The half of conditions that has no `not`.
    fn asked()(
        from in (some(identity_pattern()), some(trust_domain()), some(name()), some(site()), some(net())),
        to in (some(port()), some(host_pattern()), some("[A-Z]{1,7}"), some(path_pattern()), some(grpc_pattern())),
        headers in headers(),
    ) -> Conditions {
        let (identities, trust_domains, namespaces, sites, cidrs) = from;
        let (ports, hosts, methods, paths, grpc) = to;
        Conditions { identities, trust_domains, namespaces, sites, cidrs, ports, hosts, methods, paths, grpc, headers,
            ..Default::default() }
    }
}

prop_compose! {
    fn conditions()(asked in asked(), not in asked()) -> Conditions {
        Conditions {
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
        }
    }
}

prop_compose! {
    pub(super) fn rule()(
        policy in name(),
        index in any::<u32>(),
        audit in any::<bool>(),
        until_ms in option::of(1i64..),
        conditions in conditions(),
    ) -> Rule {
        let mode = if audit { RuleMode::Audit } else { RuleMode::Enforce };
        Rule { policy, index, mode, until_ms, conditions: Ok(conditions) }
    }
}
