//! The proxy's own engine on traffic of which not everything is known. What is not known is tried: every value that some
//! rule names, and one that none does. If the engine says the same to all of them, it does not matter; if not, nobody can
//! tell, and what would have to be known is named.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{Conditions, HostPattern, PortPolicy};
use isthmus_proxy::reason::Reason;
use isthmus_proxy::state::policy::{self, Arrived, Decision, Facts, HttpFacts, explain};

use super::paths;
use super::views::{Callee, Views};

/// More combinations than this are not tried.
const MOST: usize = 4_096;
/// No rule names it: TEST-NET-1 (RFC 5737) and a reserved top-level domain (RFC 2606).
const SOME_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SOME_HOST: &str = "not-recorded.invalid";
const SOME_VALUE: &str = "not-recorded";

/// Traffic. `None` inside `http`: not known.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) peer: Option<SpiffeId>,
    /// `None`: not known.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) arrived: Arrived,
    /// `None`: known to be no HTTP.
    pub(crate) http: Option<AskedHttp>,
    pub(crate) now_ms: i64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct AskedHttp {
    pub(crate) method: Option<String>,
    /// A path, or a template of one; see [`paths`].
    pub(crate) path: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) headers: Option<HeaderMap>,
}

/// What the engine says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Allowed(Found),
    Refused(Found),
    /// What would have to be known, by name.
    CannotTell(BTreeSet<String>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) reason: Option<Reason>,
    pub(crate) sentence: String,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<u32>,
    /// The policy that would let exactly this through.
    pub(crate) would_allow: Option<String>,
    /// What policies in audit mode say of it.
    pub(crate) audit: Option<(Reason, Option<String>)>,
}

/// One value for everything.
#[derive(Clone, Copy)]
struct Choice([usize; 5]);

/// In the order of a [`Choice`].
const ATTRIBUTES: [&str; 5] = ["caller address", "method", "path", "host", "headers"];

struct Candidates {
    ips: Vec<IpAddr>,
    methods: Vec<String>,
    paths: Vec<String>,
    hosts: Vec<String>,
    headers: Vec<HeaderMap>,
}

/// What the proxy of `callee` would say, were its refusals carried out.
pub(crate) fn judge(views: &Views, callee: &Callee, asked: &Asked) -> Verdict {
    let candidates = Candidates::of(views, callee, asked);
    let lengths = candidates.lengths();
    let combinations: usize = lengths.iter().product();
    let unknown = || {
        let open = ATTRIBUTES.iter().zip(lengths).filter(|(_, length)| *length > 1);
        open.map(|(name, _)| (*name).to_owned()).collect()
    };
    if combinations > MOST {
        return Verdict::CannotTell(unknown());
    }
    let all: Vec<_> = (0..combinations).map(|n| Choice::number(n, lengths)).collect();
    let found: Vec<_> = all.iter().map(|choice| candidates.decide(views, callee, asked, *choice)).collect();
    let (allowed, first) = &found[0];
    if found.iter().all(|(other, _)| other == allowed) {
        return if *allowed { Verdict::Allowed(first.clone()) } else { Verdict::Refused(first.clone()) };
    }
    let mut missing = BTreeSet::new();
    let mut stride = 1;
    for (attribute, length) in lengths.into_iter().enumerate() {
        // Each choice that has the first value there, beside those that differ from it only there.
        for at in (0..combinations).filter(|at| all[*at].0[attribute] == 0) {
            let others = (1..length).map(|value| at + value * stride);
            for other in others.filter(|other| found[*other].0 != found[at].0) {
                missing.extend(candidates.names(attribute, all[other]));
            }
        }
        stride *= length;
    }
    Verdict::CannotTell(if missing.is_empty() { unknown() } else { missing })
}

impl Choice {
    /// The first attribute turns fastest.
    fn number(mut number: usize, lengths: [usize; 5]) -> Choice {
        Choice(lengths.map(|length| {
            let digit = number % length;
            number /= length;
            digit
        }))
    }
}

impl Candidates {
    fn of(views: &Views, callee: &Callee, asked: &Asked) -> Candidates {
        let conditions = callee.rules(asked.port).map(conditions).unwrap_or_default();
        let http = asked.http.clone().unwrap_or_default();
        let known = |one: Option<String>, all: Vec<String>| match (one, asked.http.is_some()) {
            (Some(one), _) => vec![one],
            (None, true) => all,
            (None, false) => vec![String::new()],
        };
        let paths = match (&http.path, asked.http.is_some()) {
            (Some(path), _) => paths::instances(path, &conditions),
            (None, true) => paths::instances(paths::OTHER, &conditions),
            (None, false) => vec![String::new()],
        };
        let headers = match (http.headers, asked.http.is_some()) {
            (Some(headers), _) => vec![headers],
            (None, true) => headers_of(&conditions),
            (None, false) => vec![HeaderMap::new()],
        };
        Candidates {
            ips: asked.ip.map_or_else(|| addresses_of(views, &conditions), |ip| vec![ip]),
            methods: known(http.method, methods_of(&conditions)),
            hosts: known(http.host, hosts_of(&conditions)),
            paths,
            headers,
        }
    }

