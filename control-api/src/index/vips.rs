//! Addresses for services that ask for none: one per family, from MeshConfig's `vipRanges`, the same for as long as the
//! service lives and the range holds.

use crate::validate::ResourceRef;
use crate::validate::resource::Spec;
use crate::validate::set::Set;
use ipnet::IpNet;
use rpds::{HashTrieMapSync, RedBlackTreeSetSync};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Tries per service and range before it is called full. Even at 90 % use, 256 tries fail once in 10¹¹.
const TRIES: u64 = 256;

/// What is given from now on; an empty list is given back.
pub type Given = BTreeMap<ResourceRef, Vec<IpAddr>>;

/// Who was given what. Persistent, as the set is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vips {
    of: HashTrieMapSync<ResourceRef, Vec<IpAddr>>,
    owners: HashTrieMapSync<IpAddr, ResourceRef>,
    /// Services for which nothing was left; asked for again with each change.
    lacking: RedBlackTreeSetSync<ResourceRef>,
}

/// What an allocation came to.
#[derive(Debug, Default)]
pub struct Allocation {
    pub given: Given,
    /// Sentences about services that got none in a range.
    pub full: Vec<String>,
    got: BTreeSet<ResourceRef>,
    lacking: BTreeSet<ResourceRef>,
    taken: HashSet<IpAddr>,
}

impl Vips {
    pub fn of(&self, service: &ResourceRef) -> &[IpAddr] {
        self.of.get(service).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn owner(&self, ip: IpAddr) -> Option<&ResourceRef> {
        self.owners.get(&ip)
    }

    /// Every address that was given.
    pub fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.owners.keys()
    }

    /// Who was given what.
    pub fn given(&self) -> Given {
        self.of.iter().map(|(service, ips)| (service.clone(), ips.clone())).collect()
    }

    /// Takes what was given or given back.
    pub fn take(&mut self, given: &Given) {
        for service in given.keys() {
            for ip in self.of(service).to_vec() {
                self.owners.remove_mut(&ip);
            }
            self.of.remove_mut(service);
        }
        for (service, ips) in given.iter().filter(|(_, ips)| !ips.is_empty()) {
            ips.iter().for_each(|ip| self.owners.insert_mut(*ip, service.clone()));
            self.of.insert_mut(service.clone(), ips.clone());
        }
    }

    /// As [`Self::take`], and remembers who is to be asked for again.
    pub fn settle(&mut self, allocation: &Allocation) {
        self.take(&allocation.given);
        for service in &allocation.got {
            self.lacking.remove_mut(service);
        }
        allocation.lacking.iter().for_each(|service| self.lacking.insert_mut(service.clone()));
    }
}

/// What has to change in the given VIPs so that they fit a set in which these resources changed.
pub fn allocate(set: &Set, ranges: &[IpNet], vips: &Vips, changed: &[ResourceRef]) -> Allocation {
    let mut asking: BTreeSet<ResourceRef> = BTreeSet::new();
    if changed.iter().any(|key| key.kind == "MeshConfig") {
        asking.extend(set.of_kind("Service", None).map(|service| service.key.clone()));
        asking.extend(vips.of.keys().cloned());
    }
    for key in changed.iter().filter(|key| key.kind == "Service") {
        asking.insert(key.clone());
        // Who asks for an address by its number gets it; who was only given it gets another one.
        let by_number = set.get(key).map(|service| asked_by_number(&service.spec)).unwrap_or_default();
        asking.extend(by_number.iter().filter_map(|ip| vips.owner(*ip)).cloned());
    }
    asking.extend(vips.lacking.iter().cloned());
    let mut allocation = Allocation::default();
    for service in asking {
        allocation.serve(service, set, ranges, vips);
    }
    allocation
}

fn asked_by_number(spec: &Spec) -> &[IpAddr] {
    match spec {
        Spec::Service(service) => &service.vips,
        _ => &[],
    }
}

impl Allocation {
    fn serve(&mut self, service: ResourceRef, set: &Set, ranges: &[IpNet], vips: &Vips) {
        let held = vips.of(&service);
        let wants =
            matches!(set.get(&service).map(|s| &s.spec), Some(Spec::Service(s)) if s.vips.is_empty() && !s.headless);
        let mut lacks = false;
        let mut next: Vec<IpAddr> = Vec::new();
        if wants {
            let fits = |ip: &IpAddr| ranges.iter().any(|r| r.contains(ip)) && set.claimants(*ip).next().is_none();
            next.extend(held.iter().filter(|ip| fits(ip)));
            for is_ipv4 in [true, false] {
                let of_family: Vec<&IpNet> = ranges.iter().filter(|range| range.addr().is_ipv4() == is_ipv4).collect();
                if of_family.is_empty() || next.iter().any(|ip| ip.is_ipv4() == is_ipv4) {
                    continue;
                }
                match of_family.iter().find_map(|range| self.pick(&service, range, set, vips)) {
                    Some(ip) => next.push(ip),
                    None => {
                        lacks = true;
                        self.full.push(format!("{service}: no address is left in spec.vipRanges"));
                    }
                }
            }
        }
        if held != next {
            self.given.insert(service.clone(), next);
        }
        if lacks {
            self.lacking.insert(service)
        } else {
            self.got.insert(service)
        };
    }

    /// Starts where the name's hash points, so that the same mesh gets the same addresses on another machine as well.
    fn pick(&mut self, service: &ResourceRef, range: &IpNet, set: &Set, vips: &Vips) -> Option<IpAddr> {
        for attempt in 0..TRIES {
            let mut hasher = DefaultHasher::new();
            (service, attempt).hash(&mut hasher);
            let ip = nth(range, hasher.finish());
            let free = vips.owner(ip).is_none() && set.claimants(ip).next().is_none();
            if free && ip != range.network() && ip != range.broadcast() && self.taken.insert(ip) {
                return Some(ip);
            }
        }
        None
    }
}

/// The address whose host bits are those of `n`; of a large IPv6 range, the last 64 bits.
fn nth(range: &IpNet, n: u64) -> IpAddr {
    match range {
        IpNet::V4(net) => {
            let host = u32::try_from(n & u64::from(u32::MAX)).unwrap_or(0) & !u32::from(net.netmask());
            IpAddr::V4(Ipv4Addr::from(u32::from(net.network()) | host))
        }
        IpNet::V6(net) => {
            let host = u128::from(n) & !u128::from(net.netmask());
            IpAddr::V6(Ipv6Addr::from(u128::from(net.network()) | host))
        }
    }
}
