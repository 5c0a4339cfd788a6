//! Pools of several workers against sidecars that are only as much of one as a test needs. Time is paused only where
//! nothing but time has to pass ([`pass`]): a paused clock runs ahead of a loopback that is busy.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use isthmus_certs::{
    CertificateAuthority, ClientAuth, Clock, IdentityStore, PrivateKey, PublicKeyInfo, SpiffeId, SystemClock,
    TrustDomain, WorkloadIdentity,
};
use isthmus_http2::StreamError;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::peers::{Connection, PeerState};
use super::{ConnectError, Limits, Peers, Pool, Slot};
use crate::reason::Reason;
use crate::state::{Endpoint, Mesh, MeshPeer, State};
use crate::tcp::DialOptions;
use crate::telemetry::Metrics;
use crate::tls;

pub(super) struct World {
    pub(super) ca: CertificateAuthority,
    pub(super) identity: Arc<IdentityStore>,
    pub(super) far: Arc<IdentityStore>,
    pub(super) state: Arc<State>,
    peers: Arc<Peers>,
    metrics: Metrics,
}

pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&TrustDomain::parse("shop.example").unwrap(), "shop", account).unwrap()
}

pub(super) fn issue(ca: &CertificateAuthority, who: &SpiffeId, lifetime: Duration) -> WorkloadIdentity {
    let key = PrivateKey::generate().unwrap();
    let issued = ca.issue(&PublicKeyInfo::of(&key), who, lifetime, &[]).unwrap();
    WorkloadIdentity::from_issued(issued, key, ca.bundle(), SystemClock.now()).unwrap()
}

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

impl World {
    pub(super) fn new() -> World {
        World::by(Arc::new(SystemClock))
    }

    pub(super) fn by(clock: Arc<dyn Clock>) -> World {
        let domain = TrustDomain::parse("shop.example").unwrap();
        let ca = CertificateAuthority::generate(&domain, Arc::clone(&clock)).unwrap();
        let store = |account| {
            let store = IdentityStore::new(domain.clone(), Arc::clone(&clock));
            store.replace(issue(&ca, &id(account), HOUR)).unwrap();
            store
        };
        let (identity, far) = (store("web"), store("orders"));
        let state = State::fixed(Mesh::unknown());
        let peers = Peers::new(&identity, &state, Limits::default());
        World { ca, identity, far, state, peers, metrics: Metrics::new(1) }
    }

    pub(super) fn worker(&self) -> Rc<Pool> {
        Pool::new(Arc::clone(&self.peers), self.metrics.clone(), DialOptions::default())
    }

    pub(super) fn counted(&self, event: &str) -> bool {
        self.metrics.render().contains(event)
    }
}

/// A sidecar that answers each request with 200, `/held` after a minute.
pub(super) struct Far {
    pub(super) address: SocketAddr,
    pub(super) accepted: Rc<Cell<usize>>,
    connections: Rc<RefCell<Vec<AbortHandle>>>,
}

pub(super) async fn far(world: &World) -> Far {
    far_with(world, tls::mesh::PROTOCOLS).await
}

pub(super) async fn far_with(world: &World, protocols: &[&[u8]]) -> Far {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, connections): (Rc<Cell<usize>>, Rc<RefCell<Vec<AbortHandle>>>) = Default::default();
    let (counted, kept) = (Rc::clone(&accepted), Rc::clone(&connections));
    let config = world.far.server_config(protocols, ClientAuth::Required);
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.set(counted.get() + 1);
            let serving = spawn_local(serve(stream, Arc::clone(&config)));
            kept.borrow_mut().push(serving.abort_handle());
        }
    });
    Far { address, accepted, connections }
}

async fn serve(stream: TcpStream, config: Arc<rustls::ServerConfig>) {
    let Ok((stream, ..)) = tls::accept(stream, config).await else { return };
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        match request.uri().path() {
            "/goaway" => connection.graceful_shutdown(),
            "/held" => {
                spawn_local(async move {
                    sleep(Duration::from_secs(60)).await;
                    let _ = respond.send_response(Response::new(()), true);
                });
                continue;
            }
            _ => {}
        }
        let _ = respond.send_response(Response::new(()), true);
    }
}

impl Far {
    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        endpoint(self.address)
    }

    pub(super) fn break_all(&self) {
        self.connections.borrow_mut().drain(..).for_each(|serving| serving.abort());
    }
}

pub(super) fn endpoint(address: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        site: None,
        ip: address.ip(),
        target_ports: [(80, 8080)].into(),
        workload: None,
        mesh: Some(MeshPeer { port: address.port(), identities: vec![id("orders")] }),
    })
}

