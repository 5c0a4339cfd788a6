//! The kernel's side of a network: pairs of interfaces between hosts, addresses, routes, forwarding, offloads. All over
//! netlink; only forwarding and IPv6 defaults are written under `/proc/sys/net`, which belongs to the namespace of the
//! thread that writes.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use isthmus_netlink::{Links, NetlinkError, switch_off};

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
    on(host, "raising loopback", |links| links.up("lo"))
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
    let doing = format!("joining it to {}", b.0.name());
    let far = b.0.namespace().try_clone_to_owned().map_err(|error| Error::system(&doing, error))?;
    let (near_name, far_name) = (a.1.to_owned(), b.1.to_owned());
    on(a.0, &doing, move |links| links.add_pair(&near_name, &far_name, &far, MTU))
}

/// Raises an interface.
pub(crate) fn up(host: &Host, interface: &str) -> Result<(), Error> {
    let name = interface.to_owned();
    on(host, &format!("raising {interface}"), move |links| links.up(&name))
}

/// Removes an interface, and with it the one at the other end of its wire.
pub(crate) fn remove(host: &Host, interface: &str) -> Result<(), Error> {
    let name = interface.to_owned();
    on(host, &format!("removing {interface}"), move |links| links.remove(&name))
}

/// Adds an address to an interface.
pub(crate) fn address(host: &Host, interface: &str, address: IpAddr, prefix: u8) -> Result<(), Error> {
    let name = interface.to_owned();
    let doing = format!("adding {address}/{prefix} to {interface}");
    on(host, &doing, move |links| links.add_address(&name, address, prefix))
}

/// Adds a route. Prefix 0 with an unspecified destination is the default route.
pub(crate) fn route(host: &Host, to: (IpAddr, u8), interface: &str, via: Via) -> Result<(), Error> {
    let name = interface.to_owned();
    let gateway = match via {
        Via::Direct => None,
        Via::Gateway(gateway) => Some(gateway),
    };
    let doing = format!("adding a route to {}/{} by {interface}", to.0, to.1);
    on(host, &doing, move |links| links.add_route(to, &name, gateway))
}

/// Switches off what would let a frame leave longer than the MTU or without a checksum: a packet socket sees frames
/// before the hardware (which does not exist here) would have finished them.
pub(crate) fn no_offloads(host: &Host, interface: &str) -> Result<(), Error> {
    const OFF: [&str; 7] = [
        "tx-checksum-ip-generic",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "tx-tcp-ecn-segmentation",
        "tx-udp-segmentation",
        "tx-generic-segmentation",
        "rx-gro",
    ];
    let name = interface.to_owned();
    let result = host.run(move || switch_off(&name, &OFF));
    result.map_err(|error| Error::netlink(format!("{}: switching offloads of {interface} off", host.name()), error))
}

/// On the host's thread: a netlink socket belongs to the namespace it was opened in.
fn on(
    host: &Host,
    doing: &str,
    work: impl FnOnce(&mut Links) -> Result<(), NetlinkError> + Send + 'static,
) -> Result<(), Error> {
    let result = host.run(move || work(&mut Links::open()?));
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
