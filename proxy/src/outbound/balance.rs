//! Which endpoint gets the next request. Pure: endpoints and a turn in, a choice out. The own site first, others where it
//! has none left; among equals each in turn. One that fails its health check has no turn as long as another one does not.

use std::net::{IpAddr, SocketAddr};
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
    pick_fit(endpoints, order, service_port, family, turn, tried, |_| true)
}

/// The same of those that do not fail; of all of them where all do. A probe may be wrong, and refusing everything for its
/// word would lose what could be saved.
pub fn pick_healthy<'a>(
    endpoints: &'a [Arc<Endpoint>],
    order: &Order,
    to: SocketAddr,
    turn: usize,
    tried: Tried,
    fails: impl Fn(SocketAddr) -> bool,
) -> Option<(&'a Arc<Endpoint>, usize, u16)> {
    pick_fit(endpoints, order, to.port(), to.ip(), turn, tried, |at| !fails(at))
        .or_else(|| pick(endpoints, order, to.port(), to.ip(), turn, tried))
}

fn pick_fit<'a>(
    endpoints: &'a [Arc<Endpoint>],
    order: &Order,
    service_port: u16,
    family: IpAddr,
    turn: usize,
    tried: Tried,
    fit: impl Fn(SocketAddr) -> bool,
) -> Option<(&'a Arc<Endpoint>, usize, u16)> {
    let usable = |place: u32| {
        let place = place as usize;
        let endpoint = endpoints.get(place).filter(|_| !tried.contains(place))?;
        let port = *endpoint.target_ports.get(&service_port)?;
        // Whose sidecar is there says itself how it is.
        (endpoint.mesh.is_some() || fit(SocketAddr::new(endpoint.ip, port))).then_some((endpoint, place, port))
    };
    order.groups(family).find_map(|group| {
        // Of those that are equal, each in turn; where one cannot serve, the next one does.
        let (before, from) = group.split_at(turn.checked_rem(group.len())?);
        from.iter().chain(before).find_map(|place| usable(*place))
    })
}
