//! Which packets are captured, as data. Pure: configuration in, rules out; `nftables.rs` carries them out.
//!
//! Refuses nothing; it decides only what reaches the proxy. UDP is not captured.

use std::fmt;

use ipnet::IpNet;

use super::Exemption;

/// The name of the table; one proxy captures in one network namespace.
pub const TABLE: &str = "isthmus";

/// Before `dstnat` (-100), where other programs' NAT of the same packets sits: the first translation of a connection
/// wins, and an app's traffic must come here under the address that the app meant.
pub(super) const PRIORITY: i32 = -110;

/// Ports of the proxy that others may reach directly: mesh, metrics, readiness. 15053 is bound to loopback, so that
/// what comes from elsewhere meets a closed port.
const OWN_PORTS: [u16; 4] = [15008, 15020, 15021, 15053];

/// What of the inbound traffic is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboundPorts {
    /// Every TCP port but the excluded ones.
    All,
    /// These only: a VM whose other ports are none of the mesh's business.
    Only(Vec<u16>),
}

/// What to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub exempt: Exemption,
    /// Where the outbound listener is.
    pub outbound_port: u16,
    /// Where the inbound listener is.
    pub inbound_port: u16,
    /// The proxy's ports that others may reach, in addition to the standard ones.
    pub own_ports: Vec<u16>,
    pub inbound: InboundPorts,
    pub exclude_inbound_ports: Vec<u16>,
    pub exclude_outbound_ports: Vec<u16>,
    pub exclude_outbound_cidrs: Vec<IpNet>,
}

/// The rules, in order. `Display` is their text as `nft` would take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub outbound: Vec<Rule>,
    pub inbound: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub when: Condition,
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
    Port(u16),
    To(IpNet),
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Left alone.
    Return,
    /// Taken to this port of the proxy.
    Redirect(u16),
}

impl Plan {
    /// The rules for `scope`.
    pub fn new(scope: &Scope) -> Plan {
        Plan { outbound: outbound(scope), inbound: inbound(scope) }
    }
}

fn outbound(scope: &Scope) -> Vec<Rule> {
    let exempt = match scope.exempt {
        Exemption::Mark(mark) => Condition::Mark(mark),
        Exemption::Uid(uid) => Condition::Uid(uid),
    };
    let mut rules = vec![
        leave(exempt, "the proxy's own"),
        leave(Condition::ToLoopback, "loopback"),
        leave(Condition::ToThisHost, "to this host itself"),
    ];
    let ports = tidy(&scope.exclude_outbound_ports);
    rules.extend(ports.into_iter().map(|port| leave(Condition::Port(port), "excludeOutboundPorts")));
    let mut cidrs: Vec<IpNet> = scope.exclude_outbound_cidrs.iter().map(IpNet::trunc).collect();
    cidrs.sort();
    cidrs.dedup();
    rules.extend(cidrs.into_iter().map(|cidr| leave(Condition::To(cidr), "excludeOutboundCidrs")));
    rules.push(take(Condition::Tcp, scope.outbound_port, "outbound"));
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
    match &scope.inbound {
        InboundPorts::All => rules.push(take(Condition::Tcp, scope.inbound_port, "inbound")),
        InboundPorts::Only(ports) => {
            let take_port = |port| take(Condition::Port(port), scope.inbound_port, "inbound, a service's port");
            rules.extend(tidy(ports).into_iter().map(take_port));
        }
    }
    rules
}

fn leave(when: Condition, why: &'static str) -> Rule {
    Rule { when, action: Action::Return, why }
}

fn take(when: Condition, port: u16, why: &'static str) -> Rule {
    Rule { when, action: Action::Redirect(port), why }
}

/// Sorted and each once, so that the same configuration is the same rules.
fn tidy(ports: &[u16]) -> Vec<u16> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (name, hook, rules) in [("outbound", "output", &self.outbound), ("inbound", "prerouting", &self.inbound)] {
            writeln!(f, "\tchain {name} {{")?;
            writeln!(f, "\t\ttype nat hook {hook} priority {PRIORITY}; policy accept;")?;
            rules.iter().try_for_each(|rule| writeln!(f, "\t\t{rule}"))?;
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.when)?;
        match self.action {
            Action::Return => f.write_str("return")?,
            Action::Redirect(port) => write!(f, "redirect to :{port}")?,
        }
        write!(f, " comment \"{}\"", self.why)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Mark(mark) => write!(f, "meta mark 0x{mark:08x}"),
            Condition::Uid(uid) => write!(f, "meta skuid {uid}"),
            Condition::ToLoopback => f.write_str("oifname \"lo\""),
            Condition::FromLoopback => f.write_str("iifname \"lo\""),
            Condition::ToThisHost => f.write_str("fib daddr type local"),
            Condition::NotToThisHost => f.write_str("fib daddr type != local"),
            Condition::Port(port) => write!(f, "tcp dport {port}"),
            Condition::To(IpNet::V4(cidr)) if cidr.prefix_len() == 32 => write!(f, "ip daddr {}", cidr.addr()),
            Condition::To(IpNet::V6(cidr)) if cidr.prefix_len() == 128 => write!(f, "ip6 daddr {}", cidr.addr()),
            Condition::To(IpNet::V4(cidr)) => write!(f, "ip daddr {cidr}"),
            Condition::To(IpNet::V6(cidr)) => write!(f, "ip6 daddr {cidr}"),
            Condition::Tcp => f.write_str("meta l4proto tcp"),
        }
    }
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod plan_test;
