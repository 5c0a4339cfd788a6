//! Links, addresses and routes, as far as hosts made of namespaces need them (linux/rtnetlink.h).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::netdevice::name_to_index;

use crate::error::NetlinkError;
use crate::message::{Attributes, flags, message};
use crate::socket::{Family, Socket};

const CHANGE: u16 = flags::REQUEST | flags::ACK;
const MAKE: u16 = CHANGE | flags::CREATE | flags::EXCLUSIVE;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const UP: u32 = 1;

const NEW_ADDRESS: u16 = 20;
const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const NO_DUPLICATE_DETECTION: u8 = 2;

const NEW_ROUTE: u16 = 24;
const ROUTE_TO: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
const ON_LINK: u32 = 4;

/// The links of a network namespace.
#[derive(Debug)]
pub struct Links(Socket);

impl Links {
    /// Those of the namespace of the calling thread.
    ///
    /// # Errors
    /// Where the kernel has no rtnetlink.
    pub fn open() -> io::Result<Links> {
        Socket::open(Family::Route).map(Links)
    }

    /// A pair of interfaces, `name` here and `peer_name` in the namespace of that descriptor, both down.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_pair(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_namespace: impl AsFd,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let namespace = peer_namespace.as_fd().as_raw_fd().unsigned_abs();
        let end = |name: &str| Attributes::new().text(LINK_NAME, name).number(LINK_MTU, mtu);
        let peer = end(peer_name).number(LINK_NAMESPACE, namespace);
        let peer = Attributes::new().nest_after(VETH_PEER, &link_header(0, 0), &peer);
        let info = Attributes::new().text(INFO_KIND, "veth").nest(INFO_DATA, &peer);
        self.0.change(message(NEW_LINK, MAKE, &link_header(0, 0), &end(name).nest(LINK_INFO, &info)))
    }

    /// Raises an interface.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn up(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.0.change(message(NEW_LINK, CHANGE, &link_header(UP, UP), &Attributes::new().text(LINK_NAME, name)))
    }

    /// Removes an interface, and the other end of its pair. Removing what is not there is no error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove(&mut self, name: &str) -> Result<(), NetlinkError> {
        const ENODEV: i32 = 19;
        let name = Attributes::new().text(LINK_NAME, name);
        match self.0.change(message(DELETE_LINK, CHANGE, &link_header(0, 0), &name)) {
            Err(error) if error.errno() == Some(ENODEV) => Ok(()),
            outcome => outcome,
        }
    }

    /// Adds an address, which works at once: IPv6 without duplicate address detection.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let index = self.index(name)?.to_ne_bytes();
        let bytes = octets(address);
        let fixed = [[family(address), prefix, NO_DUPLICATE_DETECTION, 0], index].concat();
        let attributes = Attributes::new().bytes(ADDRESS_LOCAL, &bytes).bytes(ADDRESS, &bytes);
        self.0.change(message(NEW_ADDRESS, MAKE, &fixed, &attributes))
    }

    /// Adds a route by an interface, through a gateway (which need not be in any prefix of it) or without.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_route(
        &mut self,
        (to, prefix): (IpAddr, u8),
        name: &str,
        gateway: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let scope = if gateway.is_none() && to.is_ipv4() { SCOPE_LINK } else { 0 };
        let route_flags = if gateway.is_some() { ON_LINK } else { 0 };
        let fixed = [family(to), prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope, UNICAST];
        let fixed = [&fixed[..], &route_flags.to_ne_bytes()].concat();
        let mut attributes = Attributes::new().number(ROUTE_INTERFACE, self.index(name)?);
        if prefix > 0 {
            attributes = attributes.bytes(ROUTE_TO, &octets(to));
        }
        if let Some(gateway) = gateway {
            attributes = attributes.bytes(ROUTE_GATEWAY, &octets(gateway));
        }
        self.0.change(message(NEW_ROUTE, MAKE, &fixed, &attributes))
    }

    fn index(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.0, name)?)
    }
}

/// ifinfomsg: any family, no type, no index.
fn link_header(link_flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[8..12].copy_from_slice(&link_flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    const INET: u8 = 2;
    const INET6: u8 = 10;
    if address.is_ipv4() { INET } else { INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
