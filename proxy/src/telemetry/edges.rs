//! Who talks to whom: requests, time and bytes by edge. Outbound an edge is a service, its port and the site that
//! answered; inbound it is the caller's identity and our port. A worker counts in cells that only it writes; a process
//! has at most [`MOST_EDGES`], and what comes after them counts as `other`: an app that calls everybody, or is called by
//! everybody, makes no page without end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use isthmus_proto::live::v1 as wire;

use super::cells::{BUCKETS_US, Histogram, STATUS_CLASSES};
use super::exemplar::Exemplar;
use super::metrics::Direction;

/// By the design size a workload calls some dozens of services, and a shared one is called by some hundreds. Each costs
/// about 25 lines of the page.
pub(super) const MOST_EDGES: usize = 512;

/// One edge, as a connection or request knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EdgeOf<'a> {
    pub direction: Direction,
    /// Of the service, and empty where it has none; inbound always empty.
    pub namespace: &'a str,
    /// The service; inbound the caller's identity.
    pub name: &'a str,
    pub port: u16,
    /// Where it was answered; empty where that is not known.
    pub site: &'a str,
}

/// The same, kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EdgeName {
    pub(super) inbound: bool,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) port: u16,
    pub(super) site: Box<str>,
}

/// What one worker has seen on one edge.
#[derive(Debug, Default)]
pub(super) struct EdgeCell {
    pub(super) requests: [AtomicU64; STATUS_CLASSES.len()],
    pub(super) time: Histogram,
    pub(super) connections: AtomicU64,
    pub(super) bytes: [AtomicU64; 2],
}

/// All edges of the process.
#[derive(Debug, Default)]
pub(super) struct EdgeRegistry {
    edges: Mutex<BTreeMap<EdgeName, Vec<Arc<EdgeCell>>>>,
    /// Edges that a worker has met and that got no cells of their own.
    pub(super) beyond: AtomicU64,
}

/// One worker's table. Lives on its thread.
#[derive(Debug)]
pub struct Edges {
    registry: Arc<EdgeRegistry>,
    known: RefCell<HashTable<(EdgeName, Arc<EdgeCell>)>>,
    hasher: RandomState,
    /// By direction; made when the first edge is too many.
    others: RefCell<[Option<Arc<EdgeCell>>; 2]>,
}

/// An edge that was looked up, to count a request on once it has ended.
#[derive(Debug)]
pub struct KnownEdge(Arc<EdgeCell>);

impl KnownEdge {
    /// As [`Edges::request`].
    pub fn request(&self, status: u16, elapsed: Duration, traced: Option<Exemplar>) {
        self.0.request(status, elapsed, traced);
    }
}

impl EdgeCell {
    fn request(&self, status: u16, elapsed: Duration, traced: Option<Exemplar>) {
        let class = usize::from(status / 100);
        let class = if class < STATUS_CLASSES.len() { class } else { 0 };
        self.requests[class].fetch_add(1, Relaxed);
        self.time.observe(elapsed, traced);
    }
}

impl Edges {
    pub(super) fn new(registry: Arc<EdgeRegistry>) -> Edges {
        Edges { registry, known: RefCell::default(), hasher: RandomState::default(), others: RefCell::default() }
    }

    /// A request on this edge was answered with `status` (0: the answer never came) after `elapsed`.
    pub fn request(&self, edge: EdgeOf<'_>, status: u16, elapsed: Duration, traced: Option<Exemplar>) {
        self.with(edge, |cell| cell.request(status, elapsed, traced));
    }

    /// The edge itself, for who knows it before the request has ended. The cell is this worker's own, and so is its count
    /// of holders.
    pub fn known(&self, edge: EdgeOf<'_>) -> KnownEdge {
        let hash = self.hash(edge);
        let known = self.known.borrow().find(hash, |(name, _)| name.is(edge)).map(|(_, cell)| cell.clone());
        KnownEdge(known.unwrap_or_else(|| self.meet(edge, hash)))
    }

    /// A connection of bytes on this edge has ended, after so many to and from the callee.
    pub fn connection(&self, edge: EdgeOf<'_>, to_callee: u64, from_callee: u64) {
        self.with(edge, |cell| {
            cell.connections.fetch_add(1, Relaxed);
            cell.bytes[0].fetch_add(to_callee, Relaxed);
            cell.bytes[1].fetch_add(from_callee, Relaxed);
        });
    }

