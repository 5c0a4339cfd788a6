//! The mesh connections of all workers, by peer. Workers look here only when their own list is out of date, when they need
//! a connection that is not there, and once a second to keep it in order: the locks in here are never on a request's path.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use isthmus_certs::{CryptoProfile, IdentityStore, Negotiated, PeerIdentity, RootFingerprint, SpiffeId, Subscription};
use isthmus_http2::SendRequest;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ConnectError;
use crate::state::{SiteName, State};
use crate::telemetry::WatchedLink;
use crate::tls::{InCommon, LastRead, MeshProtocol, Revoked};

/// Peers remembered at once; beyond that those without connections are forgotten.
const MAX_PEERS: usize = 4_096;

/// Bounds of the pool.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Mesh connections to one peer, over all workers. One carries thousands of streams; a second one takes over when the
    /// first is full, and lets a long link lose a packet without stopping everything.
    pub per_peer: usize,
    /// A peer that was used within this keeps its connection, and gets a new one before a request waits for it. After it,
    /// the connection is closed.
    pub warm_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { per_peer: 2, warm_for: Duration::from_secs(300) }
    }
}

/// What a connection was authenticated with, but for our own certificate, which each connection remembers itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) site: Option<SiteName>,
    pub(super) address: SocketAddr,
    pub(super) identities: Vec<SpiffeId>,
}

/// The peers of a process.
pub struct Peers {
    pub(super) identity: Arc<IdentityStore>,
    pub(super) state: Arc<State>,
    pub(super) limits: Limits,
    known: Mutex<HashMap<Key, Arc<Peer>>>,
    /// What our connections were made with.
    made_with: Mutex<MadeWith>,
    /// Counts what makes successors of them wanted.
    generation: AtomicU64,
    /// Told whenever a list of connections changed, so that every worker lets go of what is no longer in it.
    changed: watch::Sender<u64>,
    workers: AtomicUsize,
    pub(super) revoked: Arc<Revoked>,
    _on_rotation: Subscription,
}

/// One peer: a sidecar at an address.
pub(super) struct Peer {
    pub(super) key: Key,
    /// Counts changes of `connections`.
    version: AtomicU64,
    state: Mutex<PeerState>,
}

pub(super) struct PeerState {
    pub(super) connections: Vec<Connection>,
    /// Set while a connection is being made: everybody waits for the same one.
    pub(super) dialling: Option<watch::Receiver<Dialled>>,
    pub(super) last_used: Instant,
    /// Failed attempts in a row, and the last of them.
    pub(super) failures: u32,
    pub(super) failed: Option<(Instant, ConnectError)>,
    /// Not before this is a connection made that nobody waits for.
    pub(super) retry_at: Option<Instant>,
    /// Until then, large ClientHellos are not tried: something on the way drops them.
    pub(super) small_hello_until: Option<Instant>,
}

pub(super) type Dialled = Option<Result<(), ConnectError>>;

/// One mesh connection, as its peer's list holds it.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) sender: SendRequest,
    pub(super) link: Arc<Link>,
}

/// What all workers know of one mesh connection.
pub(super) struct Link {
    /// The worker whose task drives it.
    pub(super) worker: usize,
    /// Of our own certificate.
    pub(super) generation: u64,
    pub(super) protocol: MeshProtocol,
    pub(super) identity: PeerIdentity,
    /// What the handshake agreed on.
    pub(super) negotiated: Negotiated,
    /// What TLS gave both ends.
    pub(super) in_common: Option<InCommon>,
    pub(super) last_read: LastRead,
    /// The link was seen to hold much at once.
    long: AtomicBool,
    /// Unix seconds after which it takes no new streams.
    pub(super) until: u64,
    /// Unix seconds from which its successor is wanted.
    pub(super) successor_at: u64,
    /// The kernel's view of it.
    pub(super) watched: Option<WatchedLink>,
    /// Streams that hold a [`super::Slot`].
    pub(super) busy: AtomicUsize,
    closed: AtomicBool,
}

impl Link {
    pub(super) fn new(worker: usize, generation: u64, of: LinkFacts) -> Link {
        let LinkFacts { protocol, identity, negotiated, in_common, last_read, until, successor_at, watched } = of;
        let (busy, closed, long) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Link {
            worker,
            generation,
            protocol,
            identity,
            negotiated,
            in_common,
            last_read,
            until,
            successor_at,
            watched,
            long,
            busy,
            closed,
        }
    }

    /// It takes no new streams.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn is_long(&self) -> bool {
        self.long.load(Ordering::Relaxed)
    }

    pub(super) fn note_long(&self) {
        self.long.store(true, Ordering::Relaxed);
    }
}

/// What the handshake showed.
pub(super) struct LinkFacts {
    pub(super) protocol: MeshProtocol,
    pub(super) identity: PeerIdentity,
    /// What the handshake agreed on.
    pub(super) negotiated: Negotiated,
    /// What TLS gave both ends.
    pub(super) in_common: Option<InCommon>,
    pub(super) last_read: LastRead,
    pub(super) until: u64,
    pub(super) successor_at: u64,
    pub(super) watched: Option<WatchedLink>,
}

