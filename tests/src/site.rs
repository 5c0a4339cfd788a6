//! A site: one router with a range of addresses, and the hosts behind it. Routed, not bridged: each host has a wire of
//! its own to the router and a route of its own, as pods have. So no two hosts share a segment, and the kernel needs
//! no bridge module.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::Error;
use crate::host::Host;
use crate::net::{self, Via};

/// Which end of the link a site is at; gives the router its address on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Left,
    Right,
}

/// The router's interface to the link.
pub(crate) const LINK_INTERFACE: &str = "link0";

/// A host's only interface besides loopback.
const HOST_INTERFACE: &str = "eth0";

/// A router and its ranges.
pub struct Site {
    name: String,
    range: (Ipv4Addr, u8),
    range_v6: (Ipv6Addr, u8),
    router: Host,
    /// The number of the next wire; never used twice, because a removed one may still be going.
    next_wire: u32,
    /// The router's interface to each host.
    wires: BTreeMap<String, String>,
}

impl Site {
    /// A router with no wire yet. The gateway is the first address of each range.
    pub(crate) fn new(name: &str, range: (Ipv4Addr, u8), range_v6: (Ipv6Addr, u8)) -> Result<Self, Error> {
        let router = Host::new(&format!("{name}-router"))?;
        net::prepare(&router)?;
        net::forward(&router)?;
        Ok(Self { name: name.to_owned(), range, range_v6, router, next_wire: 0, wires: BTreeMap::new() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 range: address and prefix length.
    pub fn range(&self) -> (Ipv4Addr, u8) {
        self.range
    }

    /// Its IPv6 range.
    pub fn range_v6(&self) -> (Ipv6Addr, u8) {
        self.range_v6
    }

    /// The router, for what a network administrator would see.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// Makes a host with this address, and the IPv6 address that reads alike (10.10.1.11 → fd00:10::1:11).
    pub(crate) fn add_host(&mut self, name: &str, address: Ipv4Addr) -> Result<Host, Error> {
        let host = Host::new(name)?;
        net::prepare(&host)?;
        let address_v6 = self.same_in_v6(address);
        let wire = format!("wire{}", self.next_wire);
        self.next_wire += 1;
        net::connect((&self.router, &wire), (&host, HOST_INTERFACE))?;
        net::up(&self.router, &wire)?;
        net::up(&host, HOST_INTERFACE)?;
        let pairs: [(IpAddr, IpAddr, u8); 2] =
            [(address.into(), self.gateway().into(), 32), (address_v6.into(), self.gateway_v6().into(), 128)];
        for (own, gateway, full) in pairs.into_iter().filter(|(own, ..)| own.is_ipv4() || net::has_ipv6()) {
            net::address(&self.router, &wire, gateway, full)?;
            net::address(&host, HOST_INTERFACE, own, full)?;
            net::route(&self.router, (own, full), &wire, Via::Direct)?;
            net::route(&host, (unspecified_like(own), 0), HOST_INTERFACE, Via::Gateway(gateway))?;
        }
        let address_v6 = if net::has_ipv6() { address_v6 } else { Ipv6Addr::UNSPECIFIED };
        host.set_addresses(address, address_v6);
        self.wires.insert(name.to_owned(), wire);
        Ok(host)
    }

    /// Takes a host's wire away, and with it its routes: the address is free at once. Does nothing for another's host.
    pub(crate) fn remove_host(&mut self, name: &str) -> Result<(), Error> {
        match self.wires.remove(name) {
            Some(wire) => net::remove(&self.router, &wire),
            None => Ok(()),
        }
    }

    /// Gives the router its address on the link and the route to the other site behind it.
    pub(crate) fn reach(&self, other: &Self, end: End) -> Result<(), Error> {
        let (own, peer) = match end {
            End::Left => (link_addresses(1), link_addresses(2)),
            End::Right => (link_addresses(2), link_addresses(1)),
        };
        net::up(&self.router, LINK_INTERFACE)?;
        net::address(&self.router, LINK_INTERFACE, own.0.into(), 30)?;
        let (range, prefix) = other.range;
        net::route(&self.router, (range.into(), prefix), LINK_INTERFACE, Via::Gateway(peer.0.into()))?;
        if !net::has_ipv6() {
            return Ok(());
        }
        net::address(&self.router, LINK_INTERFACE, own.1.into(), 64)?;
        let (range, prefix) = other.range_v6;
        net::route(&self.router, (range.into(), prefix), LINK_INTERFACE, Via::Gateway(peer.1.into()))
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.range.0.to_bits() + 1)
    }

    fn gateway_v6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.range_v6.0.to_bits() + 1)
    }

    fn same_in_v6(&self, address: Ipv4Addr) -> Ipv6Addr {
        let [_, _, third, fourth] = address.octets();
        Ipv6Addr::from_bits(self.range_v6.0.to_bits() | u128::from(digits(third)) << 16 | u128::from(digits(fourth)))
    }
}

/// 192.168.255.n/30 and fd00:ffff::n/64: the link's own transfer network.
fn link_addresses(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(192, 168, 255, number), Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, number.into()))
}

/// The number whose hexadecimal digits read like the decimal ones: 99 → 0x99.
fn digits(octet: u8) -> u16 {
    let octet = u16::from(octet);
    ((octet / 100) << 8) | ((octet / 10 % 10) << 4) | (octet % 10)
}

fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod site_test {
    use super::digits;

    #[test]
    fn an_octet_reads_the_same_in_both_families() {
        assert_eq!(format!("{:x} {:x} {:x}", digits(2), digits(99), digits(254)), "2 99 254");
    }
}
