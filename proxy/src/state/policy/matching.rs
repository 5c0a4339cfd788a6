//! Conditions against facts, in three values: holds, does not hold, cannot be told.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use ipnet::IpNet;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{GrpcPattern, HeaderMatch, HostPattern, Template, is_numeric};

use super::compile::{CompiledConditions, Half, Identities};
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
    pub(super) grpc: bool,
    pub(super) method: bool,
    pub(super) headers: bool,
    pub(super) site: bool,
    pub(super) address: bool,
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
    /// `package.Service/Method`, of a gRPC call.
    grpc: Option<&'a str>,
    headers: &'a HeaderMap,
    /// Some header's name has a `_`.
    underscored: bool,
}

impl<'a> Known<'a> {
    pub(super) fn of(facts: &'a Facts<'a>, needs: Needs) -> Self {
        let http = facts.http.as_ref().map(|h: &'a HttpFacts<'a>| KnownHttp {
            host: h.host.filter(|_| needs.host).and_then(bare_host),
            method: h.method,
            folded_method: if needs.method { upper_case(h.method) } else { h.method.into() },
            path: if needs.path { PathReadings::of(h.path) } else { PathReadings::Ambiguous },
            grpc: if needs.grpc { grpc_call(h) } else { None },
            headers: h.headers,
            underscored: needs.headers && h.headers.keys().any(|name| name.as_str().contains('_')),
        });
        Self { facts, ip: facts.peer_ip.to_canonical(), http }
    }

    pub(super) fn peer(&self) -> Option<&'a SpiffeId> {
        self.facts.peer
    }

    fn http(&self) -> Option<&KnownHttp<'a>> {
        self.http.as_ref()
    }

    pub(super) fn trust_domain(&self) -> Option<&'a str> {
        self.facts.peer.map(|id| id.trust_domain().as_str())
    }

    pub(super) fn grpc(&self) -> Option<&'a str> {
        self.http.as_ref()?.grpc
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.facts.now_ms
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.facts.foreign
    }

    /// Namespaces are ours: an identity of another trust domain is in none of them, whatever its path says.
    pub(super) fn namespace(&self) -> Option<&'a str> {
        self.facts.peer.filter(|_| !self.facts.foreign).map(|id| id.namespace())
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

    /// The caller's addresses, each of which may be its own; and whether it is known that it has no other.
    pub(super) fn each_ip(&self, mut each: impl FnMut(IpAddr)) -> bool {
        match self.facts.behind {
            None => each(self.ip),
            Some(registered) if self.facts.peer.is_some() => registered.iter().for_each(|ip| each(ip.to_canonical())),
            Some(_) => each(self.ip),
        }
        self.facts.behind.is_none_or(|registered| self.facts.peer.is_some() && !registered.is_empty())
    }

    /// A caller's address is that of the transport's other end. Where that is what its site is seen as, it is what is
    /// registered of its identity there: where the rule means some of those and not others, nobody can tell. Who has no
    /// identity is at least known to come by way of the address that is seen.
    fn cidrs_hold(&self, ranges: &[IpNet]) -> Holds {
        let holds = |ip: IpAddr| ranges.iter().any(|range| range.contains(&ip));
        match (self.facts.behind, self.facts.peer) {
            (None, _) => yes(holds(self.ip)),
            (Some(_), None) if holds(self.ip) => Holds::Yes,
            (Some([]), _) | (_, None) => Holds::Unknown,
            (Some(registered), Some(_)) => {
                let held = registered.iter().filter(|ip| holds(ip.to_canonical())).count();
                if held == registered.len() {
                    Holds::Yes
                } else if held == 0 {
                    Holds::No
                } else {
                    Holds::Unknown
                }
            }
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.facts.port
    }

    pub(super) fn headers(&self) -> Option<&'a HeaderMap> {
        self.http.as_ref().map(|http| http.headers)
    }

    /// Some header's name has a `_`, which some apps take for a `-`.
    pub(super) fn has_underscored(&self) -> bool {
        self.http.as_ref().is_some_and(|http| http.underscored)
    }

    /// Each way to read the path, in small letters where `fold`. Returns whether the path is known.
    pub(super) fn each_path_reading(&self, fold: bool, mut each: impl FnMut(&[u8])) -> bool {
        let mut one = |path: &[u8]| if fold { folded(path, &mut each) } else { each(path) };
        match self.http.as_ref().map(|http| &http.path) {
            None | Some(PathReadings::Ambiguous) => return false,
            Some(PathReadings::Clear(path)) => one(path.as_bytes()),
            Some(PathReadings::Several(readings)) => readings.iter().for_each(|reading| one(reading)),
        }
        true
    }
}

