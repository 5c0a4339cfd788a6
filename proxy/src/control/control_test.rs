//! The life of a proxy against a control plane: real TLS and gRPC, paused time.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isthmus_certs::{Clock, PeerError, RootFingerprint};
use isthmus_proto::discovery::v1::{self as wire, proxy_message::Message};
use isthmus_proto::model::ResourceKey;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fake_test::{ControlPlane, Session};
use super::*;
use crate::state::standing::Standing;
use crate::state::{Destination, Mesh};
use crate::tcp::DialOptions;

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

pub(super) struct Proxy {
    pub(super) state: Arc<State>,
    pub(super) identities: Arc<IdentityStore>,
    pub(super) standing: Arc<Standing>,
    pub(super) metrics: Metrics,
    running: JoinHandle<Result<(), ControlError>>,
    shutdown: CancellationToken,
}

impl Proxy {
    pub(super) async fn end(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

pub(super) fn settings(control: &ControlPlane, state_dir: Option<PathBuf>) -> Settings {
    Settings {
        address: None,
        token: Some(control.token.clone()),
        enrol: None,
        state_dir,
        seal: Seal::default(),
        last_good: Some(24 * HOUR),
        machine_id: b"this machine".to_vec(),
        dial: DialOptions::default(),
        build_version: "test".into(),
    }
}

pub(super) fn nothing_told() -> Told {
    Told { health: tokio::sync::watch::channel(None).1, probed: tokio::sync::watch::channel(Arc::from([])).1 }
}

pub(super) fn proxy(control: &ControlPlane, settings: Settings) -> Proxy {
    proxy_by(control, settings, control.dialer())
}

pub(super) fn proxy_by(control: &ControlPlane, settings: Settings, dialer: Dialer) -> Proxy {
    let start = Start::prepare(settings, Arc::clone(&control.clock)).unwrap();
    let identities = Arc::clone(start.identities());
    let (state, demands) = State::new();
    let (shutdown, standing) = (CancellationToken::new(), Arc::clone(start.standing()));
    let (metrics, flows) = (Metrics::new(1), Collector::new(0).1);
    let upward = Upward {
        state: Arc::clone(&state),
        demands,
        metrics: metrics.clone(),
        flows,
        decisions: Decisions::new(),
        kept: None,
        told: nothing_told(),
    };
    let running = run_with(start, dialer, upward, shutdown.clone());
    Proxy { state, identities, standing, metrics, running: tokio::spawn(running), shutdown }
}

pub(super) fn mesh() -> wire::Resource {
    let site =
        |name: &str, range: &str| wire::Site { name: name.into(), ranges: vec![range.into()], ..Default::default() };
    let mesh = wire::Mesh {
        trust_domain: "shop.example".into(),
        enforcement: wire::Enforcement::Enforce.into(),
        site: "dc1".into(),
        sites: vec![site("azure-eastus", "10.10.0.0/16"), site("dc1", "10.20.0.0/16")],
        ..Default::default()
    };
    resource(ResourceKey::Mesh, wire::resource::Body::Mesh(mesh))
}

/// The mesh with a certificate revoked.
fn mesh_revoking(serial: isthmus_certs::Serial, epoch: u64) -> wire::Resource {
    let mut resource = mesh();
    let Some(wire::resource::Body::Mesh(mesh)) = &mut resource.body else { panic!("a mesh") };
    mesh.revocations =
        Some(wire::Revocations { epoch, serials: vec![serial.as_bytes().to_vec()], ..Default::default() });
    resource
}

pub(super) fn inbound(workload: &str) -> wire::Resource {
    let policy = wire::PortPolicy {
        transport: wire::Transport::MeshOnly.into(),
        min_tls_version: wire::TlsVersion::TlsVersion12.into(),
        default_action: wire::Action::Allow.into(),
        ..Default::default()
    };
    let inbound = wire::Inbound {
        workload: workload.into(),
        addresses: vec!["10.20.1.10".into()],
        default_policy: Some(policy),
        ..Default::default()
    };
    resource(ResourceKey::Inbound, wire::resource::Body::Inbound(inbound))
}

pub(super) fn resource(key: ResourceKey, body: wire::resource::Body) -> wire::Resource {
    wire::Resource { key: Some(key.into()), requires: vec![], body: Some(body) }
}

pub(super) fn plain_workload(at: &str) -> wire::Resource {
    let endpoint = wire::Endpoint { ip: at.into(), ..Default::default() };
    let workload = wire::Workload { endpoint: Some(endpoint), ports: vec![] };
    let address = wire::Address { ip: at.into(), target: Some(wire::address::Target::Workload(workload)) };
    resource(ResourceKey::Address(at.parse().unwrap()), wire::resource::Body::Address(address))
}

pub(super) fn delta(version: u64, upserts: Vec<wire::Resource>, complete: bool) -> wire::Delta {
    wire::Delta { version, upserts, first_sync_complete: complete, ..Default::default() }
}

pub(super) async fn synced(control: &mut ControlPlane, version: u64) -> (Session, wire::Hello) {
    let mut session = control.session().await;
    let hello = session.hello().await;
    session.welcome(control.clock.as_ref()).await;
    session.delta(delta(version, vec![mesh(), inbound("shop/orders")], true)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version }));
    (session, hello)
}

