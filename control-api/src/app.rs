//! Wiring: the one place that knows everybody. Store and CA first, then sockets, then services, then time.

use crate::admin::{self, APPLYING_AT_ONCE, MAX_APPLY, Operators, Overseer};
use crate::audit::AuditLog;
use crate::authority::rotation::Rotation;
use crate::authority::{self, Authorities, Own};
use crate::config::Config;
use crate::confirm;
use crate::flows::Intake;
use crate::flows::store::FlowStore;
use crate::history::Keep;
use crate::identity::attest::Attestors;
use crate::identity::issuer::Issuer;
use crate::identity::{ENROLLING_AT_ONCE, Identities, restore, revocation, tokens};
use crate::index::Trust;
use crate::ledger::Ledger;
use crate::operators::Gatekeeper;
use crate::pages::{self, Pages};
use crate::push::registry::Registry;
use crate::push::{Push, lease, wake};
use crate::serve::{Gate, Peer, connections};
use crate::source;
use crate::store::{EmbeddedStore, Store};
use isthmus_certs::{ClientAuth, Clock, SystemClock, TrustDomain};
use isthmus_proto::admin::v1::admin_server::AdminServer;
use isthmus_proto::admin::v1::authority_server::AuthorityServer;
use isthmus_proto::admin::v1::policy_server::PolicyServer;
use isthmus_proto::admin::v1::resources_server::ResourcesServer;
use isthmus_proto::discovery::v1::discovery_server::DiscoveryServer;
use isthmus_proto::flows::v1::flows_server::FlowsServer;
use isthmus_proto::identity::v1::identity_server::IdentityServer;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

