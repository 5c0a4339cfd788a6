//! Which endpoint gets the next request. Pure: endpoints and a turn in, a choice out. The own site first, others where it
//! has none left; among equals each in turn.

use std::net::IpAddr;
use std::sync::Arc;

use crate::state::{Endpoint, Order};

/// More tries than any request has.
const MOST_TRIES: usize = 8;

/// Endpoints that were tried and failed, by their place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    places: [usize; MOST_TRIES],
    count: usize,
}

impl Tried {
    pub fn add(&mut self, place: usize) {
        if let Some(free) = self.places.get_mut(self.count) {
            *free = place;
            self.count += 1;
        }
    }

    fn contains(&self, place: usize) -> bool {
        self.places[..self.count].contains(&place)
    }
}

/// The endpoint for this turn, its place in the list, and the app's port there. `None`: nobody serves this port.
///
/// `family` is an address of the family that the app has chosen: where an endpoint has both, the callee's app is reached
/// in the one that its caller used. Costs the same however many endpoints there are, as long as they serve the same ports.
pub fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    order: &Order,
    service_port: u16,
    family: IpAddr,
    turn: usize,
    tried: Tried,
) -> Option<(&'a Arc<Endpoint>, usize, u16)> {
    let usable = |place: u32| {
        let place = place as usize;
        let endpoint = endpoints.get(place).filter(|_| !tried.contains(place))?;
        Some((endpoint, place, *endpoint.target_ports.get(&service_port)?))
    };
    order.groups(family).find_map(|group| {
        // Of those that are equal, each in turn; where one cannot serve, the next one does.
        let (before, from) = group.split_at(turn.checked_rem(group.len())?);
        from.iter().chain(before).find_map(|place| usable(*place))
    })
}
