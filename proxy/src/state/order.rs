//! The endpoints of a service by how near they are, computed once per snapshot, so that picking one costs the same for
//! ten endpoints and for ten thousand.

use std::net::IpAddr;
use std::sync::Arc;

use isthmus_proto::model::{Endpoint, SiteName};

/// Places in a service's list of endpoints, in four groups: own site or not, IPv4 or IPv6.
#[derive(Debug)]
pub struct Order {
    own_site: Option<SiteName>,
    groups: [Vec<u32>; 4],
}

impl Order {
    pub fn new(endpoints: &[Arc<Endpoint>], own_site: Option<&SiteName>) -> Order {
        let mut groups: [Vec<u32>; 4] = Default::default();
        for (place, endpoint) in (0..).zip(endpoints) {
            let near = endpoint.site.is_some() && endpoint.site.as_ref() == own_site;
            groups[group(near, endpoint.ip.is_ipv4())].push(place);
        }
        Order { own_site: own_site.cloned(), groups }
    }

    pub(super) fn is_of(&self, own_site: Option<&SiteName>) -> bool {
        self.own_site.as_ref() == own_site
    }

    /// The best group first. The site weighs more than the family: a gateway between families is at hand, a circuit
    /// costs.
    pub fn groups(&self, family: IpAddr) -> impl Iterator<Item = &[u32]> {
        let v4 = family.is_ipv4();
        let order = [group(true, v4), group(true, !v4), group(false, v4), group(false, !v4)];
        order.into_iter().map(|group| self.groups[group].as_slice())
    }
}

fn group(near: bool, v4: bool) -> usize {
    2 * usize::from(near) + usize::from(v4)
}