/// Texts as long as this are folded on the stack.
const SHORT: usize = 256;

pub(super) fn folded(text: &[u8], then: impl FnOnce(&[u8])) {
    if !text.iter().any(u8::is_ascii_uppercase) {
        return then(text);
    }
    let mut short = [0; SHORT];
    match short.get_mut(..text.len()) {
        Some(short) => {
            short.copy_from_slice(text);
            short.make_ascii_lowercase();
            then(short);
        }
        None => then(&text.to_ascii_lowercase()),
    }
}

/// A call as gRPC's HTTP/2 mapping writes it: POST, `application/grpc…`, and `/Service/Method` without anything that
/// could be read in two ways. Everything else is no gRPC, and its service unknown. gRPC-Web is another protocol.
fn grpc_call<'a>(http: &HttpFacts<'a>) -> Option<&'a str> {
    let mut types = http.headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else { return None };
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc")?;
    if http.method != "POST" || !matches!(rest.first(), None | Some(b'+' | b';' | b' ')) {
        return None;
    }
    let call = http.path.strip_prefix('/')?;
    let (service, method) = call.split_once('/')?;
    // Names in the sense of protobuf: `..` is none.
    let name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (service.split('.').all(name) && name(method)).then_some(call)
}

fn upper_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_lowercase()) { text.to_ascii_uppercase().into() } else { text.into() }
}

impl CompiledConditions {
    /// Allow: every condition holds. Deny: none is known not to hold.
    pub(super) fn match_for(&self, side: Side, facts: &Known) -> bool {
        let good = match side {
            Side::Allow => |holds: Holds| holds == Holds::Yes,
            Side::Deny => |holds: Holds| holds != Holds::No,
        };
        self.asked.all(facts, good) && (!self.has_not || self.not.none(facts, good))
    }
}

impl Half {
    /// Every condition that is there is good.
    fn all(&self, known: &Known, good: impl Fn(Holds) -> bool) -> bool {
        self.each(known, &good) && self.headers.iter().all(|m| good(told(known.http(), |h| header_holds(m, h))))
    }

    /// The opposite of every condition that is there is good. Unknown has no opposite. Of a header that is not there
    /// nobody can say that its value is another one; that it is not there can be said.
    fn none(&self, known: &Known, good: impl Fn(Holds) -> bool) -> bool {
        let header = |m: &HeaderMatch, http: &KnownHttp| {
            if !m.any_of.is_empty() && !http.headers.contains_key(&m.name) {
                Holds::Unknown
            } else {
                header_holds(m, http)
            }
        };
        self.each(known, |holds| good(holds.opposite()))
            && self.headers.iter().all(|m| good(told(known.http(), |h| header(m, h)).opposite()))
    }

