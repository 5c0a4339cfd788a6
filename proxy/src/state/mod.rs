//! What this proxy knows of the mesh: an immutable snapshot that both paths read, and the pure decisions on it.
//!
//! `control` is the only writer: it applies deltas aside and publishes a whole [`Mesh`]. A decision takes one
//! [`Snapshot`] from its worker's [`Reader`] and works on that; no lock is shared with the data path. What is not in the snapshot is asked for with
//! [`State::resolve`], which waits at most [`RESOLVE_DEADLINE`].

pub mod apply;
pub mod egress;
pub mod failing;
pub mod inbound;
pub mod mesh;
pub mod order;
pub mod outlived;
pub mod policy;
pub mod ranges;
pub mod reader;
pub mod service;
pub mod standing;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

pub use inbound::InboundPort;
pub use isthmus_proto::model::{
    AppProtocol, Asking, Connect, Endpoint, Enforcement, External, HeaderNames, HealthCheck, MeshPeer, ProxyProtocol,
    ServiceName, ServicePort, Site, SiteName, SourceAddress, TlsVersion, TrafficOptions, Transport, WorkloadName,
};
pub use mesh::{Destination, Mesh};
pub use order::Order;
pub use reader::{Mark, Reader, Snapshot};
pub use service::{Service, Workload};

/// How long a connection waits for the control plane to say what an address is (DESIGN.md, "The path, outbound").
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);
/// Connections that may wait at once; the next one is refused without waiting.
const MAX_WAITING: usize = 1_024;
/// Addresses asked for and not yet picked up by the control stream.
const DEMAND_QUEUE: usize = 1_024;

/// The present snapshot, and the way to ask for more.
pub struct State {
    mesh: ArcSwap<Mesh>,
    /// Counts up after each change of `mesh`.
    publications: AtomicU64,
    published: watch::Sender<u64>,
    demand: mpsc::Sender<IpAddr>,
    waiting: AtomicUsize,
    unasked: AtomicU64,
    failing: failing::Failing,
}

/// The control stream's end: addresses that somebody waits for. Repeats are possible.
pub struct Demands(mpsc::Receiver<IpAddr>);

impl Demands {
    /// The next address; `None` when the proxy is gone.
    pub async fn next(&mut self) -> Option<IpAddr> {
        self.0.recv().await
    }
}

impl State {
    /// A state that knows nothing yet and refuses accordingly.
    pub fn new() -> (Arc<Self>, Demands) {
        let (demand, demands) = mpsc::channel(DEMAND_QUEUE);
        let state = Self {
            mesh: ArcSwap::from_pointee(Mesh::unknown()),
            publications: AtomicU64::new(0),
            published: watch::Sender::new(0),
            demand,
            waiting: AtomicUsize::new(0),
            unasked: AtomicU64::new(0),
            failing: failing::Failing::default(),
        };
        (Arc::new(state), Demands(demands))
    }

    /// A state that nobody will add to: for tests, and for tools that work on a saved snapshot.
    pub fn fixed(mesh: Mesh) -> Arc<Self> {
        let (state, _) = Self::new();
        state.publish(mesh);
        state
    }

    /// The present snapshot. Workers have a [`Reader`], which costs less.
    pub fn snapshot(&self) -> Arc<Mesh> {
        self.mesh.load_full()
    }

    /// How often a snapshot was published. What it counts is there to be loaded.
    fn publications(&self) -> u64 {
        self.publications.load(Ordering::Acquire)
    }

    /// Endpoints outside that fail this proxy's probes.
    pub fn failing(&self) -> &failing::Failing {
        &self.failing
    }

    /// Only `control` calls this.
    pub fn publish(&self, mesh: Mesh) {
        self.mesh.store(Arc::new(mesh));
        self.publications.fetch_add(1, Ordering::Release);
        self.published.send_modify(|times| *times += 1);
    }

    /// Marked changed at each publication, so that live connections can be checked against the new policy.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Asks the control plane what `ip` is and waits for the answer, at most [`RESOLVE_DEADLINE`]. Look at the
    /// returned snapshot again: still pending means that no answer came, and is refused.
    pub async fn resolve(&self, ip: IpAddr) -> Arc<Mesh> {
        let deadline = Instant::now() + RESOLVE_DEADLINE;
        let mut published = self.published.subscribe();
        let mesh = self.snapshot();
        if mesh.is_answered(ip) {
            return mesh;
        }
        let Some(_place) = Waiting::enter(&self.waiting) else {
            self.unasked.fetch_add(1, Ordering::Relaxed);
            return mesh;
        };
        if self.demand.try_send(ip).is_err() {
            self.unasked.fetch_add(1, Ordering::Relaxed);
            return mesh;
        }
        while let Ok(Ok(())) = timeout_at(deadline, published.changed()).await {
            if self.snapshot().is_answered(ip) {
                break;
            }
        }
        self.snapshot()
    }

    /// How often an address was refused without being asked for, because too many were waiting already.
    pub fn unasked(&self) -> u64 {
        self.unasked.load(Ordering::Relaxed)
    }
}

/// A place among the waiting; given back when the connection goes, answered or not.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "state_test.rs"]
mod state_test;
