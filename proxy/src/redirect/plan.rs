//! Which packets are captured, as data. Pure: a scope in, rules out; `nftables.rs` and `iptables.rs` carry them out.
//!
//! Refuses nothing; it decides only what reaches the proxy. UDP never does: it passes, or is dropped and counted.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Exemption;
use super::scope::{InboundPorts, Scope, Udp};

/// The name of the table; one proxy captures in one network namespace.
pub const TABLE: &str = "isthmus";

/// Before `dstnat` (-100), where other programs' NAT of the same packets sits: the first translation of a connection
/// wins, and an app's traffic must come here under the address that the app meant.
pub(super) const PRIORITY: i32 = -110;

/// Ports of the proxy that others may reach directly: mesh, metrics, readiness. 15053 is bound to loopback, so that
/// what comes from elsewhere meets a closed port.
const OWN_PORTS: [u16; 4] = [15008, 15020, 15021, 15053];
const DNS: u16 = 53;

/// The rules, in order. `Display` is their text as `nft` would take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub outbound: Vec<Rule>,
    pub inbound: Vec<Rule>,
    /// Empty where UDP passes: then no packet goes through this chain.
    pub udp: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All of them.
    pub when: Vec<Condition>,
    pub action: Action,
    /// Shown by `nft list ruleset`, for whoever finds the rule there.
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Mark(u32),
    Uid(u32),
    /// It leaves by the loopback interface.
    ToLoopback,
    /// It came by the loopback interface.
    FromLoopback,
    /// The destination is an address of this host.
    ToThisHost,
    /// It is not.
    NotToThisHost,
    /// TCP to this port.
    Port(u16),
    UdpPort(u16),
    To(IpNet),
    Tcp,
    NotUdp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Left alone.
    Return,
    /// Taken to this port of the proxy.
    Redirect(u16),
    /// Counted, and goes nowhere.
    Drop,
}

impl Plan {
    /// The rules for `scope`.
    pub fn new(scope: &Scope) -> Plan {
        Plan { outbound: outbound(scope), inbound: inbound(scope), udp: udp(scope) }
    }
}

fn outbound(scope: &Scope) -> Vec<Rule> {
    let mut rules = not_ours(scope);
    let ports = tidy(&scope.exclude_outbound_ports);
    rules.extend(ports.into_iter().map(|port| leave(Condition::Port(port), "excludeOutboundPorts")));
    rules.extend(excluded_cidrs(scope));
    for uid in or_any(&tidy(&scope.include_uids)) {
        for cidr in or_any(&networks(&scope.include_outbound_cidrs)) {
            for port in or_any(&tidy(&scope.include_outbound_ports)) {
                let port = port.map_or(Condition::Tcp, Condition::Port);
                let when = [uid.map(Condition::Uid), cidr.map(Condition::To), Some(port)].into_iter().flatten();
                let action = Action::Redirect(scope.outbound_port);
                rules.push(Rule { when: when.collect(), action, why: "outbound" });
            }
        }
    }
    rules
}

fn inbound(scope: &Scope) -> Vec<Rule> {
    let mut rules = vec![
        leave(Condition::FromLoopback, "loopback"),
        leave(Condition::NotToThisHost, "forwarded, not for this host"),
    ];
    let own = tidy(&[&OWN_PORTS[..], &scope.own_ports].concat());
    let excluded = tidy(&scope.exclude_inbound_ports).into_iter().filter(|port| !own.contains(port));
    let excluded: Vec<Rule> = excluded.map(|port| leave(Condition::Port(port), "excludeInboundPorts")).collect();
    rules.extend(own.into_iter().map(|port| leave(Condition::Port(port), "the proxy's own port")));
    rules.extend(excluded);
    let take = |when, why| Rule { when: vec![when], action: Action::Redirect(scope.inbound_port), why };
    match &scope.inbound {
        InboundPorts::All => rules.push(take(Condition::Tcp, "inbound")),
        InboundPorts::Only(ports) => {
            rules.extend(tidy(ports).into_iter().map(|port| take(Condition::Port(port), "inbound, a service's port")));
        }
    }
    rules
}

/// Outgoing UDP, where it may only go to the resolvers.
fn udp(scope: &Scope) -> Vec<Rule> {
    let Udp::Drop { resolvers } = &scope.udp else { return Vec::new() };
    let mut rules = vec![leave(Condition::NotUdp, "not UDP")];
    rules.extend(not_ours(scope));
    let mut resolvers: Vec<IpAddr> = resolvers.iter().map(IpAddr::to_canonical).collect();
    resolvers.sort();
    resolvers.dedup();
    for resolver in resolvers {
        let when = vec![Condition::To(IpNet::from(resolver)), Condition::UdpPort(DNS)];
        rules.push(Rule { when, action: Action::Return, why: "a configured resolver" });
    }
    let ports = tidy(&scope.exclude_outbound_ports);
    rules.extend(ports.into_iter().map(|port| leave(Condition::UdpPort(port), "excludeOutboundPorts")));
    rules.extend(excluded_cidrs(scope));
    rules.push(Rule { when: Vec::new(), action: Action::Drop, why: "UDP cannot be carried by the mesh" });
    rules
}

/// What no rule for outgoing traffic may touch.
fn not_ours(scope: &Scope) -> Vec<Rule> {
    let exempt = match scope.exempt {
        Exemption::Mark(mark) => Condition::Mark(mark),
        Exemption::Uid(uid) => Condition::Uid(uid),
    };
    let mut rules = vec![
        leave(exempt, "the proxy's own"),
        leave(Condition::ToLoopback, "loopback"),
        leave(Condition::ToThisHost, "to this host itself"),
    ];
    rules.extend(tidy(&scope.exclude_uids).into_iter().map(|uid| leave(Condition::Uid(uid), "excludeUids")));
    rules
}

fn excluded_cidrs(scope: &Scope) -> impl Iterator<Item = Rule> {
    let cidrs = networks(&scope.exclude_outbound_cidrs).into_iter();
    cidrs.map(|cidr| leave(Condition::To(cidr), "excludeOutboundCidrs"))
}

fn leave(when: Condition, why: &'static str) -> Rule {
    Rule { when: vec![when], action: Action::Return, why }
}

/// An empty list of what to include is no restriction.
fn or_any<T: Copy>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
}

fn networks(cidrs: &[IpNet]) -> Vec<IpNet> {
    tidy(&cidrs.iter().map(IpNet::trunc).collect::<Vec<_>>())
}

/// Sorted and each once, so that the same configuration is the same rules.
fn tidy<T: Copy + Ord>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod plan_test;
