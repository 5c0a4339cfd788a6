//! Mesh connections to peers, kept and shared by this worker's requests and tunnels. The key holds everything that a
//! connection was authenticated with: where the peer is, who it may be, and which of our own certificates we showed. So a
//! rotation moves new streams to a new connection by itself, and the old one ends when its streams did.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use h2::client::SendRequest;
use isthmus_certs::{ExpectedPeer, IdentityStore, SpiffeId};
use tokio::sync::watch;

use crate::http::client::Open;
use crate::http::server::Http2Settings;
use crate::reason::Reason;
use crate::state::{Endpoint, MeshPeer, SiteName};
use crate::tcp::{DialOptions, dial};
use crate::telemetry::{MeshSide, Metrics};
use crate::tls::{self, HandshakeError, LastRead, Stamped, mesh::HANDSHAKE_DEADLINE};

/// Mesh connections per peer. One carries thousands of streams and fills its writes; a second takes over when the first
/// has no stream left.
const MAX_PER_PEER: usize = 2;
/// Peers remembered at once; the pool of a worker that called more forgets those without open connections.
const MAX_PEERS: usize = 4_096;
/// A connection whose peer's certificate ends within this takes no new streams; less for very short certificates.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// A peer that does not answer a ping within this is dead. Idle firewalls cut at 240 s.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Why there is no mesh connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error("the peer at {0} cannot be reached: {1}")]
    Dial(SocketAddr, Arc<std::io::Error>),
    #[error("no mesh connection to {0}: {1}")]
    Handshake(SocketAddr, Arc<HandshakeError>),
    #[error("the peer at {0} speaks no HTTP/2: {1}")]
    Http2(SocketAddr, Arc<h2::Error>),
    #[error("the attempt to connect was given up")]
    GivenUp,
}