pub(super) fn destination(mesh: &Mesh, ip: &str) -> Destination {
    mesh.destination(SocketAddr::new(ip.parse().unwrap(), 80))
}

#[tokio::test(start_paused = true)]
async fn a_proxy_enrols_says_hello_and_swaps_to_the_first_sync_at_once() {
    let mut control = ControlPlane::start(HOUR);
    let proxy = proxy(&control, settings(&control, None));
    let mut session = control.session().await;
    let hello = session.hello().await;
    assert_eq!((hello.protocol, hello.workload.as_str()), (1, "shop/orders"));
    assert_eq!(hello.features, isthmus_proto::FEATURES);
    assert_eq!(proxy.identities.current().unwrap().id.service_account(), "orders");
    session.welcome(control.clock.as_ref()).await;
    session.delta(delta(6, vec![mesh()], false)).await;
    let mut published = proxy.state.subscribe();
    session.delta(delta(6, vec![inbound("shop/orders")], true)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 6 }));
    published.changed().await.unwrap();
    assert_eq!(*published.borrow(), 1, "published once, when all of it was there");
    let mesh = proxy.state.snapshot();
    assert!(mesh.is_ready() && mesh.is_own_address("10.20.1.10".parse().unwrap()));
    proxy.shutdown.cancel();
    proxy.running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_with_another_root_is_refused_before_anything_is_sent() {
    let mut control = ControlPlane::start(HOUR);
    let other = ControlPlane::start(HOUR);
    control.token.root = RootFingerprint::of(other.ca.root());
    let proxy = proxy(&control, settings(&control, None));
    let error = proxy.running.await.unwrap().unwrap_err();
    let ControlError::Peer { peer, .. } = &error else { panic!("{error}") };
    assert_eq!(*peer, PeerError::UntrustedRoot);
    assert_eq!(control.requests.load(Ordering::Relaxed), 0);
    assert!(proxy.identities.current().is_none());
}

/// A clock that runs as another one does, and is wrong.
struct Wrong(Arc<dyn Clock>, i64);

impl Clock for Wrong {
    fn now_ms(&self) -> i64 {
        self.0.now_ms() + self.1
    }
}

