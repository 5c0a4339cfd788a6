//! Conditions against facts, in three values: holds, does not hold, cannot be told.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderMap;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{HeaderMatch, HostPattern};

use super::compile::{CompiledConditions, Identities};
use super::path::PathReadings;
use super::{Facts, HttpFacts};

/// Does the condition hold?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// This traffic lacks what is asked about, or it can be read in two ways that differ.
    Unknown,
}

/// Whose rules are asked, which is how *unknown* counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Allow,
    Deny,
}

/// What some rule of a policy asks for, and is not made ready where none does.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    pub(super) host: bool,
    pub(super) path: bool,
}

/// The facts, read once for all rules.
pub(super) struct Known<'a> {
    facts: &'a Facts<'a>,
    ip: IpAddr,
    http: Option<KnownHttp<'a>>,
}

struct KnownHttp<'a> {
    host: Option<Cow<'a, str>>,
    method: &'a str,
    /// In upper case.
    folded_method: Cow<'a, str>,
    path: PathReadings<'a>,
    headers: &'a HeaderMap,
}

impl<'a> Known<'a> {
    pub(super) fn of(facts: &'a Facts<'a>, needs: Needs) -> Self {
        let http = facts.http.as_ref().map(|h: &'a HttpFacts<'a>| KnownHttp {
            host: h.host.filter(|_| needs.host).and_then(bare_host),
            method: h.method,
            folded_method: upper_case(h.method),
            path: if needs.path { PathReadings::of(h.path) } else { PathReadings::Ambiguous },
            headers: h.headers,
        });
        Self { facts, ip: facts.peer_ip.to_canonical(), http }
    }

    pub(super) fn peer(&self) -> Option<&'a SpiffeId> {
        self.facts.peer
    }

    pub(super) fn site(&self) -> Option<&'a str> {
        self.facts.peer_site
    }

    pub(super) fn folded_method(&self) -> Option<&str> {
        self.http.as_ref().map(|http| http.folded_method.as_ref())
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.http.as_ref()?.host.as_deref()
    }

    /// None, where the path is not known.
    pub(super) fn with_path_readings(&self, take: impl FnOnce(&[&[u8]])) {
        match self.http.as_ref().map(|http| &http.path) {
            None | Some(PathReadings::Ambiguous) => take(&[]),
            Some(PathReadings::Clear(path)) => take(&[path.as_bytes()]),
            Some(PathReadings::Several(readings)) => take(&readings.each_ref().map(|reading| reading.as_ref())),
        }
    }
}

fn upper_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_lowercase()) { text.to_ascii_uppercase().into() } else { text.into() }
}

impl CompiledConditions {
    /// Allow: every condition holds. Deny: none is known not to hold.
    pub(super) fn match_for(&self, side: Side, facts: &Known) -> bool {
        match side {
            Side::Allow => self.all(facts, |holds| holds == Holds::Yes),
            Side::Deny => self.all(facts, |holds| holds != Holds::No),
        }
    }

    /// Cheap conditions first.
    fn all(&self, known: &Known, good: impl Fn(Holds) -> bool) -> bool {
        let (facts, http) = (known.facts, known.http.as_ref());
        present(&self.ports, |ports| yes(ports.contains(&facts.port)), &good)
            && present(&self.identities, |ids| told(facts.peer, |id| ids.hold(id)), &good)
            && present(&self.namespaces, |set| told(facts.peer, |id| yes(set.contains(id.namespace()))), &good)
            && present(&self.sites, |set| told(facts.peer_site, |site| yes(set.contains(site))), &good)
            && present(&self.cidrs, |list| yes(list.iter().any(|range| range.contains(&known.ip))), &good)
            && present(&self.methods, |list| told(http, |h| method_holds(list, h.method)), &good)
            && present(&self.hosts, |list| told(http.and_then(|h| h.host.as_deref()), |h| host_holds(list, h)), &good)
            && present(&self.paths, |list| told(http, |h| h.path.hold(list)), &good)
            && self.headers.iter().all(|m| good(told(http, |h| header_holds(m, h.headers))))
    }
}

/// A condition that is not there holds.
fn present<T>(condition: &Option<T>, holds: impl Fn(&T) -> Holds, good: impl Fn(Holds) -> bool) -> bool {
    condition.as_ref().is_none_or(|c| good(holds(c)))
}

fn yes(holds: bool) -> Holds {
    if holds { Holds::Yes } else { Holds::No }
}

fn told<T>(fact: Option<T>, holds: impl Fn(T) -> Holds) -> Holds {
    fact.map_or(Holds::Unknown, holds)
}

impl Identities {
    fn hold(&self, id: &SpiffeId) -> Holds {
        yes(self.exact.contains(id) || self.prefixes.iter().any(|prefix| id.as_str().starts_with(prefix.as_str())))
    }
}

/// Methods are case-sensitive (RFC 9110 §9.1), but some apps fold them: another spelling of a listed one is unknown.
fn method_holds(list: &[String], method: &str) -> Holds {
    if list.iter().any(|m| m == method) {
        Holds::Yes
    } else if list.iter().any(|m| m.eq_ignore_ascii_case(method)) {
        Holds::Unknown
    } else {
        Holds::No
    }
}

/// Lower case, without port and final dot. `None` for what is no host at all.
fn bare_host(authority: &str) -> Option<Cow<'_, str>> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(allowed) {
        return None;
    }
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() })
}

fn host_holds(list: &[HostPattern], host: &str) -> Holds {
    yes(list.iter().any(|pattern| match pattern {
        HostPattern::Exact(exact) => exact == host,
        HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
    }))
}

/// A request without the header does not satisfy the condition, in allow and deny alike: it is known not to be there.
/// Repeated headers, and lists in one header, that hold a listed value beside another are unknown.
fn header_holds(condition: &HeaderMatch, headers: &HeaderMap) -> Holds {
    let mut values = headers.get_all(condition.name.as_str()).iter().peekable();
    if values.peek().is_none() || condition.any_of.is_empty() {
        return yes(values.peek().is_some());
    }
    let listed = |value: &[u8]| condition.any_of.iter().any(|v| v.as_bytes() == value);
    let (mut whole, mut part, mut other) = (false, false, false);
    for value in values {
        match value.as_bytes() {
            value if listed(value) => whole = true,
            value if value.split(|b| *b == b',').any(|item| listed(item.trim_ascii())) => part = true,
            _ => other = true,
        }
    }
    match (whole, part, other) {
        (true, false, false) => Holds::Yes,
        (false, false, _) => Holds::No,
        _ => Holds::Unknown,
    }
}
