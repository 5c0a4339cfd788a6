//! Makes one mesh connection: TCP, TLS, HTTP/2. A ClientHello with ML-KEM is longer than one segment. Where TCP connects
//! and that hello gets no answer at all, the way is tried once more with a hello and with segments that pass everywhere;
//! when that works, something between the two sidecars drops large hellos: it is said, and remembered for a while.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{ExpectedPeer, Negotiated, PeerIdentity};
use isthmus_http2::Http2Settings;
use rand::RngExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::peers::{Connection, Dialled, Link, LinkFacts, Peer};
use super::{ConnectError, Pool, drive};
use crate::tcp::{dial, dial_with};
use crate::telemetry::{MeshSide, WatchedLink};
use crate::tls::mesh::PROTOCOLS;
use crate::tls::socket::use_smallest_segments;
use crate::tls::{self, HandshakeError, MeshProtocol, Stamped};

/// A ClientHello without an answer for so long may have been dropped; more on a way whose TCP handshake was slow.
const HELLO_ANSWER: Duration = Duration::from_secs(1);
/// So many round trips, where that is more: the hello's own, and two retransmissions.
const HELLO_ROUND_TRIPS: u32 = 4;
/// So long a way is not tried again with large hellos. Ways change by hand, within hours.
const SMALL_HELLO_FOR: Duration = Duration::from_secs(600);
/// A connection whose peer's certificate ends within this takes no new streams; less for very short certificates.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// Those who come within this after a failure get that failure, instead of an attempt each.
const FAIL_FAST: Duration = Duration::from_millis(500);
/// A connection is followed by one that nobody waits for after this at the earliest: where the peer's certificate is not
/// renewed yet, the successor ends as soon as its predecessor.
const SUCCESSOR_AFTER: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(30);

pub(super) type Wire = isthmus_http2::Connection<TlsStream<Stamped>>;

/// Begins to make a connection, unless somebody does already or it has just failed. Returns the wait for it.
pub(super) fn begin(pool: &Rc<Pool>, peer: &Arc<Peer>) -> Result<watch::Receiver<Dialled>, ConnectError> {
    let mut state = peer.lock();
    if let Some(dialling) = &state.dialling {
        return Ok(dialling.clone());
    }
    if let Some((at, error)) = &state.failed
        && at.elapsed() < FAIL_FAST
    {
        return Err(error.clone());
    }
    let (done, wait) = watch::channel(None);
    state.dialling = Some(wait.clone());
    // Its own task: a request that is cancelled must not cancel the connection that others wait for.
    tokio::task::spawn_local(make(Rc::clone(pool), Attempt { peer: Arc::clone(peer), done }));
    Ok(wait)
}

/// Clears the peer's mark when it ends, also when it is dropped with its worker.
struct Attempt {
    peer: Arc<Peer>,
    done: watch::Sender<Dialled>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.peer.lock().dialling = None;
    }
}

/// Makes one connection, puts it into the pool, tells the waiting.
async fn make(pool: Rc<Pool>, attempt: Attempt) {
    let peer = &attempt.peer;
    let outcome = match connect(&pool, peer).await {
        Ok((connection, wire)) => {
            add(&pool, peer, &connection);
            let open = (pool.count_open(), pool.metrics.mesh_connection(MeshSide::Client));
            drive::spawn(&pool, peer, connection.link, wire, open);
            Ok(())
        }
        Err(error) => {
            tracing::info!(reason = error.reason().word(), peer = %peer.key.address, "{error}");
            note_failure(peer, &error);
            Err(error)
        }
    };
    peer.lock().dialling = None;
    let _ = attempt.done.send(Some(outcome));
}

/// From now on the peer is spoken to over this connection, and no longer over those of our last certificate.
fn add(pool: &Pool, peer: &Peer, connection: &Connection) {
    let generation = connection.link.generation;
    let unix = pool.peers.identity.now().as_secs();
    peer.change(|state| {
        let lasts = |other: &Connection| other.link.generation >= generation && other.link.successor_at > unix;
        state.connections.retain(lasts);
        state.connections.push(connection.clone());
        state.failures = 0;
        state.failed = None;
        state.retry_at = Some(Instant::now() + SUCCESSOR_AFTER);
    });
    pool.peers.tell();
}

pub(super) fn note_failure(peer: &Peer, error: &ConnectError) {
    let mut state = peer.lock();
    let wait = backoff(state.failures);
    state.failures = state.failures.saturating_add(1);
    let now = Instant::now();
    state.failed = Some((now, error.clone()));
    state.retry_at = Some(now + wait);
}

/// Doubles from failure to failure. Between half of it and all of it: proxies that lost the same peer come back apart.
fn backoff(failures: u32) -> Duration {
    let most = BACKOFF_FIRST.saturating_mul(1 << failures.min(10)).min(BACKOFF_MOST);
    most.mul_f64(rand::rng().random_range(0.5..1.0))
}

