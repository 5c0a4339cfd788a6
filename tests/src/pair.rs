//! Two hosts on one wire, with nothing between them: for measurements, in which a router or an emulator would be
//! measured too. Or with the emulated link alone between them, where the link is what is measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::Error;
use crate::host::Host;
use crate::link::{Link, LinkShape};
use crate::net::{self, Via};

/// The only interface of each host besides loopback.
const INTERFACE: &str = "eth0";

/// A client's host and a server's host. Dropping it ends both, with all that runs in them.
pub struct Pair {
    /// 10.99.0.1, fd00:99::1.
    pub client: Host,
    /// 10.99.0.2, fd00:99::2.
    pub server: Host,
}

impl Pair {
    /// Both hosts in 10.99.0.0/24 and fd00:99::/64; each is the other's default gateway, so that any address has a
    /// route, though nobody forwards. Segmentation offloads stay on, as between two pods of one node.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn new() -> Result<Self, Error> {
        let pair = Self::apart()?;
        net::connect((&pair.client, INTERFACE), (&pair.server, INTERFACE))?;
        attach(&pair.client, 1, 2)?;
        attach(&pair.server, 2, 1)?;
        Ok(pair)
    }

    /// The same two, joined by an emulated link. Segmentation offloads are off: a lost frame is one segment.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn over_link(shape: LinkShape) -> Result<(Self, Link), Error> {
        let (pair, between) = (Self::apart()?, Host::new("link")?);
        net::silence(&between)?;
        for (host, wire) in [(&pair.client, "left"), (&pair.server, "right")] {
            net::connect((host, INTERFACE), (&between, wire))?;
            net::no_offloads(host, INTERFACE)?;
            net::no_offloads(&between, wire)?;
        }
        // The emulator listens before the wires are up, so that it misses no frame.
        let link = Link::start(between.clone(), "left", "right", shape)?;
        net::up(&between, "left")?;
        net::up(&between, "right")?;
        attach(&pair.client, 1, 2)?;
        attach(&pair.server, 2, 1)?;
        Ok((pair, link))
    }

    /// Neither has a wire yet.
    fn apart() -> Result<Self, Error> {
        let pair = Self { client: Host::new("client")?, server: Host::new("server")? };
        net::prepare(&pair.client)?;
        net::prepare(&pair.server)?;
        Ok(pair)
    }
}

fn attach(host: &Host, own: u8, other: u8) -> Result<(), Error> {
    net::up(host, INTERFACE)?;
    let ((v4, v6), (other_v4, other_v6)) = (addresses(own), addresses(other));
    let families: [(IpAddr, u8, IpAddr, IpAddr); 2] = [
        (v4.into(), 24, Ipv4Addr::UNSPECIFIED.into(), other_v4.into()),
        (v6.into(), 64, Ipv6Addr::UNSPECIFIED.into(), other_v6.into()),
    ];
    for (address, prefix, anywhere, gateway) in families {
        net::address(host, INTERFACE, address, prefix)?;
        net::route(host, (anywhere, 0), INTERFACE, Via::Gateway(gateway))?;
    }
    host.set_addresses(v4, v6);
    Ok(())
}

fn addresses(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 99, 0, number), Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, number.into()))
}
