//! From the snapshot to whom this proxy asks how he is, and from the answers to who gets no traffic, and to what the control
//! plane is told: endpoints without sidecar of services that have a health check.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control::Probed;
use crate::probe::others::{Found, Wanted, keep_others};
use crate::probe::{How, Probe};
use crate::state::failing::Fails;
use crate::state::{Asking, HealthCheck, Mesh, ServiceName, State};
use crate::tcp::DialOptions;
use crate::telemetry::Metrics;

/// A port of an endpoint, of one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    service: ServiceName,
    at: SocketAddr,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.at, self.service)
    }
}

/// Runs until `stop`.
pub(super) async fn keep(
    state: Arc<State>,
    metrics: Metrics,
    options: DialOptions,
    tell: watch::Sender<Arc<[Probed]>>,
    stop: CancellationToken,
) {
    let mut published = state.subscribe();
    let (want, wanted) = watch::channel(places(&state.snapshot()));
    let follow = async {
        while published.changed().await.is_ok() {
            let now = places(&state.snapshot());
            want.send_if_modified(|before| {
                let differs = *before != now;
                *before = now;
                differs
            });
        }
    };
    let mut ejected = BTreeSet::new();
    let told = |found: &BTreeMap<Place, Found>| {
        let failing = failing(found);
        metrics.endpoints_ejected(failing.len(), failing.difference(&ejected).count());
        state.failing().replace(by_service(&failing));
        ejected = failing;
        tell.send_replace(found.iter().map(probed).collect());
    };
    tokio::select! {
        () = follow => {}
        () = keep_others(wanted, options, told, stop) => {}
    }
}

fn places(mesh: &Mesh) -> Wanted<Place> {
    let mut wanted = Wanted::new();
    for service in mesh.services() {
        let Some(health) = service.external.as_ref().and_then(|external| external.health.as_ref()) else { continue };
        for endpoint in service.endpoints.iter().filter(|endpoint| endpoint.mesh.is_none()) {
            for port in endpoint.target_ports.values() {
                let at = SocketAddr::new(endpoint.ip, *port);
                wanted.insert(Place { service: service.name.clone(), at }, probe(health, at));
            }
        }
    }
    wanted
}

fn probe(health: &HealthCheck, at: SocketAddr) -> Probe {
    let how = match &health.how {
        Asking::Tcp => How::Tcp(at),
        Asking::Http(path) => How::Http { at, path: path.clone() },
        Asking::Grpc(service) => How::Grpc { at, service: service.clone() },
    };
    let HealthCheck { interval, timeout, failures, successes, .. } = *health;
    Probe { how, interval, timeout, failures, successes }
}

fn probed((place, found): (&Place, &Found)) -> Probed {
    Probed { service: place.service.clone(), at: place.at, health: found.health.clone(), since: found.since }
}

fn failing(found: &BTreeMap<Place, Found>) -> BTreeSet<Place> {
    found.iter().filter(|(_, found)| !found.health.ready).map(|(place, _)| place.clone()).collect()
}

fn by_service(failing: &BTreeSet<Place>) -> Fails {
    let mut all = Fails::default();
    for place in failing {
        all.entry(place.service.clone()).or_default().insert(place.at);
    }
    all
}
