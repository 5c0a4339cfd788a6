//! Which endpoint gets the next request. Pure: endpoints and a turn in, a choice out. The own site first, others where it
//! has none left; among equals each in turn.

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
pub fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    service_port: u16,
    own_site: Option<&SiteName>,
    turn: usize,
    tried: Tried,
) -> Option<(&'a Arc<Endpoint>, usize, u16)> {
    let usable = |place: usize, endpoint: &Endpoint| {
        (!tried.contains(place)).then(|| endpoint.target_ports.get(&service_port).copied()).flatten()
    };
    let is_near = |endpoint: &Endpoint| endpoint.site.is_some() && endpoint.site.as_ref() == own_site;
    let mut near = 0;
    let mut all = 0;
    for (place, endpoint) in endpoints.iter().enumerate() {
        if usable(place, endpoint).is_some() {
            all += 1;
            near += usize::from(is_near(endpoint));
        }
    }
    let near_only = near > 0;
    let candidates = if near_only { near } else { all };
    let wanted = turn.checked_rem(candidates)?;
    endpoints
        .iter()
        .enumerate()
        .filter(|(_, endpoint)| !near_only || is_near(endpoint))
        .filter_map(|(place, endpoint)| Some((endpoint, place, usable(place, endpoint)?)))
        .nth(wanted)
}
