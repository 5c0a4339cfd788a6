//! The naive evaluator: model in, three values, no compilation.

use super::*;

/// In three values; `None`: cannot be told.
fn any<T>(list: &Option<Vec<T>>, fact: Option<impl Fn(&T) -> Option<bool>>) -> Option<bool> {
    let Some(list) = list else { return Some(true) };
    one_of(list.iter().map(fact?))
}

fn one_of(each: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let each: Vec<_> = each.collect();
    if each.contains(&Some(true)) {
        Some(true)
    } else if each.contains(&None) {
        None
    } else {
        Some(false)
    }
}

/// Every condition that is not under `not…`; one that is not there is left out.
fn naive_each(c: &Conditions, f: &Facts) -> Vec<Option<bool>> {
    let known = |there: bool, holds: Option<bool>| there.then_some(holds);
    let td = f.peer.map(|peer| peer.trust_domain().to_string());
    let http = f.http.as_ref();
    [
        known(
            c.identities.is_some(),
            any(&c.identities, f.peer.map(|peer| move |p: &IdentityPattern| Some(naive_identity(p, peer)))),
        ),
        known(
            c.trust_domains.is_some(),
            any(&c.trust_domains, td.map(|td| move |t: &TrustDomain| Some(t.to_string() == td))),
        ),
        known(
            c.namespaces.is_some(),
            any(&c.namespaces, f.peer.filter(|_| !f.foreign).map(|peer| move |n: &String| Some(n == peer.namespace()))),
        ),
        known(c.sites.is_some(), any(&c.sites, f.peer_site.map(|s| move |t: &SiteName| Some(t.as_str() == s)))),
        known(c.cidrs.is_some(), naive_address(c.cidrs.as_deref().unwrap_or_default(), f)),
        known(c.ports.is_some(), any(&c.ports, Some(|port: &u16| Some(*port == f.port)))),
        known(c.methods.is_some(), any(&c.methods, http.map(|h| move |m: &String| naive_method(m, h.method)))),
        known(
            c.hosts.is_some(),
            any(&c.hosts, http.and_then(|h| read_host(h.host?)).map(|h| move |p: &HostPattern| Some(naive_host(p, h)))),
        ),
        known(c.paths.is_some(), http.and_then(|h| naive_path(c.paths.as_ref().unwrap_or(&vec![]), h.path))),
        known(
            c.grpc.is_some(),
            any(&c.grpc, http.and_then(naive_call).map(|call| move |p: &GrpcPattern| Some(naive_grpc(p, call)))),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What is seen is the caller's own; or what its site is seen as, and then all that is registered of it has to agree.
fn naive_address(ranges: &[ipnet::IpNet], f: &Facts) -> Option<bool> {
    let inside = |ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
    match (f.behind, f.peer) {
        (None, _) => Some(inside(&f.peer_ip)),
        (Some(_), None) => inside(&f.peer_ip).then_some(true),
        (Some(own), Some(_)) => match (own.iter().any(inside), own.iter().all(inside)) {
            _ if own.is_empty() => None,
            (true, true) => Some(true),
            (false, _) => Some(false),
            (true, false) => None,
        },
    }
}

/// The conditions under `not…`, as if they were not.
fn without_not(c: &Conditions) -> Conditions {
    Conditions {
        identities: c.not_identities.clone(),
        trust_domains: c.not_trust_domains.clone(),
        namespaces: c.not_namespaces.clone(),
        sites: c.not_sites.clone(),
        cidrs: c.not_cidrs.clone(),
        ports: c.not_ports.clone(),
        hosts: c.not_hosts.clone(),
        methods: c.not_methods.clone(),
        paths: c.not_paths.clone(),
        grpc: c.not_grpc.clone(),
        ..Conditions::default()
    }
}

fn naive_holds(c: &Conditions, f: &Facts) -> Option<bool> {
    let header = |m: &HeaderMatch| {
        let headers = f.http?.headers;
        let all = || headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        if all().any(|(name, _)| name != m.name && name.replace('_', "-") == m.name.replace('_', "-")) {
            return None;
        }
        let values: Vec<&str> = all().filter(|(name, _)| *name == m.name).map(|(_, value)| value).collect();
        match (values.as_slice(), m.any_of.is_empty()) {
            ([], _) => Some(false),
            (_, true) => Some(true),
            (values, false) => {
                let listed = |value: &str| m.any_of.iter().any(|v| v == value);
                let items = |value: &str| value.replace(';', ",").split(',').map(naive_item).collect::<Vec<_>>();
                let near = |item: &String| m.any_of.iter().any(|v| v.to_lowercase() == *item);
                let whole = values.iter().all(|v| listed(v));
                let none = !values.iter().any(|v| near(&v.to_lowercase()) || items(v).iter().any(near));
                if whole { Some(true) } else { none.then_some(false) }
            }
        }
    };
    let not_header = |m: &HeaderMatch| match f.http.map(|h| h.headers.contains_key(&m.name)) {
        Some(false) if !m.any_of.is_empty() => None,
        _ => header(m).map(|holds| !holds),
    };
    let mut all = naive_each(c, f);
    all.extend(naive_each(&without_not(c), f).into_iter().map(|holds| holds.map(|holds| !holds)));
    all.extend(c.headers.iter().map(header));
    all.extend(c.not_headers.iter().map(not_header));
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
        IdentityPattern::Wildcard(_) => {
            let (pattern, peer) = (pattern.to_string(), peer.to_string());
            let pairs: Vec<_> = pattern.split('/').zip(peer.split('/')).collect();
            pairs.len() == 7 && pairs.iter().all(|(wanted, is)| *wanted == "*" || wanted == is)
        }
    }
}

fn naive_method(listed: &str, method: &str) -> Option<bool> {
    if listed == method { Some(true) } else { (!listed.eq_ignore_ascii_case(method)).then_some(false) }
}

fn naive_item(item: &str) -> String {
    let item = item.trim().to_lowercase();
    if item.len() > 1 && item.starts_with('"') && item.ends_with('"') {
        item.trim_matches('"').to_owned()
    } else {
        item
    }
}

/// Hosts as they come, and how they are read; none: in more than one way.
pub(super) const HOSTS: [(&str, Option<&str>); 12] = [
    ("A.shop", Some("a.shop")),
    ("b.shop", Some("b.shop")),
    ("x.a.shop", Some("x.a.shop")),
    ("a.shop.:80", Some("a.shop")),
    ("a.shop:", Some("a.shop")),
    ("a.shop..", None),
    ("x..a.shop", None),
    (".a.shop", None),
    ("u@a.shop", None),
    ("[FD00:0::1]:80", Some("[fd00::1]")),
    ("010.0.0.1", None),
    ("10.0.0.1:80", Some("10.0.0.1")),
];

fn read_host(host: &str) -> Option<&'static str> {
    HOSTS.iter().find(|(raw, _)| *raw == host).unwrap().1
}

fn naive_host(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => exact == host,
        HostPattern::Suffix(suffix) => host.ends_with(suffix),
    }
}