impl Peers {
    pub fn new(identity: &Arc<IdentityStore>, state: &Arc<State>, limits: Limits) -> Arc<Peers> {
        Arc::new_cyclic(|peers: &std::sync::Weak<Peers>| {
            let peers = peers.clone();
            let on_rotation = identity.subscribe(move |_| {
                if let Some(peers) = peers.upgrade() {
                    peers.rotated();
                }
            });
            Peers {
                identity: Arc::clone(identity),
                state: Arc::clone(state),
                limits,
                known: Mutex::default(),
                made_with: Mutex::new(MadeWith::now(identity)),
                generation: AtomicU64::new(0),
                changed: watch::Sender::new(0),
                workers: AtomicUsize::new(0),
                revoked: Revoked::of(identity),
                _on_rotation: on_rotation,
            }
        })
    }

    pub(super) fn next_worker(&self) -> usize {
        self.workers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn tell(&self) {
        self.changed.send_modify(|times| *times += 1);
    }

    pub(super) fn get(&self, key: Key) -> Arc<Peer> {
        let mut known = lock(&self.known);
        if known.len() >= MAX_PEERS && !known.contains_key(&key) {
            known.retain(|_, peer| {
                let state = peer.lock();
                !state.connections.is_empty() || state.dialling.is_some()
            });
        }
        let peer = known.entry(key).or_insert_with_key(|key| Arc::new(Peer::new(key.clone())));
        Arc::clone(peer)
    }

    /// Forgets a peer that nobody uses any more. Whoever still holds it can go on; the next one gets another.
    pub(super) fn forget(&self, key: &Key) {
        let removed = lock(&self.known).remove(key);
        if let Some(peer) = removed {
            peer.change(|state| state.connections.clear());
            self.tell();
        }
    }

    /// Of what the next connection is made with.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A new certificate of our own, or other algorithms: connections go on until their successors are made. A root that is
    /// gone: who is at the other end was decided by what may hold no more, and nothing new is sent there. Another root beside
    /// the others, or a revocation: nothing changes for those whom it does not concern, and [`Revoked`] ends the others.
    fn rotated(&self) {
        let now = MadeWith::now(&self.identity);
        let before = std::mem::replace(&mut *lock(&self.made_with), now.clone());
        let lost = now.lacks_roots_of(&before);
        let renewed = (now.own, now.profile) != (before.own, before.profile);
        if renewed || lost {
            self.generation.fetch_add(1, Ordering::Release);
        }
        for peer in lock(&self.known).values() {
            // What failed may work now.
            peer.lock().failed = None;
            if !renewed && !lost {
                continue;
            }
            peer.change(|state| {
                if lost {
                    state.connections.clear();
                }
                // Successors are made apart from each other: a proxy may have thousands of peers.
                let spread = Duration::from_secs(1).mul_f64(rand::rng().random_range(0.0..1.0));
                state.retry_at = Some(Instant::now() + spread);
            });
        }
        self.tell();
    }
}

/// What a connection is made with, and who is believed at its other end.
#[derive(Clone)]
struct MadeWith {
    /// The generation of our own certificate.
    own: u64,
    profile: CryptoProfile,
    roots: Vec<RootFingerprint>,
}

impl MadeWith {
    fn now(identity: &IdentityStore) -> MadeWith {
        let (ours, others) = (identity.bundle(), identity.others());
        let bundles = std::iter::once(&ours).chain(others.values());
        MadeWith {
            own: identity.current().map_or(0, |own| own.generation),
            profile: identity.profile(),
            roots: bundles.flat_map(|bundle| bundle.fingerprints().to_vec()).collect(),
        }
    }

    fn lacks_roots_of(&self, before: &MadeWith) -> bool {
        before.roots.iter().any(|root| !self.roots.contains(root))
    }
}

impl Peer {
    fn new(key: Key) -> Peer {
        let state = PeerState {
            connections: Vec::new(),
            dialling: None,
            last_used: Instant::now(),
            failures: 0,
            failed: None,
            retry_at: None,
            small_hello_until: None,
        };
        Peer { key, version: AtomicU64::new(1), state: Mutex::new(state) }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PeerState> {
        lock(&self.state)
    }

    /// Changes the list of connections. What is taken out is dropped after the lock is given back: that takes the connection's own.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut PeerState) -> T) -> T {
        let mut state = self.lock();
        let before = state.connections.clone();
        let result = change(&mut state);
        self.version.fetch_add(1, Ordering::Release);
        drop(state);
        drop(before);
        result
    }

    /// Takes a connection out of the list; true when it was there.
    pub(super) fn remove(&self, link: &Arc<Link>) -> bool {
        link.close();
        self.change(|state| {
            let before = state.connections.len();
            state.connections.retain(|connection| !Arc::ptr_eq(&connection.link, link));
            state.connections.len() < before
        })
    }
}

/// A writer that panicked left a list that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