pub(super) async fn acquire(pool: &Rc<Pool>, endpoint: &Arc<Endpoint>) -> Result<Slot, ConnectError> {
    pool.acquire(endpoint, endpoint.mesh.as_ref().unwrap()).await
}

pub(super) async fn get(slot: &Slot, path: &str) -> Result<StatusCode, StreamError> {
    let request = Request::get(format!("http://orders.shop{path}")).body(()).unwrap();
    let (response, _) = slot.send_request(request, true)?;
    Ok(response.await?.status())
}

pub(super) async fn on_worker<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(timeout(HOUR, test)).await.expect("the test ends in time")
}

/// Lets time go by at once.
pub(super) async fn pass(time: Duration) {
    tokio::time::pause();
    sleep(time).await;
    tokio::time::resume();
}

pub(super) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn once_connected_nobody_waits_and_a_new_snapshot_finds_the_same_connection() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        assert!(pool.try_acquire(&to).is_none());
        let slot = acquire(&pool, &to).await.unwrap();
        assert_eq!(get(&slot, "/").await.unwrap(), 200);
        assert!(pool.try_acquire(&to).is_some());
        // The same endpoint, read anew from the control plane.
        let again = far.endpoint();
        assert!(pool.try_acquire(&again).is_none(), "known by its place in memory");
        assert!(acquire(&pool, &again).await.is_ok());
        assert!(pool.try_acquire(&again).is_some());
        assert_eq!((far.accepted.get(), pool.open()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn an_idle_worker_borrows_a_busy_one_makes_its_own_and_the_process_keeps_its_limit() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let to = far.endpoint();
        let workers = [world.worker(), world.worker(), world.worker(), world.worker()];
        for worker in &workers {
            let slot = acquire(worker, &to).await.unwrap();
            assert_eq!(get(&slot, "/").await.unwrap(), 200);
        }
        assert_eq!(far.accepted.get(), 1, "three of four borrow");
        assert_eq!([0, 1, 2, 3].map(|worker: usize| workers[worker].open()), [1, 0, 0, 0]);
        let mut held = Vec::new();
        for _ in 0..20 {
            for worker in &workers {
                held.push(acquire(worker, &to).await.unwrap());
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(far.accepted.get(), 2, "a busy one has made its own, and there are no more than two");
        let shares: Vec<usize> = workers.iter().map(|worker| worker.open()).collect();
        assert_eq!(shares.iter().max(), Some(&1), "{shares:?}");
        for slot in &held {
            assert_eq!(get(slot, "/").await.unwrap(), 200);
        }
    })
    .await;
}

#[test]
fn streams_run_on_a_connection_of_another_thread() {
    let world = World::new();
    let (peers, metrics) = (Arc::clone(&world.peers), world.metrics.clone());
    let (ask, asked) = tokio::sync::oneshot::channel::<SocketAddr>();
    let (done, finished) = tokio::sync::oneshot::channel();
    let borrower = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let to = endpoint(asked.await.unwrap());
            let pool = Pool::new(peers, metrics, DialOptions::default());
            for _ in 0..1_000 {
                let slot = acquire(&pool, &to).await.unwrap();
                assert_eq!(get(&slot, "/").await.unwrap(), 200);
            }
            assert_eq!(pool.open(), 0, "it drives none");
            let _ = done.send(());
        });
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        drop(acquire(&pool, &to).await.unwrap());
        ask.send(far.address).unwrap();
        finished.await.unwrap();
        assert_eq!(far.accepted.get(), 1);
    });
    borrower.join().unwrap();
}

#[tokio::test]
async fn a_failure_is_the_answer_for_everybody_who_comes_shortly_after() {
    on_worker(async {
        let world = World::new();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (pool, other, to) = (world.worker(), world.worker(), endpoint(closed));
        for worker in [&pool, &other, &pool] {
            let error = acquire(worker, &to).await.map(drop).unwrap_err();
            assert_eq!(error.reason(), Reason::ConnectFailed);
        }
        assert!(world.counted("isthmus_mesh_events_total{event=\"dial-failed\"} 1\n"), "one attempt");
        assert!(world.counted("isthmus_mesh_events_total{event=\"failed-fast\"} 2\n"));
        pass(Duration::from_millis(600)).await;
        assert!(acquire(&pool, &to).await.is_err());
        assert!(world.counted("isthmus_mesh_events_total{event=\"dial-failed\"} 2\n"), "then it is tried again");
    })
    .await;
}