    fn lengths(&self) -> [usize; 5] {
        [self.ips.len(), self.methods.len(), self.paths.len(), self.hosts.len(), self.headers.len()]
    }

    /// What would have to be known to tell this choice from the first: of headers, which.
    fn names(&self, attribute: usize, choice: Choice) -> Vec<String> {
        match ATTRIBUTES[attribute] {
            "headers" => self.headers[choice.0[attribute]].keys().map(|name| format!("header {name}")).collect(),
            name => vec![name.to_owned()],
        }
    }

    fn decide(&self, views: &Views, callee: &Callee, asked: &Asked, choice: Choice) -> (bool, Found) {
        let port = callee.port(asked.port);
        let Choice([ip, method, path, host, headers]) = choice;
        let http = asked.http.as_ref().map(|_| HttpFacts {
            host: Some(&self.hosts[host]),
            method: &self.methods[method],
            path: &self.paths[path],
            headers: &self.headers[headers],
        });
        let facts = Facts {
            peer: asked.peer.as_ref(),
            foreign: asked.peer.as_ref().is_some_and(|peer| *peer.trust_domain() != views.trust_domain),
            peer_ip: self.ips[ip],
            peer_site: views.site_of(self.ips[ip]),
            behind: views.behind(callee, asked.peer.as_ref(), self.ips[ip]),
            port: asked.port,
            now_ms: asked.now_ms,
            http,
        };
        let decision = match policy::check_transport(&port.policy, asked.arrived) {
            Ok(()) => policy::decide(&port.policy, &facts),
            Err(reason) => Decision { allowed: false, reason: Some(reason), policy: None, rule: None, audit: None },
        };
        let service = port.services.first();
        let found = Found {
            reason: decision.reason,
            sentence: explain::sentence(&decision),
            policy: decision.policy.map(str::to_owned),
            rule: decision.rule,
            would_allow: service.and_then(|service| explain::yaml_that_would_allow(&decision, &facts, service)),
            audit: decision.audit.map(|finding| (finding.reason, finding.policy.map(str::to_owned))),
        };
        (decision.allowed, found)
    }
}

fn conditions(policy: &PortPolicy) -> Vec<&Conditions> {
    policy.deny.iter().chain(&policy.allow).filter_map(|rule| rule.conditions.as_ref().ok()).collect()
}

fn addresses_of(views: &Views, conditions: &[&Conditions]) -> Vec<IpAddr> {
    let by_site = conditions.iter().any(|c| c.sites.is_some() || c.not_sites.is_some());
    let sites = views.site_addresses().filter(|_| by_site);
    let named = conditions.iter().flat_map(|c| c.cidrs.iter().chain(&c.not_cidrs)).flatten();
    distinct([SOME_ADDRESS].into_iter().chain(named.map(|range| range.network())).chain(sites))
}

fn methods_of(conditions: &[&Conditions]) -> Vec<String> {
    let named = conditions.iter().flat_map(|c| c.methods.iter().chain(&c.not_methods)).flatten().cloned();
    distinct(["GET".to_owned(), "NOT-RECORDED".to_owned()].into_iter().chain(named))
}

fn hosts_of(conditions: &[&Conditions]) -> Vec<String> {
    let named = conditions.iter().flat_map(|c| c.hosts.iter().chain(&c.not_hosts)).flatten();
    let host = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("any{suffix}"),
    };
    distinct([SOME_HOST.to_owned()].into_iter().chain(named.map(host)))
}

/// None at all; then each header that some rule names, with each of its values and with another; then, for each rule that
/// asks for several, all of them at once.
fn headers_of(conditions: &[&Conditions]) -> Vec<HeaderMap> {
    let mut all = vec![HeaderMap::new()];
    let mut add = |pairs: &[(&str, &str)]| {
        let read =
            |(name, value): &(&str, &str)| Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?));
        let map: HeaderMap = pairs.iter().filter_map(read).collect();
        if !all.contains(&map) {
            all.push(map);
        }
    };
    for condition in conditions {
        let mut together = Vec::new();
        if condition.grpc.is_some() || condition.not_grpc.is_some() {
            add(&[("content-type", "application/grpc")]);
            together.extend(condition.grpc.is_some().then_some(("content-type", "application/grpc")));
        }
        for header in condition.headers.iter().chain(&condition.not_headers) {
            add(&[(header.name.as_str(), SOME_VALUE)]);
            header.any_of.iter().for_each(|value| add(&[(header.name.as_str(), value.as_str())]));
        }
        for header in &condition.headers {
            together.push((header.name.as_str(), header.any_of.first().map_or(SOME_VALUE, String::as_str)));
        }
        add(&together);
    }
    all
}

fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

#[cfg(test)]
#[path = "judge_test.rs"]
mod judge_test;
