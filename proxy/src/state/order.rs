//! The endpoints of a service by how near they are, computed once per snapshot, so that picking one costs the same for
//! ten endpoints and for ten thousand.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashSet;
use isthmus_proto::model::{Endpoint, SiteName, WorkloadName};

/// Places in a service's list of endpoints, in groups by site, family, and whom it is for.
#[derive(Debug)]
pub struct Order {
    own_site: Option<SiteName>,
    groups: [Vec<u32>; 12],
}

/// Whom a group of endpoints is for.
#[derive(Debug, Clone, Copy)]
enum For {
    /// Callers in their own family.
    Same,
    /// Callers in the other one, where the workload has no address in theirs.
    Other,
    /// Callers in the other one, where it has. An app need not listen in both, so that this is no other endpoint, but the
    /// last resort.
    Again,
}

impl Order {
    pub fn new(endpoints: &[Arc<Endpoint>], own_site: Option<&SiteName>) -> Order {
        let of_family = |v4: bool| -> HashSet<&WorkloadName> {
            let of_it = endpoints.iter().filter(|endpoint| endpoint.ip.is_ipv4() == v4);
            of_it.filter_map(|endpoint| endpoint.workload.as_ref()).collect()
        };
        let workloads = [of_family(false), of_family(true)];
        let mut groups: [Vec<u32>; 12] = Default::default();
        for (place, endpoint) in (0..).zip(endpoints) {
            let near = endpoint.site.is_some() && endpoint.site.as_ref() == own_site;
            let v4 = endpoint.ip.is_ipv4();
            let in_both = endpoint.workload.as_ref().is_some_and(|name| workloads[usize::from(!v4)].contains(name));
            groups[group(For::Same, near, v4)].push(place);
            groups[group(if in_both { For::Again } else { For::Other }, near, v4)].push(place);
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
        let order = [
            group(For::Same, true, v4),
            group(For::Other, true, !v4),
            group(For::Same, false, v4),
            group(For::Other, false, !v4),
            group(For::Again, true, !v4),
            group(For::Again, false, !v4),
        ];
        order.into_iter().map(|group| self.groups[group].as_slice())
    }
}

fn group(whom: For, near: bool, v4: bool) -> usize {
    4 * whom as usize + 2 * usize::from(near) + usize::from(v4)
}