#[tokio::test]
async fn a_dead_peer_is_tried_less_and_less_often_and_found_when_it_is_back() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        drop(acquire(&pool, &to).await.unwrap());
        // Without a request: the connection is lost, and made anew.
        far.break_all();
        until(|| far.accepted.get() == 2).await;
        until(|| pool.try_acquire(&to).is_some()).await;
        // A relay in its place refuses: attempts come apart.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let gone = endpoint(closed);
        assert!(acquire(&pool, &gone).await.is_err());
        pass(Duration::from_secs(240)).await;
        let attempts = (1..40).find(|n| world.counted(&format!("{{event=\"dial-failed\"}} {n}\n"))).unwrap();
        assert!((8..=24).contains(&attempts), "{attempts} attempts in four minutes");
    })
    .await;
}

#[tokio::test]
async fn what_nobody_uses_is_closed_and_not_kept_warm() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        drop(acquire(&pool, &to).await.unwrap());
        pass(Duration::from_secs(290)).await;
        assert_eq!(pool.open(), 1, "kept for those who come back");
        pass(Duration::from_secs(30)).await;
        assert_eq!(pool.open(), 0);
        assert!(world.counted("idle-closed"));
        far.break_all();
        pass(Duration::from_secs(60)).await;
        assert_eq!(far.accepted.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_new_certificate_brings_a_new_connection_before_the_old_one_goes() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        drop(acquire(&pool, &to).await.unwrap());
        world.identity.replace(issue(&world.ca, &id("web"), HOUR)).unwrap();
        assert!(pool.try_acquire(&to).is_some(), "the old one goes on meanwhile");
        until(|| far.accepted.get() == 2).await;
        until(|| pool.open() == 1).await;
        assert_eq!(get(&pool.try_acquire(&to).unwrap(), "/").await.unwrap(), 200);
    })
    .await;
}

#[tokio::test]
async fn other_roots_end_what_was_trusted_under_the_old_ones() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        let held = acquire(&pool, &to).await.unwrap();
        let stranger =
            CertificateAuthority::generate(&TrustDomain::parse("shop.example").unwrap(), Arc::new(SystemClock));
        world.identity.set_bundle(stranger.unwrap().bundle());
        assert!(pool.try_acquire(&to).is_none(), "at once, and not only when a new one is there");
        let refused = acquire(&pool, &to).await.map(drop).unwrap_err();
        assert_eq!(refused.reason(), Reason::PeerIdentity);
        drop(held);
        until(|| pool.open() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn after_goaway_the_next_stream_takes_another_connection_and_those_open_finish() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        let held = acquire(&pool, &to).await.unwrap();
        let request = Request::get("http://orders.shop/held").body(()).unwrap();
        let (answer, _) = held.send_request(request, true).unwrap();
        assert_eq!(get(&held, "/goaway").await.unwrap(), 200);
        let next = acquire(&pool, &to).await.unwrap();
        assert_eq!(get(&next, "/").await.unwrap(), 200);
        assert_eq!(far.accepted.get(), 2);
        pass(Duration::from_secs(60)).await;
        assert_eq!(answer.await.unwrap().status(), 200);
        drop(held);
        until(|| pool.open() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_long_link_gets_a_second_connection_and_streams_spread_over_both() {
    on_worker(async {
        let world = World::new();
        let far = far(&world).await;
        let (pool, to) = (world.worker(), far.endpoint());
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(acquire(&pool, &to).await.unwrap());
        }
        pass(Duration::from_secs(5)).await;
        assert_eq!(far.accepted.get(), 1, "on a short way one carries them all");
        held.clear();
        // As if a megabyte had been under way at once.
        let peer = Arc::clone(&pool.locals.borrow().values().next().unwrap().peer);
        peer.lock().connections[0].link.note_long();
        for _ in 0..9 {
            held.push(acquire(&pool, &to).await.unwrap());
        }
        until(|| peer.lock().connections.len() == 2).await;
        for _ in 0..9 {
            held.push(acquire(&pool, &to).await.unwrap());
        }
        let streams = |one: &Connection| one.link.busy.load(Ordering::Relaxed);
        let busy = |state: &PeerState| state.connections.iter().map(streams).collect::<Vec<_>>();
        assert_eq!(busy(&peer.lock()), [9, 9]);
        for _ in 0..50 {
            held.push(acquire(&pool, &to).await.unwrap());
        }
        assert_eq!(far.accepted.get(), 2);
    })
    .await;
}