fn naive_call<'a>(http: &HttpFacts<'a>) -> Option<&'a str> {
    let grpc = http.headers.get("content-type").is_some_and(|t| t == "application/grpc");
    let call = http.path.strip_prefix('/').filter(|call| ["a/b", "shop.Orders/Get", "shop.Orders/Put"].contains(call));
    call.filter(|_| grpc && http.method == "POST")
}

fn naive_grpc(pattern: &GrpcPattern, call: &str) -> bool {
    let wanted = pattern.to_string();
    wanted == call || call.split('/').next() == Some(wanted.as_str())
}

/// Paths as they come, and how apps may read them once they are normal; none: they have no normal form.
pub(super) const PATHS: [(&str, &[&str]); 23] = [
    ("/", &["/"]),
    ("/a", &["/a"]),
    ("/A", &["/A"]),
    ("/a/", &["/a/"]),
    ("/a/b", &["/a/b"]),
    ("/a/B/c", &["/a/B/c"]),
    ("/ab", &["/ab"]),
    ("/%61/b", &["/a/b"]),
    ("/a;v=1/b", &["/a;v=1/b", "/a/b"]),
    ("/a/../b", &["/b"]),
    ("/x/%2e%2e/a/./b", &["/a/b"]),
    ("//a", &["/a"]),
    ("/a/x%40y", &["/a/x@y"]),
    ("/a/x@y", &["/a/x@y"]),
    ("/a/x%3By", &["/a/x;y", "/a/x"]),
    ("/x/%c0%ae%c0%ae/a", &[]),
    ("/a/b%ff", &[]),
    ("/a%2fb", &[]),
    ("/../a", &[]),
    ("/a\\b", &[]),
    ("/a%00", &[]),
    ("/shop.Orders/Get", &["/shop.Orders/Get"]),
    ("/shop.Orders/Put", &["/shop.Orders/Put"]),
];