impl ConnectError {
    pub fn reason(&self) -> Reason {
        match self {
            ConnectError::Dial(_, error) if error.kind() == std::io::ErrorKind::TimedOut => Reason::Timeout,
            ConnectError::Handshake(_, error) => match &**error {
                HandshakeError::Peer(_) => Reason::PeerIdentity,
                HandshakeError::Timeout => Reason::Timeout,
                HandshakeError::Io(_) => Reason::ConnectFailed,
            },
            ConnectError::Dial(..) | ConnectError::Http2(..) | ConnectError::GivenUp => Reason::ConnectFailed,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    site: Option<SiteName>,
    address: SocketAddr,
    identities: Vec<SpiffeId>,
    generation: u64,
}

/// One mesh connection.
struct Connection {
    sender: SendRequest<Bytes>,
    last_read: LastRead,
    /// Streams whose answer is awaited, and tunnels.
    busy: Rc<Cell<usize>>,
    /// Unix seconds after which it takes no new streams.
    until: u64,
    closed: Rc<Cell<bool>>,
}

#[derive(Default)]
struct Peer {
    connections: Vec<Connection>,
    /// Set while a connection is being made: everybody waits for the same one.
    dialling: Option<watch::Receiver<Option<Result<(), ConnectError>>>>,
}

/// The mesh connections of one worker.
pub struct Pool {
    identity: Arc<IdentityStore>,
    metrics: Metrics,
    dial: DialOptions,
    peers: RefCell<HashMap<Key, Peer>>,
    /// Of which certificate the connections in `peers` are.
    generation: Cell<u64>,
    open: Rc<Cell<usize>>,
}

impl Pool {
    pub fn new(identity: Arc<IdentityStore>, metrics: Metrics, dial: DialOptions) -> Rc<Pool> {
        let generation = Cell::new(identity.generation());
        Rc::new(Pool { identity, metrics, dial, peers: RefCell::default(), generation, open: Rc::default() })
    }

    /// Connections that are open now, draining ones included.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// A connection to `endpoint` that can take a stream now.
    pub async fn acquire(self: &Rc<Self>, endpoint: &Endpoint, peer: &MeshPeer) -> Result<Slot, ConnectError> {
        let key = self.key(endpoint, peer);
        // A fresh connection may be taken by others up to its last stream, or be closed at once: try again, but not for ever.
        for _ in 0..3 {
            match self.look_up(&key) {
                Found::Ready(sender, last_read, busy) => {
                    let busy = Open::count(&busy);
                    if let Ok(sender) = sender.ready().await {
                        return Ok(Slot { sender, last_read, _busy: busy });
                    }
                    self.forget(&key);
                }
                Found::Dialling(mut done) => {
                    let result = done.wait_for(Option::is_some).await.map_err(|_| ConnectError::GivenUp)?.clone();
                    result.unwrap_or(Err(ConnectError::GivenUp))?;
                }
            }
        }
        Err(ConnectError::GivenUp)
    }

    /// After an error on a connection's stream: whoever comes next must not take the same connection, if it is going away.
    pub fn forget_closed(&self, endpoint: &Endpoint, peer: &MeshPeer) {
        self.forget(&self.key(endpoint, peer));
    }

    fn key(&self, endpoint: &Endpoint, peer: &MeshPeer) -> Key {
        let generation = self.identity.generation();
        if generation != self.generation.replace(generation) {
            // Dropping the handles lets each old connection finish its streams and close.
            self.peers.borrow_mut().retain(|key, _| key.generation == generation);
        }
        Key {
            site: endpoint.site.clone(),
            address: SocketAddr::new(endpoint.ip, peer.port),
            identities: peer.identities.clone(),
            generation,
        }
    }

    /// The least busy usable connection, else the wait for one that is being made; starts making one where needed.
    fn look_up(self: &Rc<Self>, key: &Key) -> Found {
        let now = self.identity.now().as_secs();
        let mut peers = self.peers.borrow_mut();
        if peers.len() >= MAX_PEERS && !peers.contains_key(key) {
            peers.retain(|_, peer| !peer.connections.is_empty() || peer.dialling.is_some());
        }
        let peer = peers.entry(key.clone()).or_default();
        peer.connections.retain(|connection| !connection.closed.get() && now <= connection.until);
        let least = peer.connections.iter().min_by_key(|connection| connection.busy.get());
        if let Some(connection) = least {
            let room = connection.busy.get() < connection.sender.current_max_send_streams();
            if room || peer.connections.len() >= MAX_PER_PEER {
                let last_read = connection.last_read.clone();
                return Found::Ready(connection.sender.clone(), last_read, Rc::clone(&connection.busy));
            }
        }
        if let Some(dialling) = &peer.dialling {
            return Found::Dialling(dialling.clone());
        }
        let (done, wait) = watch::channel(None);
        peer.dialling = Some(wait.clone());
        // Its own task: a request that is cancelled must not cancel the connection that others wait for.
        tokio::task::spawn_local(make(Rc::clone(self), key.clone(), done));
        Found::Dialling(wait)
    }

    fn forget(&self, key: &Key) {
        if let Some(peer) = self.peers.borrow_mut().get_mut(key) {
            peer.connections.retain_mut(|connection| {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                !matches!(connection.sender.poll_ready(&mut context), std::task::Poll::Ready(Err(_)))
            });
        }
    }
}

/// The right to one stream on a mesh connection; counted as long as it lives.
pub struct Slot {
    pub sender: SendRequest<Bytes>,
    /// When the connection last gave bytes: just after an answer's head, when that came.
    pub last_read: LastRead,
    _busy: Open,
}

enum Found {
    Ready(SendRequest<Bytes>, LastRead, Rc<Cell<usize>>),
    Dialling(watch::Receiver<Option<Result<(), ConnectError>>>),
}

/// Makes one connection, puts it into the pool, tells the waiting.
async fn make(pool: Rc<Pool>, key: Key, done: watch::Sender<Option<Result<(), ConnectError>>>) {
    let result = connect(&pool, &key).await;
    if let Err(error) = &result {
        tracing::info!(reason = error.reason().word(), peer = %key.address, "{error}");
    }
    let outcome = result.map(|connection| {
        // A rotation meanwhile took the entry away: then the connection closes again, and the waiting look anew.
        if let Some(peer) = pool.peers.borrow_mut().get_mut(&key) {
            peer.connections.push(connection);
        }
    });
    if let Some(peer) = pool.peers.borrow_mut().get_mut(&key) {
        peer.dialling = None;
    }
    let _ = done.send(Some(outcome));
}

async fn connect(pool: &Rc<Pool>, key: &Key) -> Result<Connection, ConnectError> {
    let address = key.address;
    let stream = dial(address, pool.dial).await.map_err(|error| ConnectError::Dial(address, Arc::new(error)))?;
    let config = pool.identity.client_config(&[tls::mesh::ALPN], ExpectedPeer::AnyOf(key.identities.clone()));
    let (stream, peer) = tls::connect(stream, address.ip(), config).await.map_err(|error| {
        pool.metrics.mesh_handshake_failed(MeshSide::Client, error.word());
        ConnectError::Handshake(address, Arc::new(error))
    })?;
    let last_read = stream.get_ref().0.last_read();
    let handshake = Http2Settings::MESH.client().handshake(stream);
    let (sender, connection) = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake)
        .await
        .map_err(|_| ConnectError::Handshake(address, Arc::new(HandshakeError::Timeout)))?
        .map_err(|error| ConnectError::Http2(address, Arc::new(error)))?;
    let closed = Rc::new(Cell::new(false));
    let open = (Open::count(&pool.open), pool.metrics.mesh_connection(MeshSide::Client));
    tokio::task::spawn_local(run(connection, address.ip(), Rc::clone(&closed), open));
    // Of what is left, not of the whole life: that counts from a notBefore which is backdated by ten minutes.
    let left = peer.not_after.as_secs().saturating_sub(pool.identity.now().as_secs());
    let margin = EXPIRY_MARGIN.as_secs().min(left / 20);
    Ok(Connection {
        sender,
        last_read,
        busy: Rc::default(),
        until: peer.not_after.as_secs().saturating_sub(margin),
        closed,
    })
}

type Wire = h2::client::Connection<tokio_rustls::client::TlsStream<Stamped>, Bytes>;

/// Drives a connection until it ends: by GOAWAY and its last stream, by its last handle, or by a ping without answer.
async fn run<G>(mut connection: Wire, peer: IpAddr, closed: Rc<Cell<bool>>, open: G) {
    let pings = connection.ping_pong();
    let alive = async {
        let Some(mut pings) = pings else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(PING_EVERY).await;
            let pong = tokio::time::timeout(PING_EVERY, pings.ping(h2::Ping::opaque())).await;
            if !matches!(pong, Ok(Ok(_))) {
                return;
            }
        }
    };
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%peer, "mesh connection ended: {error}");
            }
        }
        () = alive => tracing::info!(%peer, "mesh connection given up: the peer answers no ping"),
    }
    closed.set(true);
    drop(open);
}
