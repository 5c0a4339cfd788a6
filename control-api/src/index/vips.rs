//! Addresses for services that ask for none: one per family, from MeshConfig's `vipRanges`, the same for as long as the
//! service lives and the range holds.

use super::Vips;
use crate::validate::ResourceRef;
use crate::validate::cross::Set;
use crate::validate::resource::Spec;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Tries per service and range before it is called full. Even at 90 % use, 256 tries fail once in 10¹¹.
const TRIES: u64 = 256;

/// What has to change in the given VIPs so that they fit the set: new ones, and (empty lists) those given back. The
/// second part names services that got none in a range.
pub fn allocate(set: &Set, ranges: &[IpNet], given: &Vips) -> (Vips, Vec<String>) {
    let mut taken: HashSet<IpAddr> = HashSet::new();
    let mut wanting: Vec<&ResourceRef> = Vec::new();
    for resource in set.values() {
        let Spec::Service(service) = &resource.spec else {
            continue;
        };
        taken.extend(&service.vips);
        if service.vips.is_empty() && !service.headless {
            wanting.push(&resource.key);
        }
    }
    let mut next: Vips = BTreeMap::new();
    for key in &wanting {
        let held = given.get(*key).into_iter().flatten().filter(|ip| ranges.iter().any(|range| range.contains(*ip)));
        let held: Vec<IpAddr> = held.filter(|ip| taken.insert(**ip)).copied().collect();
        next.insert((*key).clone(), held);
    }
    let mut full = Vec::new();
    for key in &wanting {
        let vips = next.entry((*key).clone()).or_default();
        for family in [true, false] {
            let of_family: Vec<&IpNet> = ranges.iter().filter(|range| range.addr().is_ipv4() == family).collect();
            if of_family.is_empty() || vips.iter().any(|ip| ip.is_ipv4() == family) {
                continue;
            }
            match of_family.iter().find_map(|range| pick(key, range, &mut taken)) {
                Some(ip) => vips.push(ip),
                None => full.push(format!("{key}: no address is left in spec.vipRanges")),
            }
        }
    }
    let mut change: Vips =
        next.into_iter().filter(|(key, vips)| given.get(key).map_or(!vips.is_empty(), |old| old != vips)).collect();
    for key in given.keys() {
        if !wanting.contains(&key) {
            change.insert(key.clone(), Vec::new());
        }
    }
    (change, full)
}

/// Starts where the name's hash points, so that the same mesh gets the same addresses on another machine as well.
fn pick(key: &ResourceRef, range: &IpNet, taken: &mut HashSet<IpAddr>) -> Option<IpAddr> {
    for attempt in 0..TRIES {
        let mut hasher = DefaultHasher::new();
        (key, attempt).hash(&mut hasher);
        let ip = nth(range, hasher.finish());
        if ip != range.network() && ip != range.broadcast() && taken.insert(ip) {
            return Some(ip);
        }
    }
    None
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
