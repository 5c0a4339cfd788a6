//! Which endpoint gets the next request. Pure: endpoints and a turn in, a choice out. The own site first, others where it
//! has none left; among equals each in turn.

use std::net::IpAddr;
use std::sync::Arc;

use crate::state::{Endpoint, SiteName};

/// Endpoints that were tried and failed, by their place: an endpoint beyond the 64th is never marked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    pub fn add(&mut self, place: usize) {
        self.0 |= 1u64.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)).unwrap_or(0);
    }

    fn contains(self, place: usize) -> bool {
        place < 64 && self.0 & 1 << place != 0
    }
}

/// The endpoint for this turn, its place in the list, and the app's port there. `None`: nobody serves this port.
///
/// `family` is an address of the family that the app has chosen: where an endpoint has both, the callee's app is reached
/// in the one that its caller used.
pub fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    service_port: u16,
    own_site: Option<&SiteName>,
    family: IpAddr,
    turn: usize,
    tried: Tried,
) -> Option<(&'a Arc<Endpoint>, usize, u16)> {
    let usable = |place: usize, endpoint: &Endpoint| {
        (!tried.contains(place)).then(|| endpoint.target_ports.get(&service_port).copied()).flatten()
    };
    // The site weighs more than the family: a gateway between families is at hand, a circuit costs.
    let rank = |endpoint: &Endpoint| {
        let near = endpoint.site.is_some() && endpoint.site.as_ref() == own_site;
        2 * usize::from(near) + usize::from(endpoint.ip.is_ipv4() == family.is_ipv4())
    };
    let mut candidates = [0usize; 4];
    for (place, endpoint) in endpoints.iter().enumerate() {
        if usable(place, endpoint).is_some() {
            candidates[rank(endpoint)] += 1;
        }
    }
    let best = candidates.iter().rposition(|count| *count > 0)?;
    let wanted = turn.checked_rem(candidates[best])?;
    endpoints
        .iter()
        .enumerate()
        .filter(|(_, endpoint)| rank(endpoint) == best)
        .filter_map(|(place, endpoint)| Some((endpoint, place, usable(place, endpoint)?)))
        .nth(wanted)
}
