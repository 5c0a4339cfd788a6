//! What to capture, as it is asked for: by the proxy's configuration, or on the command line.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Exemption;

/// Every combination of included users, networks and ports is a rule of its own.
const MOST_RULES: usize = 4096;

/// What of the inbound traffic is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboundPorts {
    /// Every TCP port but the excluded ones.
    All,
    /// These only: a VM whose other ports are none of the mesh's business.
    Only(Vec<u16>),
}

/// What becomes of outgoing UDP, which the mesh does not carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Udp {
    /// It passes as it is.
    Pass,
    /// It is dropped and counted, but for DNS to these and what is excluded: where nothing may leave unprotected.
    Drop { resolvers: Vec<IpAddr> },
}

/// What to capture. Of the lists of what to include an empty one means everything.
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
    pub include_outbound_ports: Vec<u16>,
    pub exclude_outbound_ports: Vec<u16>,
    pub include_outbound_cidrs: Vec<IpNet>,
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Only what these users' processes send.
    pub include_uids: Vec<u32>,
    pub exclude_uids: Vec<u32>,
    pub udp: Udp,
}

/// Why a scope makes no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error(
        "{0} combinations of included uids, CIDRs and ports are too many rules (at most {MOST_RULES}): include wider CIDRs, \
         or exclude instead"
    )]
    TooManyRules(usize),
    #[error("port 0 is no port to capture for: name the port of the proxy's {0} listener")]
    NoListener(&'static str),
}

impl Scope {
    /// All TCP in both directions.
    pub fn all(exempt: Exemption, outbound_port: u16, inbound_port: u16) -> Scope {
        Scope {
            exempt,
            outbound_port,
            inbound_port,
            own_ports: Vec::new(),
            inbound: InboundPorts::All,
            exclude_inbound_ports: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_outbound_cidrs: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            include_uids: Vec::new(),
            exclude_uids: Vec::new(),
            udp: Udp::Pass,
        }
    }

    /// Whether what others send to `port` of this host would go to the proxy.
    pub fn captures_inbound(&self, port: u16) -> bool {
        let wanted = match &self.inbound {
            InboundPorts::All => true,
            InboundPorts::Only(ports) => ports.contains(&port),
        };
        wanted && !self.exclude_inbound_ports.contains(&port) && !self.own_ports.contains(&port)
    }

    /// Whether it can be a plan.
    ///
    /// # Errors
    /// [`ScopeError`], which says what to change.
    pub fn check(&self) -> Result<(), ScopeError> {
        for (port, name) in [(self.outbound_port, "outbound"), (self.inbound_port, "inbound")] {
            if port == 0 {
                return Err(ScopeError::NoListener(name));
            }
        }
        let lengths = [self.include_uids.len(), self.include_outbound_cidrs.len(), self.include_outbound_ports.len()];
        let rules = lengths.into_iter().fold(1, |rules: usize, length| rules.saturating_mul(length.max(1)));
        if rules > MOST_RULES { Err(ScopeError::TooManyRules(rules)) } else { Ok(()) }
    }
}