async fn connect(pool: &Pool, peer: &Peer) -> Result<(Connection, Wire), ConnectError> {
    let small = peer.lock().small_hello_until.is_some_and(|until| Instant::now() < until);
    let first = attempt(pool, peer, if small { Hello::Small } else { Hello::Hybrid }).await;
    let Err(ConnectError::Handshake(address, error)) = &first else { return first };
    if small || !matches!(**error, HandshakeError::Silent) {
        pool.metrics.mesh_handshake_failed(MeshSide::Client, error.word());
        return first;
    }
    let second = attempt(pool, peer, Hello::Small).await;
    match &second {
        Ok(_) => {
            peer.lock().small_hello_until = Some(Instant::now() + SMALL_HELLO_FOR);
            pool.metrics.mesh_handshake_failed(MeshSide::Client, HELLO_DROPPED);
            tracing::warn!(
                reason = HELLO_DROPPED,
                peer = %address,
                "something on the way drops ClientHellos of two segments (X25519MLKEM768): the connection has a classical \
                 key exchange; let the firewall pass TLS of any size, and check the way's MTU"
            );
        }
        Err(ConnectError::Handshake(_, error)) => {
            pool.metrics.mesh_handshake_failed(MeshSide::Client, error.word());
        }
        Err(_) => {}
    }
    second
}

/// The word of metric and log.
const HELLO_DROPPED: &str = "hello_dropped";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hello {
    Hybrid,
    Small,
}

async fn attempt(pool: &Pool, peer: &Peer, hello: Hello) -> Result<(Connection, Wire), ConnectError> {
    let address = peer.key.address;
    let started = Instant::now();
    let connected = match hello {
        Hello::Hybrid => dial(address, pool.dial).await,
        Hello::Small => dial_with(address, pool.dial, use_smallest_segments).await,
    };
    let stream = connected.map_err(|error| {
        pool.metrics.mesh_event("dial-failed");
        ConnectError::Dial(address, Arc::new(error))
    })?;
    let round_trip = started.elapsed();
    let watched = watch(pool, peer, &stream);
    let generation = pool.peers.generation();
    let expected = ExpectedPeer::AnyOf(peer.key.identities.clone());
    let config = match hello {
        Hello::Hybrid => pool.peers.identity.client_config(PROTOCOLS, expected),
        Hello::Small => pool.peers.identity.client_config_small_hello(PROTOCOLS, expected),
    };
    let began = Instant::now();
    let first_answer = HELLO_ANSWER.max(round_trip * HELLO_ROUND_TRIPS);
    let (stream, identity, protocol) = tls::connect(stream, address.ip(), config, first_answer)
        .await
        .map_err(|error| ConnectError::Handshake(address, Arc::new(error)))?;
    let last_read = stream.get_ref().0.last_read();
    let (negotiated, in_common) = (Negotiated::of(stream.get_ref().1), tls::in_common(stream.get_ref().1));
    pool.metrics.mesh_negotiated(MeshSide::Client, negotiated, began.elapsed());
    tracing::debug!(peer = %address, callee = %identity.id, %negotiated, "mesh connection made");
    let (sender, wire) = isthmus_http2::connect(stream, Http2Settings::MESH);
    let (until, successor_at) = ends(pool, &identity);
    let facts = LinkFacts { protocol, identity, negotiated, in_common, last_read, until, successor_at, watched };
    Ok((Connection { sender, link: Arc::new(Link::new(pool.worker, generation, facts)) }, wire))
}

/// From now on the kernel is asked about it.
fn watch(pool: &Pool, peer: &Peer, stream: &TcpStream) -> Option<WatchedLink> {
    let site = peer.key.site.as_ref().map(ToString::to_string).unwrap_or_default();
    Some(pool.metrics.links().watch(&site, stream.local_addr().ok()?, stream.peer_addr().ok()?))
}

/// New streams end shortly before the first of both certificates does, and the successor comes before that. There is no
/// other greatest age: certificates live for hours, so that each connection is made anew a few times a day, at a time
/// that jitter has spread already.
fn ends(pool: &Pool, identity: &PeerIdentity) -> (u64, u64) {
    let own = pool.peers.identity.current().map_or(u64::MAX, |own| own.not_after.as_secs());
    let end = identity.not_after.as_secs().min(own);
    // Of what is left, not of the whole life: that counts from a notBefore which is backdated by ten minutes.
    let left = end.saturating_sub(pool.peers.identity.now().as_secs());
    let margin = EXPIRY_MARGIN.as_secs().min(left / 20);
    (end.saturating_sub(margin), end.saturating_sub(2 * margin))
}

impl Link {
    /// Whether requests may use it, and not only tunnels.
    pub(super) fn takes_requests(&self) -> bool {
        self.protocol == MeshProtocol::Isthmus
    }
}