/// Each proxy holds one; the design size is 10,000.
const PROXY_CONNECTIONS: usize = 20_000;
const OPERATOR_CONNECTIONS: usize = 256;
/// A proxy uses one stream and a call now and then; an operator's tools a few more.
const STREAMS: u32 = 64;
/// A peer that answers no ping for this long is gone: its host died, or the link did.
const PING_EVERY: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Open calls may end; then they are ended.
const DRAIN: Duration = Duration::from_secs(10);
const AUDIT_DIR: &str = "audit";
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Why the control plane could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("stateDir {dir}: {source}; it must be a directory that this user owns")]
    StateDir { dir: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error("{0}")]
    Authority(String),
    #[error("attestation: {0}")]
    Attestation(String),
    #[error(transparent)]
    Audit(#[from] crate::audit::AuditError),
    #[error(transparent)]
    Revocation(#[from] crate::identity::revocation::RevokeError),
    #[error("cannot listen on {address}: {source}; is another control plane running?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("trustDomain: {0}")]
    TrustDomain(#[from] isthmus_certs::IdError),
    #[error("the gRPC server stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs until `shutdown` is cancelled, then lets open calls end.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ControlError> {
    Control::start(config, Arc::new(SystemClock), shutdown).await?.ended().await
}

/// A control plane that is up. For embedding and tests, where ports may be 0 and time is the caller's.
pub struct Control {
    pub proxies: SocketAddr,
    pub operators: SocketAddr,
    pub metrics: SocketAddr,
    pub ledger: Arc<Ledger>,
    /// Tests ask it for certificates that nobody gives out otherwise.
    pub issuer: Arc<Issuer>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    servers: tokio::task::JoinSet<Result<(), tonic::transport::Error>>,
}

impl Control {
    /// Returns once all sockets listen.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self, ControlError> {
        let attestors = Attestors::read(&config.attestation).map_err(ControlError::Attestation)?;
        let (ledger, own, flows) = open_aside(&config, &clock).await?;
        let own = Arc::new(own);
        own.store.set_profile(ledger.world().mesh.crypto_profile);
        let proxies = listen(config.listen.proxies).await?;
        let operators = listen(config.listen.operators).await?;
        let metrics = listen(config.listen.metrics).await?;
        let mut control = Control {
            proxies: local(&proxies, config.listen.proxies)?,
            operators: local(&operators, config.listen.operators)?,
            metrics: local(&metrics, config.listen.metrics)?,
            ledger: ledger.clone(),
            issuer: own.issuer.clone(),
            tasks: TaskTracker::new(),
            servers: tokio::task::JoinSet::new(),
            shutdown,
        };
        let address = at_port(&config.advertise, control.operators.port());
        make_operator(&own, &config, &address, &*clock)?;
        let registry = Arc::new(Registry::default());
        let push = Push {
            ledger: ledger.clone(),
            issuer: own.issuer.clone(),
            registry: registry.clone(),
            own: own.store.clone(),
            tasks: control.tasks.clone(),
            shutdown: control.shutdown.clone(),
        };
        let admin = Operators {
            ledger: ledger.clone(),
            registry: registry.clone(),
            advertise: at_port(&config.advertise, advertised_port(&config, control.proxies)),
            issuer: own.issuer.clone(),
            flows: flows.clone(),
            applying: Arc::new(Semaphore::new(APPLYING_AT_ONCE)),
            tasks: control.tasks.clone(),
            shutdown: control.shutdown.clone(),
        };
        let state_dir = config.state_dir.clone();
        let rotation = Rotation::new(own.clone(), ledger.clone(), registry.clone(), state_dir, address);
        control.until_shutdown(wake::follow(ledger.clone(), registry.clone()));
        let enrolled = own.issuer.register().live(clock.now_ms()).into_iter().map(|holding| holding.workload.into());
        let leases = lease::keep(ledger.clone(), registry.clone(), config.leases, enrolled.collect());
        control.until_shutdown(leases);
        let (intake, writer) = Intake::new(ledger.clone(), registry.clone(), flows);
        control.serve_proxies(proxies, (push, intake), &own, Arc::new(attestors));
        control.tasks.spawn(writer);
        control.serve_operators(operators, admin, &own, Arc::new(rotation));
        let page = Arc::new(Pages { ledger: ledger.clone(), registry, own: own.clone() });
        control.tasks.spawn(pages::serve(metrics, page, control.tasks.clone(), control.shutdown.clone()));
        control.keep(own, &config);
        tracing::info!(
            revision = ledger.world().revision,
            proxies = %control.proxies,
            operators = %control.operators,
            "control plane up"
        );
        Ok(control)
    }

    fn serve_proxies(
        &mut self,
        listener: TcpListener,
        (push, intake): (Push, Intake),
        own: &Own,
        attestors: Arc<Attestors>,
    ) {
        let identities = Identities {
            ledger: self.ledger.clone(),
            issuer: own.issuer.clone(),
            attestors,
            registry: push.registry.clone(),
            enrolling: Arc::new(Semaphore::new(ENROLLING_AT_ONCE)),
        };
        let gate = Gate {
            listener,
            // With the root, so that a join token's pin can be checked; without a certificate only Enroll is answered.
            tls: own.store.server_configs(&[b"h2"], ClientAuth::Optional, true),
            admit: |_: &Peer| Ok(()),
            connections: PROXY_CONNECTIONS,
        };
        let router = server()
            .add_service(IdentityServer::new(identities).max_decoding_message_size(64 << 10))
            .add_service(DiscoveryServer::new(push).max_decoding_message_size(4 << 20))
            .add_service(FlowsServer::new(intake).max_decoding_message_size(4 << 20));
        let incoming = connections(gate, &self.tasks, self.shutdown.clone());
        let ends = self.shutdown.clone().cancelled_owned();
        self.servers.spawn(router.serve_with_incoming_shutdown(incoming, ends));
    }

    fn serve_operators(&mut self, listener: TcpListener, admin: Operators, own: &Arc<Own>, rotation: Arc<Rotation>) {
        let gate = Gate {
            listener,
            tls: own.store.server_configs(&[b"h2"], ClientAuth::Required, false),
            admit: admin::admit,
            connections: OPERATOR_CONNECTIONS,
        };
        // The YAML, and a little for what is around it.
        let overseer = Overseer { operators: admin.clone(), own: own.clone(), rotation };
        let most = MAX_APPLY + (1 << 20);
        let policy = PolicyServer::new(admin.clone()).max_decoding_message_size(most).max_encoding_message_size(most);
        let resources = ResourcesServer::new(admin.clone()).max_encoding_message_size(most);
        let service = AdminServer::new(admin).max_decoding_message_size(most);
        let incoming = connections(gate, &self.tasks, self.shutdown.clone());
        let ends = self.shutdown.clone().cancelled_owned();
        let gate_of_calls = Gatekeeper { ledger: self.ledger.clone() };
        let router = server()
            .layer(gate_of_calls)
            .add_service(service)
            .add_service(policy)
            .add_service(resources)
            .add_service(AuthorityServer::new(overseer));
        self.servers.spawn(router.serve_with_incoming_shutdown(incoming, ends));
    }

    /// What happens by itself as time passes: own certificate, old tokens, the resource directory.
    fn keep(&self, own: Arc<Own>, config: &Config) {
        self.until_shutdown(follow_profile(self.ledger.clone(), own.store.clone()));
        self.until_shutdown(confirm::keep(self.ledger.clone(), own.issuer.audit().clone()));
        self.until_shutdown(async move { own.keep_young().await });
        self.until_shutdown(sweep(self.ledger.clone()));
        if let Some(dir) = config.resources.clone() {
            self.until_shutdown(source::follow(self.ledger.clone(), dir));
        }
    }

    fn until_shutdown(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Waits for the shutdown and for what is still open, or for a server that fails.
    pub async fn ended(mut self) -> Result<(), ControlError> {
        let failed = tokio::select! {
            () = self.shutdown.cancelled() => None,
            ended = self.servers.join_next() => ended,
        };
        self.shutdown.cancel();
        self.tasks.close();
        let drained = async {
            while self.servers.join_next().await.is_some() {}
            self.tasks.wait().await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("open calls did not end within 10 s; ending them");
        }
        match failed {
            Some(Ok(Err(error))) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Credentials for the first operator, where there are none yet.
fn make_operator(own: &Own, config: &Config, address: &str, clock: &dyn Clock) -> Result<(), ControlError> {
    let made = authority::write_operator(&own.issuer, &config.state_dir, address, clock);
    if let Some(path) = made.map_err(ControlError::Authority)? {
        tracing::info!(path = %path.display(), "operator credentials written; keep them secret");
    }
    Ok(())
}

/// Opening waits for the disk and makes keys.
async fn open_aside(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<Ledger>, Own, Arc<FlowStore>), ControlError> {
    let (config, clock) = (config.clone(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || open(&config, clock)).await;
    opened.map_err(|error| ControlError::Authority(error.to_string()))?
}

fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<(Arc<Ledger>, Own, Arc<FlowStore>), ControlError> {
    let trust_domain = TrustDomain::parse(&config.trust_domain)?;
    let dir = &config.state_dir;
    let state_dir = |source| ControlError::StateDir { dir: dir.display().to_string(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(state_dir)?;
    // The store first: its lock keeps a second control plane from making a second CA.
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&dir.join("store.redb"))?);
    let audit = AuditLog::open(&dir.join(AUDIT_DIR), store.clone(), clock.clone())?;
    let vault = authority::vault(&config.authority).map_err(ControlError::Authority)?;
    let authorities = Authorities::load(dir, &trust_domain, vault, clock.clone()).map_err(ControlError::Authority)?;
    let issuer = Arc::new(Issuer::new(Arc::new(authorities), Arc::new(audit))?);
    let (tokens, revocations) = restore::catch_up(&issuer, &*store)?;
    if tokens + revocations > 0 {
        tracing::warn!(
            tokens,
            revocations,
            "the store is older than the audit log: what was used up or revoked stays so"
        );
    }
    let own = Own::new(issuer.clone(), clock.clone()).map_err(ControlError::Authority)?;
    let revocations = revocation::in_force(&revocation::list(&*store)?, clock.now().as_secs());
    let revocations = revocation::signed(revocations, &own.store);
    own.store.revoke(revocations.clone());
    let roots_der = issuer.authorities().bundle().roots().iter().map(|root| root.to_vec()).collect();
    let issuing = authority::rotation::issuing(&issuer, clock.now_ms());
    let trust = Trust { trust_domain, roots_der, revocations: Arc::new(revocations), issuing };
    let flows = Arc::new(FlowStore::open(&dir.join("flows.redb"))?);
    let keep = Keep { revisions: config.history.revisions, age: config.history.age };
    let ledger = Ledger::open(store, trust, clock)?.keeping(keep);
    confirm::forget_unborn(&**ledger.store(), ledger.world().revision)?;
    Ok((Arc::new(ledger), own, flows))
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_local_error_reset_streams(Some(100))
}

/// The control plane's own ports use the mesh's algorithms, from before they listen.
async fn follow_profile(ledger: Arc<Ledger>, store: Arc<isthmus_certs::IdentityStore>) {
    let mut worlds = ledger.watch();
    loop {
        let profile = worlds.borrow_and_update().mesh.crypto_profile;
        if profile != store.profile() {
            tracing::info!("{}", profile.in_words());
            store.set_profile(profile);
        }
        if worlds.changed().await.is_err() {
            return;
        }
    }
}

async fn sweep(ledger: Arc<Ledger>) {
    loop {
        let store = ledger.store().clone();
        let now_ms = ledger.clock().now_ms();
        match tokio::task::spawn_blocking(move || tokens::sweep(&*store, now_ms)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(swept)) => tracing::info!(swept, "join tokens that ended long ago are forgotten"),
            Ok(Err(error)) => tracing::error!(%error, "join tokens not swept"),
            Err(error) => tracing::error!(%error, "join tokens not swept"),
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address).await.map_err(|source| ControlError::Listen { address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, ControlError> {
    listener.local_addr().map_err(|source| ControlError::Listen { address, source })
}

/// What proxies dial: what is advertised, unless the port was left to the kernel (tests).
fn advertised_port(config: &Config, bound: SocketAddr) -> u16 {
    let advertised = config.advertise.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    match (config.listen.proxies.port(), advertised) {
        (0, _) | (_, None) => bound.port(),
        (_, Some(port)) => port,
    }
}

/// The same host with another port.
fn at_port(advertise: &str, port: u16) -> String {
    let host = advertise.rsplit_once(':').map_or(advertise, |(host, _)| host);
    format!("{host}:{port}")
}
