//! One snapshot of the mesh as this proxy sees it, and the look-ups on it. Nothing here changes once it is published.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use isthmus_certs::{SpiffeId, TrustDomain};
use isthmus_proto::model::{self, Enforcement, ServiceName, ServicePort, Site, SiteName, Telemetry};

use super::egress::Egress;
use super::inbound::{Inbound, InboundPort};
use super::ranges::Ranges;
use super::service::{Port, Service, Workload};
use crate::reason::Reason;

/// What an address that the app dialled turned out to be.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A known VIP and a declared port.
    Service { service: Arc<Service>, port: Arc<ServicePort> },
    /// A workload by its own address. `port` is `None` where no service declares it.
    Workload { workload: Arc<Workload>, port: Option<Arc<ServicePort>> },
    /// In none of the mesh's ranges.
    Outside,
    /// Inside a range and not yet answered: [`State::resolve`](super::State::resolve), then look again.
    Pending,
    /// The control plane says that nobody has this address, or that the service has no such port.
    Absent,
    /// Somebody has it, in a way that this build is too old to understand.
    UnknownFeature,
}

/// The snapshot.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// The store's revision that the control plane computed this view from.
    pub version: u64,
    pub(super) world: World,
    pub(super) inbound: Arc<Inbound>,
    pub(super) egress: Arc<Egress>,
    pub(super) services: HashMap<ServiceName, Known<Arc<Service>>, RandomState>,
    pub(super) addresses: HashMap<IpAddr, Known<Owner>, RandomState>,
    pub(super) vips: HashMap<IpAddr, ServiceName, RandomState>,
}

/// An answer of the control plane.
#[derive(Debug, Clone)]
pub(super) enum Known<T> {
    Is(T),
    Absent,
    NotUnderstood,
}

#[derive(Debug, Clone)]
pub(super) enum Owner {
    Service(ServiceName),
    Workload(Arc<Workload>),
}

/// What every proxy is told, compiled.
#[derive(Debug, Clone)]
pub(super) enum World {
    NotYet,
    NotUnderstood,
    Is(Arc<KnownWorld>),
}

#[derive(Debug)]
pub(super) struct KnownWorld {
    told: model::Mesh,
    /// `None`: a range of VIPs.
    ranges: Ranges<Option<usize>>,
    /// What sites are seen as elsewhere.
    seen_as: Ranges<usize>,
    links: HashMap<(SiteName, SiteName), Arc<str>, RandomState>,
}

impl KnownWorld {
    pub(super) fn new(told: model::Mesh) -> Self {
        let (mut ranges, mut seen_as) = (Ranges::default(), Ranges::default());
        for range in &told.vip_ranges {
            ranges.insert(*range, None);
        }
        for (i, site) in told.sites.iter().enumerate() {
            for range in &site.ranges {
                ranges.insert(*range, Some(i));
            }
            for range in &site.seen_as {
                seen_as.insert(*range, i);
            }
        }
        let mut links = HashMap::default();
        for link in &told.links {
            let name: Arc<str> = link.name.as_str().into();
            links.insert((link.site_a.clone(), link.site_b.clone()), Arc::clone(&name));
            links.insert((link.site_b.clone(), link.site_a.clone()), name);
        }
        Self { told, ranges, seen_as, links }
    }
}

impl Mesh {
    /// Before the first sync: everything is pending, and nothing may come in.
    pub fn unknown() -> Self {
        Self {
            version: 0,
            world: World::NotYet,
            inbound: Arc::new(Inbound::refusing(Reason::NotReady, "no snapshot from the control plane yet")),
            // A control plane that never speaks of egress restricts none.
            egress: Arc::new(Egress::open()),
            services: HashMap::default(),
            addresses: HashMap::default(),
            vips: HashMap::default(),
        }
    }

    /// Whether a first sync was completed.
    pub fn is_ready(&self) -> bool {
        !matches!(self.world, World::NotYet)
    }

    fn told(&self) -> Option<&model::Mesh> {
        match &self.world {
            World::Is(world) => Some(&world.told),
            World::NotYet | World::NotUnderstood => None,
        }
    }

