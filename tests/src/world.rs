//! The whole of it: two sites, their hosts by name, and the link between them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::Error;
use crate::host::Host;
use crate::link::{Link, LinkShape};
use crate::net;
use crate::site::{End, LINK_INTERFACE, Site};

/// A network of two sites. Dropping it ends every host, with all that runs in them.
pub struct World {
    // Fields are dropped in this order: hosts (and their children) before the network under them.
    hosts: BTreeMap<String, Host>,
    link: Link,
    sites: [Site; 2],
    files: TempDir,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct WorldBuilder {
    shape: LinkShape,
    hosts: Vec<(&'static str, String, Ipv4Addr)>,
}

/// The cloud site of the demo.
pub const CLOUD: &str = "azure-eastus";
/// The on-prem site of the demo.
pub const ON_PREM: &str = "dc1";

impl World {
    /// The demo's network: `azure-eastus` (10.10.0.0/16, fd00:10::/64) with `control` 10.10.0.2, `web` 10.10.1.10 and
    /// `batch` 10.10.1.11; `dc1` (10.20.0.0/16, fd00:20::/64) with `orders` 10.20.1.10; 4 ms and 1 Gbit/s between.
    pub fn two_sites() -> WorldBuilder {
        WorldBuilder { shape: LinkShape::default(), hosts: Vec::new() }
            .host(CLOUD, "control", Ipv4Addr::new(10, 10, 0, 2))
            .host(CLOUD, "web", Ipv4Addr::new(10, 10, 1, 10))
            .host(CLOUD, "batch", Ipv4Addr::new(10, 10, 1, 11))
            .host(ON_PREM, "orders", Ipv4Addr::new(10, 20, 1, 10))
    }

    /// A host by name.
    ///
    /// # Panics
    /// When there is none of that name: a mistake in the test.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("no host {name}; there are {:?}", self.hosts.keys()))
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// False on a kernel without IPv6: the hosts have no IPv6 addresses then.
    pub fn has_ipv6(&self) -> bool {
        net::has_ipv6()
    }

    /// The link between the sites.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The sites: cloud, then on-prem.
    pub fn sites(&self) -> &[Site; 2] {
        &self.sites
    }

    /// A directory for files of the whole world, removed with it.
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// Adds a host while the world is up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_host(&mut self, site: &str, name: &str, address: Ipv4Addr) -> Result<Host, Error> {
        let known = self.sites.iter_mut().find(|known| known.name() == site);
        let Some(site) = known else {
            return Err(Error::Unexpected(format!("no site {site}")));
        };
        let host = site.add_host(name, address)?;
        self.hosts.insert(name.to_owned(), host.clone());
        Ok(host)
    }

    /// Pulls a host's wire and forgets it; its address is free again. Its programs end once no other handle on it is left.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_host(&mut self, name: &str) -> Result<(), Error> {
        self.hosts.remove(name);
        self.sites.iter_mut().try_for_each(|site| site.remove_host(name))
    }

    /// Writes the same names into the hosts file of every host.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn set_hosts(&self, entries: &[(IpAddr, &str)]) -> Result<(), Error> {
        self.hosts.values().try_for_each(|host| host.set_hosts(entries))
    }
}

impl WorldBuilder {
    /// One more host; `site` is [`CLOUD`] or [`ON_PREM`].
    pub fn host(mut self, site: &'static str, name: &str, address: Ipv4Addr) -> Self {
        self.hosts.push((site, name.to_owned(), address));
        self
    }

    /// `stranger` 10.20.1.99 in the data centre: a machine that is no part of the mesh.
    pub fn stranger(self) -> Self {
        self.host(ON_PREM, "stranger", Ipv4Addr::new(10, 20, 1, 99))
    }

    /// `outsider` 10.10.1.99 in the cloud: a pod that is no part of the mesh.
    pub fn outsider(self) -> Self {
        self.host(CLOUD, "outsider", Ipv4Addr::new(10, 10, 1, 99))
    }

    /// How the link behaves at first.
    pub fn link(mut self, shape: LinkShape) -> Self {
        self.shape = shape;
        self
    }

    /// The link's round trip time; half of it each way.
    pub fn round_trip(mut self, round_trip: Duration) -> Self {
        self.shape.round_trip = round_trip;
        self
    }

    /// Builds it. Blocks; takes about 100 ms.
    ///
    /// # Errors
    /// When the kernel refuses a step; [`crate::privilege::enter`] explains most such refusals before.
    pub fn build(self) -> Result<World, Error> {
        let files =
            TempDir::with_prefix("isthmus-world-").map_err(|error| Error::system("making a directory", error))?;
        let cloud = Site::new(CLOUD, (Ipv4Addr::new(10, 10, 0, 0), 16), (prefix_v6(0x10), 64))?;
        let on_prem = Site::new(ON_PREM, (Ipv4Addr::new(10, 20, 0, 0), 16), (prefix_v6(0x20), 64))?;
        let link = join(&cloud, &on_prem, self.shape)?;
        let mut world = World { hosts: BTreeMap::new(), link, sites: [cloud, on_prem], files };
        for (site, name, address) in self.hosts {
            world.add_host(site, &name, address)?;
        }
        Ok(world)
    }
}

/// Both routers get a wire to the emulator's own host, which moves frames between them.
fn join(left: &Site, right: &Site, shape: LinkShape) -> Result<Link, Error> {
    let between = Host::new("link")?;
    net::silence(&between)?;
    for (site, wire) in [(left, "left"), (right, "right")] {
        net::connect((site.router(), LINK_INTERFACE), (&between, wire))?;
        net::no_offloads(site.router(), LINK_INTERFACE)?;
        net::no_offloads(&between, wire)?;
    }
    // The emulator listens before the wires are up, so that it misses no frame.
    let link = Link::start(between.clone(), "left", "right", shape)?;
    net::up(&between, "left")?;
    net::up(&between, "right")?;
    left.reach(right, End::Left)?;
    right.reach(left, End::Right)?;
    Ok(link)
}

fn prefix_v6(site: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, site, 0, 0, 0, 0, 0, 0)
}