/// All readings of a path must agree.
fn naive_path(list: &[PathPattern], path: &str) -> Option<bool> {
    let (_, readings) = PATHS.iter().find(|(raw, _)| *raw == path).unwrap();
    let mut each =
        readings.iter().map(|reading| one_of(list.iter().map(|p| naive_path_pattern(&p.to_string(), reading))));
    let first = each.next()?;
    if each.all(|other| other == first) { first } else { None }
}

/// But for the case of letters and a `/` at the end, it cannot be told.
fn naive_path_pattern(pattern: &str, path: &str) -> Option<bool> {
    let small = |text: &str| text.to_lowercase();
    let bare = |text: &str| if text.len() > 1 { small(text.strip_suffix('/').unwrap_or(text)) } else { text.into() };
    let (exact, near) = match pattern.strip_suffix('*') {
        Some(prefix) if !pattern.contains('{') => {
            let below = |path: &str| small(path).starts_with(&small(prefix));
            (path.starts_with(prefix), below(path) || prefix.ends_with('/') && below(&format!("{path}/")))
        }
        _ if !pattern.contains('{') => (pattern == path, bare(pattern) == bare(path)),
        Some(_) => {
            let below = |path: &str| naive_template(&small(pattern), &small(path));
            (naive_template(pattern, path), below(path) || below(&format!("{path}/")))
        }
        None => (naive_template(pattern, path), naive_template(&bare(pattern), &bare(path))),
    };
    if exact { Some(true) } else { (!near).then_some(false) }
}

fn naive_template(pattern: &str, path: &str) -> bool {
    let (wanted, is): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    let one = |(wanted, is): (&&str, &&str)| if wanted.starts_with('{') { !is.is_empty() } else { wanted == is };
    match wanted.split_last() {
        Some((&"*", closed)) => is.len() > closed.len() && closed.iter().zip(&is).all(one),
        _ => is.len() == wanted.len() && wanted.iter().zip(&is).all(one),
    }
}

/// What refused, if anything did, and the rule it rests on, of those in `deny` or `allow`.
pub(super) fn naive(p: &PortPolicy, f: &Facts, audit: bool) -> (Option<Reason>, Option<u32>) {
    let ended = |r: &Rule| r.conditions.is_ok() && r.until_ms.is_some_and(|until| until <= f.now_ms);
    let counts = |r: &&Rule| (audit || r.mode == RuleMode::Enforce) && !ended(r);
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
    let closed =
        f.foreign || p.default_action == Action::Deny || (audit && p.allow.iter().any(|r| r.mode == RuleMode::Audit));
    (closed.then_some(Reason::NotAllowed), None)
}