    fn with(&self, edge: EdgeOf<'_>, count: impl FnOnce(&EdgeCell)) {
        let hash = self.hash(edge);
        if let Some((_, cell)) = self.known.borrow().find(hash, |(name, _)| name.is(edge)) {
            return count(cell);
        }
        count(&self.meet(edge, hash));
    }

    /// The first time here. Once the process has all it may, the worker's table stays as it is, and what it does not
    /// know is `other` without asking.
    fn meet(&self, edge: EdgeOf<'_>, hash: u64) -> Arc<EdgeCell> {
        let mut others = self.others.borrow_mut();
        let other = &mut others[edge.direction as usize];
        if let Some(other) = other {
            return other.clone();
        }
        let name = EdgeName::of(edge);
        if let Some(cell) = self.registry.cell(&name, MOST_EDGES) {
            let mut known = self.known.borrow_mut();
            known.insert_unique(hash, (name, cell.clone()), |(name, _)| self.hash(name.as_edge()));
            return cell;
        }
        self.registry.beyond.fetch_add(1, Relaxed);
        let name = EdgeName::of(EdgeOf { namespace: "", name: "other", port: 0, site: "", ..edge });
        let cell = self.registry.cell(&name, usize::MAX).unwrap_or_default();
        other.insert(cell).clone()
    }

    fn hash(&self, edge: EdgeOf<'_>) -> u64 {
        self.hasher.hash_one(edge)
    }
}

impl EdgeRegistry {
    /// A new cell for this edge, unless it is a new edge beyond `most`.
    fn cell(&self, name: &EdgeName, most: usize) -> Option<Arc<EdgeCell>> {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        if edges.len() >= most && !edges.contains_key(name) {
            return None;
        }
        let cell = Arc::new(EdgeCell::default());
        edges.entry(name.clone()).or_default().push(cell.clone());
        Some(cell)
    }

    /// The same in the form in which it is told to who looks.
    pub(super) fn now(&self) -> Vec<wire::Edge> {
        let edges = self.each().into_iter();
        edges
            .map(|(name, cells)| {
                let sum = |of: &dyn Fn(&EdgeCell) -> &AtomicU64| cells.iter().map(|cell| of(cell).load(Relaxed)).sum();
                wire::Edge {
                    inbound: name.inbound,
                    name: name.in_words(),
                    port: name.port.into(),
                    site: name.site.to_string(),
                    requests: (0..STATUS_CLASSES.len()).map(|at| sum(&|cell| &cell.requests[at])).collect(),
                    buckets: (0..=BUCKETS_US.len()).map(|at| sum(&|cell| &cell.time.buckets[at])).collect(),
                    sum_us: sum(&|cell| &cell.time.sum_us),
                    connections: sum(&|cell| &cell.connections),
                    to_callee: sum(&|cell| &cell.bytes[0]),
                    from_callee: sum(&|cell| &cell.bytes[1]),
                }
            })
            .collect()
    }

    /// Every edge with the cells of all workers.
    pub(super) fn each(&self) -> Vec<(EdgeName, Vec<Arc<EdgeCell>>)> {
        let edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        edges.iter().map(|(name, cells)| (name.clone(), cells.clone())).collect()
    }
}

impl EdgeName {
    fn of(edge: EdgeOf<'_>) -> EdgeName {
        EdgeName {
            inbound: edge.direction == Direction::Inbound,
            namespace: edge.namespace.into(),
            name: edge.name.into(),
            port: edge.port,
            site: edge.site.into(),
        }
    }

    fn as_edge(&self) -> EdgeOf<'_> {
        let direction = if self.inbound { Direction::Inbound } else { Direction::Outbound };
        EdgeOf { direction, namespace: &self.namespace, name: &self.name, port: self.port, site: &self.site }
    }

    /// A service with its namespace, or an identity.
    pub(super) fn in_words(&self) -> String {
        match &*self.namespace {
            "" => self.name.to_string(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }

    fn is(&self, edge: EdgeOf<'_>) -> bool {
        self.as_edge() == edge
    }
}

#[cfg(test)]
#[path = "edges_test.rs"]
mod edges_test;