#[tokio::test(start_paused = true)]
async fn clock_skew_is_named_and_not_met_as_a_tls_error() {
    // The control plane's own certificate began ten minutes ago and lives for an hour.
    for (off_ms, words) in [
        (-1_023_000, "clock skew 17 m 3 s: this machine is behind the control plane"),
        (7_200_000, "clock skew 2 h 0 m: this machine is ahead of the control plane"),
        (400_000, "clock skew 6 m 40 s: this machine is ahead of the control plane"),
    ] {
        let control = ControlPlane::start(HOUR);
        let wrong: Arc<dyn Clock> = Arc::new(Wrong(Arc::clone(&control.clock), off_ms));
        let start = Start::prepare(settings(&control, None), wrong).unwrap();
        let contact = start.first_contact().unwrap().clone();
        let (dialer, key) = (control.dialer(), isthmus_certs::csr::new_key().unwrap());
        let error = enroll::enroll(&start, &dialer, &contact, &key, &Metrics::new(1)).await.err().unwrap();
        let probe = || ExpectedPeer::PinnedClockProbe(contact.root, SpiffeId::control_plane(&contact.trust_domain));
        let error = skew::named(error, &dialer, start.identities(), probe).await;
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_final(), "a clock can be set");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_the_clock_trusts_nobody_else() {
    let control = ControlPlane::start(HOUR);
    let other = ControlPlane::start(HOUR);
    let wrong: Arc<dyn Clock> = Arc::new(Wrong(Arc::clone(&control.clock), -7_200_000));
    let start = Start::prepare(settings(&control, None), wrong).unwrap();
    let contact = start.first_contact().unwrap().clone();
    let probe = ExpectedPeer::PinnedClockProbe(contact.root, SpiffeId::control_plane(&contact.trust_domain));
    let reached = connect::channel(&other.dialer(), start.identities().client_config(connect::ALPN, probe)).await;
    assert!(matches!(reached.err(), Some(ControlError::Peer { peer: PeerError::UntrustedRoot, .. })));
}

#[tokio::test(start_paused = true)]
async fn a_spent_token_is_a_clear_error_and_not_tried_again() {
    let control = ControlPlane::start(HOUR);
    let first = proxy(&control, settings(&control, None));
    let mut control = control;
    let _session = control.session().await;
    let second = proxy(&control, settings(&control, None));
    let error = second.running.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("used before") && error.contains("isthmus token create"), "{error}");
    first.shutdown.cancel();
    first.running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_from_the_future_is_nacked_refused_and_the_rest_applied() {
    let mut control = ControlPlane::start(HOUR);
    let proxy = proxy(&control, settings(&control, None));
    let (mut session, _) = synced(&mut control, 6).await;
    let mut future = plain_workload("10.10.1.1");
    future.requires = vec!["weather/v9".into()];
    session.delta(delta(7, vec![future, plain_workload("10.10.1.2")], false)).await;
    let Message::Nack(nack) = session.hear().await else { panic!("a nack") };
    assert_eq!((nack.version, nack.problems.len()), (7, 1));
    assert!(nack.problems[0].reason.contains("weather/v9"), "{}", nack.problems[0].reason);
    let mesh = proxy.state.snapshot();
    assert!(matches!(destination(&mesh, "10.10.1.1"), Destination::UnknownFeature));
    assert!(matches!(destination(&mesh, "10.10.1.2"), Destination::Workload { .. }));
}

#[tokio::test(start_paused = true)]
async fn addresses_are_asked_for_on_demand_and_every_answer_is_definitive() {
    let mut control = ControlPlane::start(HOUR);
    let proxy = proxy(&control, settings(&control, None));
    let (mut session, _) = synced(&mut control, 6).await;
    let resolve = |ip: &str| {
        let (state, ip): (_, IpAddr) = (Arc::clone(&proxy.state), ip.parse().unwrap());
        tokio::spawn(async move { state.resolve(ip).await })
    };
    let asked =
        |ip: &str| wire::Subscribe { add: vec![ResourceKey::Address(ip.parse().unwrap()).into()], drop: vec![] };
    let there = resolve("10.10.1.1");
    assert_eq!(session.hear().await, Message::Subscribe(asked("10.10.1.1")));
    session.delta(delta(6, vec![plain_workload("10.10.1.1")], false)).await;
    assert!(matches!(destination(&there.await.unwrap(), "10.10.1.1"), Destination::Workload { .. }));
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 6 }));

    let absent = resolve("10.10.1.2");
    assert_eq!(session.hear().await, Message::Subscribe(asked("10.10.1.2")));
    let removal = wire::Delta {
        removals: vec![ResourceKey::Address("10.10.1.2".parse().unwrap()).into()],
        ..delta(6, vec![], false)
    };
    session.delta(removal).await;
    assert!(matches!(destination(&absent.await.unwrap(), "10.10.1.2"), Destination::Absent));

    let silent = resolve("10.10.1.3").await.unwrap();
    assert!(matches!(destination(&silent, "10.10.1.3"), Destination::Pending));
}

#[tokio::test(start_paused = true)]
async fn without_a_stream_the_last_snapshot_serves_and_the_next_hello_carries_what_is_used() {
    let mut control = ControlPlane::start(HOUR);
    let proxy = proxy(&control, settings(&control, None));
    let (mut session, hello) = synced(&mut control, 6).await;
    assert!(hello.subscriptions.is_empty());
    let resolve = proxy.state.resolve("10.10.1.1".parse().unwrap());
    let answer = async {
        session.hear().await;
        session.delta(delta(6, vec![plain_workload("10.10.1.1")], false)).await;
        session.hear().await
    };
    tokio::join!(resolve, answer);
    drop(session);

    let mut again = control.session().await;
    let hello = again.hello().await;
    let used = ResourceKey::Address("10.10.1.1".parse().unwrap()).into();
    assert_eq!(hello.subscriptions, vec![used]);
    again.welcome(control.clock.as_ref()).await;
    again.delta(delta(9, vec![mesh()], false)).await;
    let before = proxy.state.snapshot();
    assert_eq!(before.version, 6);
    assert!(matches!(destination(&before, "10.10.1.1"), Destination::Workload { .. }));
    // What it used is not sent again: by the end of the sync that means that it is gone.
    again.delta(delta(9, vec![inbound("shop/orders")], true)).await;
    assert_eq!(again.hear().await, Message::Ack(wire::Ack { version: 9 }));
    let after = proxy.state.snapshot();
    assert!(matches!(destination(&after, "10.10.1.1"), Destination::Absent));
}

