//! What left the mesh, on the proxy's own engine for it. What was not recorded is tried with every value that some rule
//! names, as in [`super::judge`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use isthmus_proto::flows::v1::{Departure, Transport};
use isthmus_proto::model::HostPattern;
use isthmus_proxy::state::TlsVersion;
use isthmus_proxy::state::egress::{Leaving, explain};
use isthmus_proxy::state::policy::Arrived;

use super::flows::tls_version;
use super::judge::{Found, Verdict};
use super::views::Callee;

/// No rule names it: TEST-NET-1 (RFC 5737) and a reserved top-level domain (RFC 2606).
const SOME_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SOME_HOST: &str = "not-recorded.invalid";

/// What the proxy of the workload would say of it, were its refusals carried out.
pub(super) fn judge(from: &Callee, left: &Departure) -> Verdict {
    let (hosts, addresses, ways) = (hosts(from, left), addresses(from, left), ways(left));
    let port = u16::try_from(left.port).unwrap_or(0);
    let say = |host: usize, address: usize, way: usize| {
        let to = SocketAddr::new(addresses[address], port);
        decide(from, &Leaving { to, host: hosts[host].as_deref(), arrived: ways[way] })
    };
    let (allowed, first) = say(0, 0, 0);
    let mut missing = BTreeSet::new();
    for host in 0..hosts.len() {
        for address in 0..addresses.len() {
            for way in 0..ways.len() {
                let here = say(host, address, way).0;
                let mut differs = |other: bool, name: &str| {
                    if here != other {
                        missing.insert(name.to_owned());
                    }
                };
                differs(say(0, address, way).0, "host");
                differs(say(host, 0, way).0, "address");
                differs(say(host, address, 0).0, "transport");
            }
        }
    }
    match (missing.is_empty(), allowed) {
        (false, _) => Verdict::CannotTell(missing),
        (true, true) => Verdict::Allowed(first),
        (true, false) => Verdict::Refused(first),
    }
}

fn decide(from: &Callee, leaving: &Leaving<'_>) -> (bool, Found) {
    let verdict = from.egress.decide(leaving);
    let namespace = from.workload.split_once('/').map_or("", |(namespace, _)| namespace);
    let found = Found {
        reason: verdict.refused,
        sentence: verdict
            .refused
            .map_or_else(|| "allowed".to_owned(), |reason| format!("{reason}: {}", explain::because(reason, &verdict))),
        policy: verdict.policy.as_deref().map(str::to_owned),
        rule: verdict.rule,
        would_allow: verdict.refused.and_then(|reason| explain::yaml_that_would_allow(reason, leaving, namespace)),
        audit: verdict.audit.as_ref().map(|(reason, policy)| (*reason, policy.as_deref().map(str::to_owned))),
    };
    (verdict.refused.is_none(), found)
}

/// Names that it may have shown, none among them.
fn hosts(from: &Callee, left: &Departure) -> Vec<Option<String>> {
    if left.read {
        return vec![(!left.host.is_empty()).then(|| left.host.clone())];
    }
    let named = from.egress_rules().flat_map(|rule| rule.hosts.iter().flatten()).map(|pattern| match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("any{suffix}"),
    });
    distinct([None, Some(SOME_HOST.to_owned())].into_iter().chain(named.map(Some)))
}

fn addresses(from: &Callee, left: &Departure) -> Vec<IpAddr> {
    match left.address.parse() {
        Ok(ip) => vec![ip],
        Err(_) => {
            let named = from.egress_rules().flat_map(|rule| rule.cidrs.iter().flatten()).map(|range| range.network());
            distinct([SOME_ADDRESS].into_iter().chain(named))
        }
    }
}

fn ways(left: &Departure) -> Vec<Arrived> {
    let tls = |version| Arrived::AppTls { version, declared: true };
    match left.transport() {
        Transport::Tls => vec![tls(tls_version(&left.tls_version))],
        Transport::Plaintext | Transport::Mesh => vec![Arrived::Plain],
        Transport::Unspecified => vec![Arrived::Plain, tls(Some(TlsVersion::V1_2)), tls(Some(TlsVersion::V1_3))],
    }
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

/// `api.example:443`, or the address where no name was seen.
pub(crate) fn place(left: &Departure) -> String {
    let of = match (left.host.as_str(), left.address.as_str()) {
        ("", "") => "many addresses",
        ("", address) => address,
        (host, _) => host,
    };
    match of.contains(':') {
        true => format!("[{of}]:{}", left.port),
        false => format!("{of}:{}", left.port),
    }
}

pub(crate) fn transport(left: &Departure) -> String {
    match (left.transport(), left.tls_version.as_str()) {
        (Transport::Unspecified, _) => "not read".to_owned(),
        (Transport::Tls, "") => "TLS".to_owned(),
        (Transport::Tls, version) => format!("TLS {version}"),
        (Transport::Plaintext | Transport::Mesh, _) => "plaintext".to_owned(),
    }
}

#[cfg(test)]
#[path = "departures_test.rs"]
mod departures_test;
