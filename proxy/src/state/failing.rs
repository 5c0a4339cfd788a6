//! Endpoints outside of the mesh that fail their health check, as this proxy's own probes find them. Beside the snapshot and
//! not in it: `control` writes that one, and a probe's answer is no word of the control plane.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use foldhash::fast::RandomState;

use super::{Service, ServiceName};

/// Addresses with their ports, by service.
pub type Fails = HashMap<ServiceName, HashSet<SocketAddr, RandomState>, RandomState>;

/// Replaced as a whole. Nothing, as long as nobody fails: then asking costs one load.
#[derive(Debug, Default)]
pub struct Failing(ArcSwapOption<Fails>);

impl Failing {
    /// Only the one that probes calls this.
    pub fn replace(&self, fails: Fails) {
        self.0.store((!fails.is_empty()).then(|| Arc::new(fails)));
    }

    /// For a decision about one service; `None`: nobody of it fails.
    pub fn of(&self, service: &Service) -> Option<FailingHere> {
        service.external.as_ref()?.health.as_ref()?;
        let fails = self.0.load_full()?;
        fails.contains_key(&service.name).then(|| FailingHere { fails, name: service.name.clone() })
    }
}

/// Who fails of one service.
pub struct FailingHere {
    fails: Arc<Fails>,
    name: ServiceName,
}

impl FailingHere {
    pub fn has(&self, at: SocketAddr) -> bool {
        self.fails.get(&self.name).is_some_and(|fails| fails.contains(&at))
    }
}