#[tokio::test(start_paused = true)]
async fn a_view_of_another_workload_is_nacked_and_not_taken() {
    let mut control = ControlPlane::start(HOUR);
    let proxy = proxy(&control, settings(&control, None));
    let (mut session, _) = synced(&mut control, 6).await;
    session.delta(delta(7, vec![inbound("shop/web")], false)).await;
    assert!(matches!(session.hear().await, Message::Nack(nack) if nack.version == 7));
    assert!(proxy.state.snapshot().is_own_address("10.20.1.10".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_again_and_again_each_with_a_new_key() {
    let mut control = ControlPlane::start(Duration::from_secs(120));
    let proxy = proxy(&control, settings(&control, None));
    let (_session, _) = synced(&mut control, 6).await;
    let (changed, mut seen) = tokio::sync::mpsc::channel(8);
    let _hook = proxy.identities.subscribe(move |generation| {
        let _ = changed.try_send(generation);
    });
    let mut before = proxy.identities.current().unwrap();
    for _ in 0..3 {
        seen.recv().await.unwrap();
        let now = proxy.identities.current().unwrap();
        assert_ne!(now.serial, before.serial);
        assert_ne!(now.key.public().as_point(), before.key.public().as_point());
        assert!(control.clock.now().as_secs() < before.not_after.as_secs(), "in time");
        before = now;
    }
    assert_eq!(control.lifetime, Duration::from_secs(120));
}

#[tokio::test(start_paused = true)]
async fn revocations_are_in_force_before_the_answer_survive_a_restart_and_never_roll_back() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let mut control = ControlPlane::start(HOUR);
    let first = proxy(&control, settings(&control, Some(state_dir.clone())));
    let (mut session, _) = synced(&mut control, 6).await;
    let serial = isthmus_certs::Serial::from_bytes(&[0xab, 1]).unwrap();
    session.delta(delta(7, vec![mesh_revoking(serial, 9)], false)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 7 }));
    assert!(first.identities.revocations().serials.contains(&serial));
    // A control plane that was restored from an older backup.
    session.delta(delta(8, vec![mesh()], false)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 8 }));
    assert_eq!(first.identities.revocations().epoch, 9);
    // What it revokes now is in force all the same, and takes nothing away.
    let another = isthmus_certs::Serial::from_bytes(&[0xcd]).unwrap();
    session.delta(delta(9, vec![mesh_revoking(another, 3)], false)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 9 }));
    assert_eq!(first.identities.revocations().serials, [serial, another].into());
    // Each is on disk before the next message is looked at.
    session.delta(delta(10, vec![mesh()], false)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 10 }));
    first.shutdown.cancel();
    first.running.await.unwrap().unwrap();

    let without = || Settings { token: None, ..settings(&control, Some(state_dir.clone())) };
    let start = Start::prepare(without(), Arc::clone(&control.clock)).unwrap();
    assert_eq!(start.identities().revocations().serials, [serial, another].into(), "with no control plane asked");
    std::fs::write(state_dir.join("revoked.json"), "{").unwrap();
    let error = Start::prepare(without(), Arc::clone(&control.clock)).err().unwrap().to_string();
    assert!(error.contains("revoked.json") && error.contains("is damaged"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_needs_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(HOUR);
    let first = proxy(&control, settings(&control, Some(dir.path().join("state"))));
    let _ = control.session().await.hello().await;
    let serial = first.identities.current().unwrap().serial;
    first.shutdown.cancel();
    first.running.await.unwrap().unwrap();
    let without = Settings { token: None, ..settings(&control, Some(dir.path().join("state"))) };
    let second = proxy(&control, without);
    assert_eq!(second.identities.current().unwrap().serial, serial);
    let hello = control.session().await.hello().await;
    assert_eq!(hello.workload, "shop/orders");
}

#[tokio::test(start_paused = true)]
async fn without_identity_and_token_the_error_says_what_to_do() {
    let control = ControlPlane::start(HOUR);
    let without = Settings { token: None, ..settings(&control, None) };
    let error = Start::prepare(without, Arc::clone(&control.clock)).err().unwrap().to_string();
    assert!(error.contains("isthmus token create"), "{error}");
}
