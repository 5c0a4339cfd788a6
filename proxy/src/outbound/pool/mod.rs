//! Mesh connections to peers, shared by the requests and tunnels of all workers, in packet order: this worker's own view
//! ([`Pool::try_acquire`], which costs one look-up by number), then [`dial`] where nothing is there, [`drive`] as long as
//! it lives, and [`warm`], which keeps it ready while it is used. What all workers share is in [`peers`].
//!
//! There are few connections per peer in a process ([`Limits`]): a worker that has none of its own borrows another's. Its
//! streams then go through that worker's task; a stream may be used from any thread. It makes its own when it has
//! several streams at once and the limit allows.

mod dial;
mod drive;
mod error;
mod line;
mod peers;
mod warm;

pub use error::{ConnectError, is_unprocessed};
pub use line::Slot;
pub use peers::{Limits, Peers};

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

use crate::state::{Endpoint, MeshPeer};
use crate::tcp::DialOptions;
use crate::telemetry::Metrics;
use line::Local;
use peers::Key;

/// Endpoints that a worker remembers the way to; beyond that it forgets those of old snapshots.
const MAX_TARGETS: usize = 4_096;
/// A fresh connection may be taken by others up to its last stream, or be closed at once: try again, but not for ever.
const TRIES: usize = 3;

/// One worker's view of the mesh connections.
pub struct Pool {
    peers: Arc<Peers>,
    /// Its number among the pools of `peers`.
    worker: usize,
    metrics: Metrics,
    dial: DialOptions,
    /// By the endpoint's address in memory, which is its own as long as the endpoint is held here.
    targets: RefCell<HashMap<usize, Target>>,
    /// By the peer's address in memory.
    locals: RefCell<HashMap<usize, Rc<Local>>>,
    /// Connections that this worker drives.
    open: Rc<Cell<usize>>,
    /// Whether the task of [`warm`] runs.
    kept: Cell<bool>,
}

struct Target {
    endpoint: Arc<Endpoint>,
    local: Rc<Local>,
}

impl Pool {
    pub fn new(peers: Arc<Peers>, metrics: Metrics, dial: DialOptions) -> Rc<Pool> {
        let worker = peers.next_worker();
        Rc::new(Pool {
            peers,
            worker,
            metrics,
            dial,
            targets: RefCell::default(),
            locals: RefCell::default(),
            open: Rc::default(),
            kept: Cell::new(false),
        })
    }

    /// Connections that this worker drives now, draining ones included.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Streams of this worker that are counted as under way.
    #[cfg(test)]
    pub(crate) fn streams(&self) -> usize {
        self.locals.borrow().values().flat_map(|local| local.streams()).sum()
    }

    /// A connection to `endpoint` that can take a stream now, if there is one.
    pub fn try_acquire(self: &Rc<Self>, endpoint: &Arc<Endpoint>) -> Option<Slot> {
        let targets = self.targets.borrow();
        targets.get(&Arc::as_ptr(endpoint).addr())?.local.pick(self)
    }

    /// A connection to `endpoint` that can take a stream; waits where one must be made.
    pub async fn acquire(self: &Rc<Self>, endpoint: &Arc<Endpoint>, peer: &MeshPeer) -> Result<Slot, ConnectError> {
        match self.try_acquire(endpoint) {
            Some(slot) => Ok(slot),
            None => self.make(endpoint, peer).await,
        }
    }

    async fn make(self: &Rc<Self>, endpoint: &Arc<Endpoint>, peer: &MeshPeer) -> Result<Slot, ConnectError> {
        let local = self.local(endpoint, peer);
        for _ in 0..TRIES {
            if let Some(slot) = local.pick(self) {
                return Ok(slot);
            }
            let made = match dial::begin(self, &local.peer) {
                Ok(mut made) => match made.wait_for(Option::is_some).await {
                    Ok(made) => made.clone().unwrap_or(Err(ConnectError::GivenUp)),
                    // The worker that made it ended.
                    Err(_) => Err(ConnectError::GivenUp),
                },
                Err(error) => {
                    self.metrics.mesh_event("failed-fast");
                    Err(error)
                }
            };
            if let Err(error) = made {
                // A full connection is better than none: the stream waits there.
                return local.pick_full(self).ok_or(error);
            }
        }
        Err(ConnectError::GivenUp)
    }

    /// After an error on a connection's stream: whoever comes next must not take the same connection, if it is going away.
    pub fn forget_closed(&self, endpoint: &Arc<Endpoint>) {
        if let Some(target) = self.targets.borrow().get(&Arc::as_ptr(endpoint).addr()) {
            target.local.forget_closed();
        }
    }

    /// The way to an endpoint that was not used yet by this worker, or not since a new snapshot came.
    fn local(self: &Rc<Self>, endpoint: &Arc<Endpoint>, peer: &MeshPeer) -> Rc<Local> {
        let address = Arc::as_ptr(endpoint).addr();
        if let Some(target) = self.targets.borrow().get(&address) {
            return Rc::clone(&target.local);
        }
        let known = self.peers.get(Key {
            site: endpoint.site.clone(),
            address: SocketAddr::new(endpoint.ip, peer.port),
            identities: peer.identities.clone(),
        });
        let mut locals = self.locals.borrow_mut();
        let local = locals.entry(Arc::as_ptr(&known).addr()).or_insert_with(|| Rc::new(Local::new(known)));
        let local = Rc::clone(local);
        drop(locals);
        let mut targets = self.targets.borrow_mut();
        if targets.len() >= MAX_TARGETS {
            targets.retain(|_, target| Arc::strong_count(&target.endpoint) > 1);
        }
        targets.insert(address, Target { endpoint: Arc::clone(endpoint), local: Rc::clone(&local) });
        drop(targets);
        if !self.kept.replace(true) {
            tokio::task::spawn_local(warm::keep(Rc::downgrade(self), self.peers.subscribe()));
        }
        local
    }

    /// A connection is open for as long as the returned value lives.
    fn count_open(&self) -> OpenHere {
        self.open.set(self.open.get() + 1);
        OpenHere(Rc::clone(&self.open))
    }
}

struct OpenHere(Rc<Cell<usize>>);

impl Drop for OpenHere {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
#[path = "pool_test.rs"]
mod pool_test;
#[cfg(test)]
#[path = "trust_test.rs"]
mod trust_test;
#[cfg(test)]
#[path = "way_test.rs"]
mod way_test;
