//! A [`Plan`] as the input of `iptables-restore --noflush`, and the judgement whether it is in force already. Pure: what
//! `iptables-save` printed in, text out. Rules are written exactly as `iptables-save` prints them, so that both compare.

use std::fmt::Write;
use std::net::IpAddr;

use super::plan::{Action, Condition, Plan, Rule};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A chain of ours, and the one that leads to it.
struct Chain {
    table: &'static str,
    from: &'static str,
    name: &'static str,
}

const OUTBOUND: Chain = Chain { table: "nat", from: "OUTPUT", name: "ISTHMUS_OUTBOUND" };
const INBOUND: Chain = Chain { table: "nat", from: "PREROUTING", name: "ISTHMUS_INBOUND" };
const UDP: Chain = Chain { table: "filter", from: "OUTPUT", name: "ISTHMUS_UDP" };

/// The whole plan as input for `iptables-restore --noflush` and `ip6tables-restore --noflush`.
pub fn inputs(plan: &Plan) -> [String; 2] {
    [Family::V4, Family::V6].map(|family| restore(plan, family, "").unwrap_or_default())
}

/// What brings the rules that `saved` shows to `plan`; nothing where they are.
pub(super) fn restore(plan: &Plan, family: Family, saved: &str) -> Option<String> {
    let nat = [(&OUTBOUND, &plan.outbound), (&INBOUND, &plan.inbound)];
    let nat: Vec<_> = nat.into_iter().map(|(chain, rules)| (chain, Some(lines(chain, rules, family)))).collect();
    let udp = Some(lines(&UDP, &plan.udp, family)).filter(|lines| !lines.is_empty());
    let mut text = String::new();
    for chains in [nat, vec![(&UDP, udp)]] {
        text.push_str(&table(&chains, saved));
    }
    Some(text).filter(|text| !text.is_empty())
}

/// What takes all of ours away; nothing where there is none.
pub(super) fn removal(saved: &str) -> Option<String> {
    let text = table(&[(&OUTBOUND, None), (&INBOUND, None)], saved) + &table(&[(&UDP, None)], saved);
    Some(text).filter(|text| !text.is_empty())
}

/// The changes of the chains of one table; empty where there are none.
fn table(chains: &[(&Chain, Option<Vec<String>>)], saved: &str) -> String {
    let mut text = String::new();
    for (chain, wanted) in chains {
        match wanted {
            Some(wanted) => establish(chain, wanted, saved, &mut text),
            None => take_away(chain, saved, &mut text),
        }
    }
    match chains.first() {
        Some((chain, _)) if !text.is_empty() => format!("*{}\n{text}COMMIT\n", chain.table),
        _ => String::new(),
    }
}

fn establish(chain: &Chain, wanted: &[String], saved: &str, text: &mut String) {
    let there = Saved::of(chain, saved);
    if !there.declared || there.rules != *wanted {
        // With --noflush a declared chain is made, or emptied.
        let _ = writeln!(text, ":{} - [0:0]", chain.name);
        wanted.iter().for_each(|line| text.extend([line, "\n"]));
    }
    // Once, and before everybody else's: the first translation of a connection wins.
    if there.jumps != [0] {
        text.push_str(&chain.jump("-D").repeat(there.jumps.len()));
        text.push_str(&chain.jump("-I"));
    }
}

fn take_away(chain: &Chain, saved: &str, text: &mut String) {
    let there = Saved::of(chain, saved);
    text.push_str(&chain.jump("-D").repeat(there.jumps.len()));
    if there.declared {
        let _ = writeln!(text, "-F {0}\n-X {0}", chain.name);
    }
}

impl Chain {
    fn jump(&self, command: &str) -> String {
        format!("{command} {} -j {}\n", self.from, self.name)
    }
}

/// What is there of a chain.
struct Saved {
    declared: bool,
    rules: Vec<String>,
    /// At which places the chain above leads to it.
    jumps: Vec<usize>,
}

impl Saved {
    fn of(chain: &Chain, saved: &str) -> Saved {
        let start = format!("*{}", chain.table);
        let section = saved.lines().map(str::trim_end).skip_while(|line| *line != start);
        let section: Vec<&str> = section.take_while(|line| *line != "COMMIT").collect();
        let (declaration, own) = (format!(":{} ", chain.name), format!("-A {} ", chain.name));
        let (above, jump) = (format!("-A {} ", chain.from), format!("-A {} -j {}", chain.from, chain.name));
        let above = section.iter().filter(|line| line.starts_with(&above)).enumerate();
        Saved {
            declared: section.iter().any(|line| line.starts_with(&declaration)),
            rules: section.iter().filter(|line| line.starts_with(&own)).map(|line| (*line).to_owned()).collect(),
            jumps: above.filter(|(_, line)| **line == jump).map(|(at, _)| at).collect(),
        }
    }
}

/// The rules of one family. What is about the other family's addresses is left out.
fn lines(chain: &Chain, rules: &[Rule], family: Family) -> Vec<String> {
    rules
        .iter()
        .filter(|rule| rule.when.iter().all(|condition| family.has(condition)))
        .map(|rule| line(chain, rule))
        .collect()
}

/// In the order of `iptables-save`: destination, interface, protocol, matches, target.
fn line(chain: &Chain, rule: &Rule) -> String {
    let (mut address, mut interface, mut protocol, mut matches) = (String::new(), String::new(), "", String::new());
    for condition in &rule.when {
        match condition {
            Condition::To(cidr) => address = format!(" -d {}/{}", cidr.network(), cidr.prefix_len()),
            Condition::ToLoopback => " -o lo".clone_into(&mut interface),
            Condition::FromLoopback => " -i lo".clone_into(&mut interface),
            Condition::Tcp => protocol = " -p tcp",
            Condition::NotUdp => protocol = " ! -p udp",
            Condition::Port(port) => {
                protocol = " -p tcp";
                matches += &format!(" -m tcp --dport {port}");
            }
            Condition::UdpPort(port) => {
                protocol = " -p udp";
                matches += &format!(" -m udp --dport {port}");
            }
            Condition::Mark(mark) => matches += &format!(" -m mark --mark 0x{mark:x}"),
            Condition::Uid(uid) => matches += &format!(" -m owner --uid-owner {uid}"),
            Condition::ToThisHost => matches += " -m addrtype --dst-type LOCAL",
            Condition::NotToThisHost => matches += " -m addrtype ! --dst-type LOCAL",
        }
    }
    let target = match rule.action {
        Action::Return => "RETURN".to_owned(),
        Action::Redirect(port) => {
            // The target exists for protocols with ports only.
            format!("REDIRECT --to-ports {port}")
        }
        Action::Drop => "DROP".to_owned(),
    };
    format!("-A {}{address}{interface}{protocol}{matches} -j {target}", chain.name)
}

impl Family {
    fn has(self, condition: &Condition) -> bool {
        match condition {
            Condition::To(cidr) => {
                matches!((self, cidr.addr()), (Family::V4, IpAddr::V4(_)) | (Family::V6, IpAddr::V6(_)))
            }
            _ => true,
        }
    }
}

#[cfg(test)]
#[path = "iptables_text_test.rs"]
mod iptables_text_test;
