//! A plan as `nft` would print it, for people: `isthmus redirect plan`, and tests that compare it with what `nft` says.

use std::fmt;

use ipnet::IpNet;

use super::plan::{Action, Condition, PRIORITY, Plan, Rule, TABLE};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chains = [
            ("outbound", format!("nat hook output priority {PRIORITY}"), &self.outbound),
            ("inbound", format!("nat hook prerouting priority {PRIORITY}"), &self.inbound),
            ("udp", "filter hook output priority filter".to_owned(), &self.udp),
        ];
        writeln!(f, "table inet {TABLE} {{")?;
        for (name, hook, rules) in chains.iter().filter(|(_, _, rules)| !rules.is_empty()) {
            writeln!(f, "\tchain {name} {{\n\t\ttype {hook}; policy accept;")?;
            rules.iter().try_for_each(|rule| writeln!(f, "\t\t{rule}"))?;
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.when.iter().try_for_each(|condition| write!(f, "{condition} "))?;
        match self.action {
            Action::Return => f.write_str("return")?,
            Action::Redirect(port) => write!(f, "redirect to :{port}")?,
            Action::Drop => f.write_str("counter packets 0 bytes 0 drop")?,
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
            Condition::UdpPort(port) => write!(f, "udp dport {port}"),
            Condition::To(IpNet::V4(cidr)) if cidr.prefix_len() == 32 => write!(f, "ip daddr {}", cidr.addr()),
            Condition::To(IpNet::V6(cidr)) if cidr.prefix_len() == 128 => write!(f, "ip6 daddr {}", cidr.addr()),
            Condition::To(IpNet::V4(cidr)) => write!(f, "ip daddr {cidr}"),
            Condition::To(IpNet::V6(cidr)) => write!(f, "ip6 daddr {cidr}"),
            Condition::Tcp => f.write_str("meta l4proto tcp"),
            Condition::NotUdp => f.write_str("meta l4proto != udp"),
        }
    }
}
