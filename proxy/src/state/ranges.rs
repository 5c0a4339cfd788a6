//! Address ranges with a value each; the most specific range wins.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use ipnet::IpNet;

/// Look-up costs one hash per distinct prefix length: it does not grow with the number of ranges.
#[derive(Debug, Clone, Default)]
pub struct Ranges<T> {
    v4: Family<T>,
    v6: Family<T>,
}

#[derive(Debug, Clone)]
struct Family<T> {
    /// Longest first.
    lengths: Vec<u8>,
    by_prefix: HashMap<(u8, u128), T, RandomState>,
}

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self { lengths: Vec::new(), by_prefix: HashMap::default() }
    }
}

impl<T> Ranges<T> {
    /// Adds a range; the same range again replaces the value.
    pub fn insert(&mut self, range: IpNet, value: T) {
        let family = if range.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let length = range.prefix_len();
        if let Err(place) = family.lengths.binary_search_by(|known| length.cmp(known)) {
            family.lengths.insert(place, length);
        }
        family.by_prefix.insert((length, masked(range.addr(), length)), value);
    }

    /// The value of the most specific range that holds `ip`.
    pub fn get(&self, ip: IpAddr) -> Option<&T> {
        let family = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        let by_length = |&length: &u8| family.by_prefix.get(&(length, masked(ip, length)));
        family.lengths.iter().find_map(by_length)
    }
}

/// The first `length` bits, aligned to the top of a u128.
pub(super) fn masked(ip: IpAddr, length: u8) -> u128 {
    let bits = match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    match length {
        0 => 0,
        length => bits & (u128::MAX << (128 - u32::from(length))),
    }
}