    /// `Enforce` where it is not known.
    pub fn enforcement(&self) -> Enforcement {
        self.told().map_or(Enforcement::Enforce, |m| m.enforcement)
    }

    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.told().map(|m| &m.trust_domain)
    }

    /// The site of this proxy.
    pub fn site(&self) -> Option<&SiteName> {
        self.told().map(|m| &m.site)
    }

    pub fn dns_suffixes(&self) -> &[String] {
        self.told().map_or(&[], |m| &m.dns_suffixes)
    }

    /// What a new leaf is to live for, where the control plane says so.
    /// Who is refused though its certificate says otherwise; `None`: not told.
    pub fn revocations(&self) -> Option<&isthmus_certs::Revocations> {
        self.told().map(|m| &m.revocations)
    }

    /// The algorithms of mesh connections; `None`: not told.
    pub fn crypto_profile(&self) -> Option<isthmus_certs::CryptoProfile> {
        self.told().map(|m| m.crypto_profile)
    }

    /// Other trust domains that are believed; `None`: not told.
    pub fn trust_domains(&self) -> Option<&isthmus_certs::Federation> {
        self.told().map(|m| &m.trust_domains)
    }

    /// How certificates follow each other.
    pub fn upkeep(&self) -> model::Upkeep {
        self.told().map(|m| m.upkeep.clone()).unwrap_or_default()
    }

    pub fn leaf_lifetime(&self) -> Option<Duration> {
        self.told().and_then(|m| m.leaf_lifetime)
    }

    /// Where spans go. No export where it is not known.
    pub fn telemetry(&self) -> Telemetry {
        self.told().and_then(|m| m.telemetry.as_ref().ok()).cloned().unwrap_or_default()
    }

    /// Roots of the trust domain, DER.
    pub fn roots_der(&self) -> &[Vec<u8>] {
        self.told().map_or(&[], |m| &m.roots_der)
    }

    /// Where the app may go outside of the mesh.
    pub fn egress(&self) -> &Arc<Egress> {
        &self.egress
    }

    /// The DNS resolvers of this proxy's site, where the control plane names any.
    pub fn resolvers(&self) -> &[IpAddr] {
        let Some(told) = self.told() else { return &[] };
        told.sites.iter().find(|site| site.name == told.site).map_or(&[], |site| &site.resolvers)
    }

    /// Whether `ip` is in a range of the mesh, whoever has it.
    pub fn is_in_ranges(&self, ip: IpAddr) -> bool {
        let World::Is(world) = &self.world else { return true };
        world.ranges.get(ip.to_canonical()).is_some()
    }

    /// Whether `ip` is in a range of the mesh: of a site, or of virtual addresses.
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        let World::Is(world) = &self.world else { return true };
        let ip = ip.to_canonical();
        world.ranges.get(ip).is_some() || self.addresses.contains_key(&ip) || self.vips.contains_key(&ip)
    }

    pub fn inbound(&self) -> &Inbound {
        &self.inbound
    }

    /// The declared port, or what stands for all undeclared ones.
    pub fn inbound_port(&self, port: u16) -> Arc<InboundPort> {
        Arc::clone(self.inbound.port(port))
    }

    pub fn is_own_address(&self, ip: IpAddr) -> bool {
        self.inbound.is_own_address(ip)
    }

    /// Whether every address is in the same site here as there, for all that is known without looking.
    pub fn has_same_sites(&self, other: &Mesh) -> bool {
        match (&self.world, &other.world) {
            (World::Is(here), World::Is(there)) => Arc::ptr_eq(here, there) || here.told.sites == there.told.sites,
            _ => false,
        }
    }

    /// The site that somebody with this address is in: the one that is seen as it, else the one whose ranges hold it.
    pub fn site_of(&self, ip: IpAddr) -> Option<&Site> {
        let World::Is(world) = &self.world else { return None };
        let ip = ip.to_canonical();
        let place = world.seen_as.get(ip).copied().or_else(|| world.ranges.get(ip).copied().flatten())?;
        world.told.sites.get(place)
    }

    /// Whether this address is not the caller's own but what its site is seen as (NAT, a forwarding link): then what is
    /// registered of its identity there, for rules on addresses.
    pub fn behind(&self, peer: Option<&SpiffeId>, ip: IpAddr) -> Option<&[IpAddr]> {
        let World::Is(world) = &self.world else { return None };
        let site = world.told.sites.get(*world.seen_as.get(ip.to_canonical())?)?;
        Some(peer.map_or(&[], |peer| self.inbound.registered(peer, site.name.as_str())))
    }

    /// The name of the link that joins two sites, whichever comes first.
    pub fn link_between(&self, a: &SiteName, b: &SiteName) -> Option<&Arc<str>> {
        let World::Is(world) = &self.world else { return None };
        world.links.get(&(a.clone(), b.clone()))
    }

    /// What the app dialled. Costs two hash look-ups, and one more per distinct prefix length where it is unknown.
    pub fn destination(&self, addr: SocketAddr) -> Destination {
        let ip = addr.ip().to_canonical();
        match (&self.world, self.addresses.get(&ip), self.vips.get(&ip)) {
            (World::NotYet, ..) => Destination::Pending,
            (World::NotUnderstood, ..) => Destination::UnknownFeature,
            (_, Some(Known::Is(Owner::Service(name))), _) => self.service_port(name, addr.port()),
            (_, Some(Known::Is(Owner::Workload(workload))), _) => workload_port(workload, addr.port()),
            (_, Some(Known::NotUnderstood), _) => Destination::UnknownFeature,
            (_, None | Some(Known::Absent), Some(name)) => self.service_port(name, addr.port()),
            (_, Some(Known::Absent), None) => Destination::Absent,
            (World::Is(world), None, None) => match world.ranges.get(ip) {
                Some(_) => Destination::Pending,
                None => Destination::Outside,
            },
        }
    }

    fn service_port(&self, name: &ServiceName, port: u16) -> Destination {
        match self.services.get(name) {
            // The address came, its service has not: an answer, but not yet one that can be acted on.
            None => Destination::Pending,
            Some(Known::Absent) => Destination::Absent,
            Some(Known::NotUnderstood) => Destination::UnknownFeature,
            Some(Known::Is(service)) => match service.port(port) {
                Port::Undeclared => Destination::Absent,
                Port::NotUnderstood => Destination::UnknownFeature,
                Port::Declared(_) if service.endpoints.is_empty() && service.unusable_endpoints > 0 => {
                    Destination::UnknownFeature
                }
                Port::Declared(port) => Destination::Service { service: Arc::clone(service), port },
            },
        }
    }

    /// Whether asking the control plane about `ip` can bring nothing new.
    pub(super) fn is_answered(&self, ip: IpAddr) -> bool {
        // Port 0 is never declared, so that only the address decides.
        !matches!(self.destination(SocketAddr::new(ip, 0)), Destination::Pending)
    }

    /// The services this proxy knows, in no order: for the config dump.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().filter_map(|known| match known {
            Known::Is(service) => Some(service),
            Known::Absent | Known::NotUnderstood => None,
        })
    }
}

fn workload_port(workload: &Arc<Workload>, number: u16) -> Destination {
    let port = match workload.port(number) {
        Port::NotUnderstood => return Destination::UnknownFeature,
        Port::Declared(port) => Some(port),
        Port::Undeclared => None,
    };
    Destination::Workload { workload: Arc::clone(workload), port }
}
