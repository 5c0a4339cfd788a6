//! The kernel's side of a network: pairs of interfaces between hosts, addresses, routes, forwarding, offloads. All over
//! netlink; only forwarding and IPv6 defaults are written under `/proc/sys/net`, which belongs to the namespace of the
//! thread that writes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::link::VethLink;
use nlink::netlink::types::addr::Scope;
use nlink::netlink::{Connection, Ethtool, Route};
use nlink::{Ipv4Route, Ipv6Route};

use crate::error::Error;
use crate::host::Host;

/// Ethernet's. Hybrid links are tunnels with less, but then their path MTU is a matter of the link, not of the host.
pub(crate) const MTU: u32 = 1500;

/// The last step of a route.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Via {
    /// The destination itself is at the other end of the interface.
    Direct,
    /// A gateway, which need not be in any prefix of the interface.
    Gateway(IpAddr),
}

/// False on a kernel without IPv6, or booted with `ipv6.disable=1`: then the world is one of IPv4.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Loopback up, IPv6 on; what each host needs before anything else.
pub(crate) fn prepare(host: &Host) -> Result<(), Error> {
    let name = host.name().to_owned();
    host.run(move || -> Result<(), Error> {
        // Distributions and containers hand IPv6 off down to new namespaces. Without IPv6 in the kernel there is no
        // such file.
        write_if_present(&name, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "0")?;
        write_if_present(&name, "/proc/sys/net/ipv6/conf/default/disable_ipv6", "0")?;
        // Addresses work at once: no duplicate address detection, also not for link-local ones.
        write_if_present(&name, "/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
        write_if_present(&name, "/proc/sys/net/ipv6/conf/default/accept_ra", "0")
    })?;
    on(host, "raising loopback", |route| async move { route.set_link_up("lo").await })
}

/// Makes a host forward packets between its interfaces.
pub(crate) fn forward(host: &Host) -> Result<(), Error> {
    let name = host.name().to_owned();
    host.run(move || {
        write_if_present(&name, "/proc/sys/net/ipv4/ip_forward", "1")?;
        write_if_present(&name, "/proc/sys/net/ipv6/conf/all/forwarding", "1")
    })
}

/// For a host that only moves frames: no protocol of its own may speak on its interfaces.
pub(crate) fn silence(host: &Host) -> Result<(), Error> {
    let name = host.name().to_owned();
    host.run(move || {
        write_if_present(&name, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
        write_if_present(&name, "/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
    })
}

/// A pair of interfaces, one in each host, both down.
pub(crate) fn connect(a: (&Host, &str), b: (&Host, &str)) -> Result<(), Error> {
    let pair = VethLink::new(a.1, b.1).mtu(MTU).peer_mtu(MTU).peer_netns_fd(b.0.namespace());
    on(a.0, &format!("joining it to {}", b.0.name()), |route| async move { route.add_link(pair).await })
}

/// Raises an interface.
pub(crate) fn up(host: &Host, interface: &str) -> Result<(), Error> {
    let name = interface.to_owned();
    on(host, &format!("raising {interface}"), |route| async move { route.set_link_up(name).await })
}

/// Removes an interface, and with it the one at the other end of its wire.
pub(crate) fn remove(host: &Host, interface: &str) -> Result<(), Error> {
    let name = interface.to_owned();
    on(host, &format!("removing {interface}"), |route| async move { route.del_link_if_exists(name).await.map(|_| ()) })
}

/// Adds an address to an interface.
pub(crate) fn address(host: &Host, interface: &str, address: IpAddr, prefix: u8) -> Result<(), Error> {
    let name = interface.to_owned();
    on(host, &format!("adding {address}/{prefix} to {interface}"), move |route| async move {
        match address {
            IpAddr::V4(v4) => route.add_address(Ipv4Address::new(name, v4, prefix).scope(Scope::Universe)).await,
            IpAddr::V6(v6) => route.add_address(Ipv6Address::new(name, v6, prefix).nodad()).await,
        }
    })
}

/// Adds a route. Prefix 0 with an unspecified destination is the default route.
pub(crate) fn route(host: &Host, to: (IpAddr, u8), interface: &str, via: Via) -> Result<(), Error> {
    let name = interface.to_owned();
    on(host, &format!("adding a route to {}/{} by {interface}", to.0, to.1), move |route| async move {
        match to.0 {
            IpAddr::V4(v4) => route.add_route(route_v4(v4, to.1, via).dev(name)).await,
            IpAddr::V6(v6) => route.add_route(route_v6(v6, to.1, via).dev(name)).await,
        }
    })
}

fn route_v4(to: Ipv4Addr, prefix: u8, via: Via) -> Ipv4Route {
    match via {
        Via::Gateway(IpAddr::V4(gateway)) => Ipv4Route::from_addr(to, prefix).gateway(gateway).onlink(),
        _ => Ipv4Route::from_addr(to, prefix),
    }
}

fn route_v6(to: Ipv6Addr, prefix: u8, via: Via) -> Ipv6Route {
    match via {
        Via::Gateway(IpAddr::V6(gateway)) => Ipv6Route::from_addr(to, prefix).gateway(gateway).onlink(),
        _ => Ipv6Route::from_addr(to, prefix),
    }
}

/// Switches off what would let a frame leave longer than the MTU or without a checksum: a packet socket sees frames
/// before the hardware (which does not exist here) would have finished them.
pub(crate) fn no_offloads(host: &Host, interface: &str) -> Result<(), Error> {
    let name = interface.to_owned();
    let doing = format!("{}: switching offloads of {interface} off", host.name());
    let result = host.block_on(async move {
        let ethtool = Connection::<Ethtool>::new_async().await?;
        ethtool
            .set_features(name, |features| {
                const OFF: [&str; 7] = [
                    "tx-checksum-ip-generic",
                    "tx-tcp-segmentation",
                    "tx-tcp6-segmentation",
                    "tx-tcp-ecn-segmentation",
                    "tx-udp-segmentation",
                    "tx-generic-segmentation",
                    "rx-gro",
                ];
                OFF.iter().fold(features, |features, name| features.disable(name))
            })
            .await
    });
    result.map_err(|error| Error::netlink(doing, error))
}

fn on<F, R>(host: &Host, doing: &str, work: F) -> Result<(), Error>
where
    F: FnOnce(Connection<Route>) -> R + Send + 'static,
    R: Future<Output = nlink::Result<()>> + Send + 'static,
{
    // Made on the host's runtime thread: a netlink socket belongs to the namespace it was opened in.
    let result = host.block_on(async move { work(Connection::<Route>::new()?).await });
    result.map_err(|error| Error::netlink(format!("{}: {doing}", host.name()), error))
}

fn write_if_present(host: &str, path: &str, value: &str) -> Result<(), Error> {
    match fs::write(path, value) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::system(
            format!("{host}: writing {value} to {path} (in a container, /proc/sys must be writable: --privileged)"),
            error,
        )),
        _ => Ok(()),
    }
}