    /// Cheap conditions first; headers are for the caller.
    fn each(&self, known: &Known, good: impl Fn(Holds) -> bool) -> bool {
        let (facts, http) = (known.facts, known.http());
        present(&self.ports, |ports| yes(ports.contains(&facts.port)), &good)
            && present(&self.identities, |ids| told(facts.peer, |id| ids.hold(id)), &good)
            && present(&self.namespaces, |set| told(known.namespace(), |name| yes(set.contains(name))), &good)
            && present(&self.trust_domains, |set| told(known.trust_domain(), |td| yes(set.contains(td))), &good)
            && present(&self.sites, |set| told(facts.peer_site, |site| yes(set.contains(site))), &good)
            && present(&self.cidrs, |list| known.cidrs_hold(list), &good)
            && present(&self.methods, |list| told(http, |h| method_holds(list, h.method)), &good)
            && present(&self.hosts, |list| told(known.host(), |h| host_holds(list, h)), &good)
            && present(&self.paths, |list| told(http, |h| h.path.hold(list)), &good)
            && present(&self.grpc, |list| told(known.grpc(), |call| grpc_holds(list, call)), &good)
    }
}

impl Holds {
    fn opposite(self) -> Holds {
        match self {
            Holds::Yes => Holds::No,
            Holds::No => Holds::Yes,
            Holds::Unknown => Holds::Unknown,
        }
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
        let text = id.as_str();
        let wild = |template: &Template| template.matches(text.as_bytes(), |written, part| written == part);
        yes(self.exact.contains(id)
            || self.prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()))
            || self.wildcards.iter().any(wild))
    }
}

fn grpc_holds(list: &[GrpcPattern], call: &str) -> Holds {
    yes(list.iter().any(|pattern| match pattern {
        GrpcPattern::Method(method) => method == call,
        GrpcPattern::Service(service) => call.strip_prefix(service.as_str()).is_some_and(|rest| rest.starts_with('/')),
    }))
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

/// Lower case, without port and final dot; an address as it is usually written. `None` for what is no host at all, or one
/// that readers differ about: an empty label, `010.0.0.1`.
fn bare_host(authority: &str) -> Option<Cow<'_, str>> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    };
    if let Some(address) = host.strip_prefix('[') {
        let ip: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{ip}]").into());
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut before = b'.';
    for byte in host.bytes() {
        let allowed = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && before != b'.';
        if !allowed {
            return None;
        }
        before = byte;
    }
    if before == b'.' || is_numeric(host) && host.parse::<Ipv4Addr>().is_err() {
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
/// Where a listed value is said beside another (the header is repeated, a list, has parameters or quotes), or in another
/// case, it is unknown; so it is where the name is spelled with `_` for `-`: some apps take the two for one.
fn header_holds(condition: &HeaderMatch, http: &KnownHttp) -> Holds {
    if (http.underscored || condition.name.contains('_')) && is_spelled_otherwise(&condition.name, http.headers) {
        return Holds::Unknown;
    }
    let mut values = http.headers.get_all(condition.name.as_str()).iter().peekable();
    if values.peek().is_none() || condition.any_of.is_empty() {
        return yes(values.peek().is_some());
    }
    let listed = |value: &[u8]| condition.any_of.iter().any(|v| v.as_bytes() == value);
    let nearly = |value: &[u8]| condition.any_of.iter().any(|v| v.as_bytes().eq_ignore_ascii_case(value));
    let (mut whole, mut part, mut other) = (false, false, false);
    for value in values {
        match value.as_bytes() {
            value if listed(value) => whole = true,
            value if nearly(value) || header_items(value).any(nearly) => part = true,
            _ => other = true,
        }
    }
    match (whole, part, other) {
        (true, false, false) => Holds::Yes,
        (false, false, _) => Holds::No,
        _ => Holds::Unknown,
    }
}

/// What stands between `,` and `;`, without quotes (RFC 9110 §5.6): an item of a list, a value before its parameters.
pub(super) fn header_items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| matches!(b, b',' | b';')).map(|item| {
        let item = item.trim_ascii();
        item.strip_prefix(b"\"").and_then(|item| item.strip_suffix(b"\"")).unwrap_or(item)
    })
}

fn is_spelled_otherwise(name: &str, headers: &HeaderMap) -> bool {
    let dash = |byte| if byte == b'_' { b'-' } else { byte };
    headers.keys().any(|key| {
        let key = key.as_str();
        key.len() == name.len() && key != name && key.bytes().map(dash).eq(name.bytes().map(dash))
    })
}
