//! What to capture, by flags. Inbound nothing is captured unless it is named; SSH never, unless that is forced.

use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use isthmus_proxy::redirect::{Exemption, InboundPorts, Plan, Scope, Udp};

use crate::failure::Failure;

const SSH: u16 = 22;
/// A session's shell is a few processes above us: sudo, a shell, sshd.
const MOST_ANCESTORS: usize = 32;

#[derive(clap::Args, Debug, Clone)]
pub(super) struct ScopeArgs {
    /// The proxy's own traffic: all sockets of this user.
    #[arg(long, value_name = "UID", default_value_t = 1337)]
    exempt_uid: u32,
    /// The proxy's own traffic: sockets with this mark, in place of a user.
    #[arg(long, value_name = "MARK", conflicts_with = "exempt_uid", value_parser = clap::value_parser!(u32).range(1..))]
    exempt_mark: Option<u32>,
    /// Where the proxy takes redirected connections of the apps.
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// Where the proxy takes redirected connections of others.
    #[arg(long, value_name = "PORT", default_value_t = 15006, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// Capture what others send to these ports of this machine: those of its services.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    inbound_ports: Vec<u16>,
    /// Capture what others send to any port of this machine.
    #[arg(long, conflicts_with = "inbound_ports")]
    inbound_all: bool,
    /// Ports of this machine that are left alone.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    exclude_inbound_ports: Vec<u16>,
    /// Capture what goes to these ports only.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    include_outbound_ports: Vec<u16>,
    /// Leave alone what goes to these ports.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    exclude_outbound_ports: Vec<u16>,
    /// Capture what goes to these networks only.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    include_outbound_cidrs: Vec<IpNet>,
    /// Leave alone what goes to these networks.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<IpNet>,
    /// Capture what processes of these users send only.
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    include_uids: Vec<u32>,
    /// Leave alone what processes of these users send.
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    exclude_uids: Vec<u32>,
    /// Drop and count outgoing UDP, but for DNS to --resolvers and what is excluded.
    #[arg(long)]
    drop_udp: bool,
    /// Where DNS may go while UDP is dropped.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', requires = "drop_udp")]
    resolvers: Vec<IpAddr>,
    /// Capture inbound SSH too. A mistake then locks you out.
    #[arg(long)]
    capture_ssh: bool,
}

impl ScopeArgs {
    /// The plan, unless it would capture SSH or cannot be one.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        let scope = self.scope();
        scope.check().map_err(|error| Failure::usage(error.to_string(), "isthmus redirect plan --help"))?;
        let captured = ssh_ports().into_iter().find(|port| scope.captures_inbound(*port));
        match captured {
            Some(port) if !self.capture_ssh => Err(Failure::usage(
                format!("port {port} is SSH's: to capture it can lock you out"),
                format!("leave it out (--exclude-inbound-ports {port}), or insist with --capture-ssh"),
            )),
            _ => Ok(Plan::new(&scope)),
        }
    }

    fn scope(&self) -> Scope {
        let exempt = self.exempt_mark.map_or(Exemption::Uid(self.exempt_uid), Exemption::Mark);
        let mut exclude_inbound_ports = self.exclude_inbound_ports.clone();
        // Of all ports SSH's is excluded unless it was asked for; by name it is refused, above.
        if self.inbound_all && !self.capture_ssh {
            exclude_inbound_ports.push(SSH);
        }
        Scope {
            inbound: if self.inbound_all { InboundPorts::All } else { InboundPorts::Only(self.inbound_ports.clone()) },
            exclude_inbound_ports,
            include_outbound_ports: self.include_outbound_ports.clone(),
            exclude_outbound_ports: self.exclude_outbound_ports.clone(),
            include_outbound_cidrs: self.include_outbound_cidrs.clone(),
            exclude_outbound_cidrs: self.exclude_outbound_cidrs.clone(),
            include_uids: self.include_uids.clone(),
            exclude_uids: self.exclude_uids.clone(),
            udp: if self.drop_udp { Udp::Drop { resolvers: self.resolvers.clone() } } else { Udp::Pass },
            ..Scope::all(exempt, self.outbound_port, self.inbound_port)
        }
    }
}

/// 22, and the port that the SSH session came to in which this is run. sudo takes the variable away, so that the
/// processes above are asked too.
fn ssh_ports() -> Vec<u16> {
    let mut ports = vec![SSH];
    let mut pid = std::process::id();
    for _ in 0..MOST_ANCESTORS {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        ports.extend(environment.split(|byte| *byte == 0).filter_map(ssh_port));
        match parent(pid) {
            Some(above) if above > 1 => pid = above,
            _ => break,
        }
    }
    ports.dedup();
    ports
}

/// `SSH_CONNECTION=client port server port` (ssh(1)).
fn ssh_port(variable: &[u8]) -> Option<u16> {
    let value = std::str::from_utf8(variable).ok()?.strip_prefix("SSH_CONNECTION=")?;
    value.split_whitespace().nth(3)?.parse().ok()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
#[path = "scope_test.rs"]
mod scope_test;
