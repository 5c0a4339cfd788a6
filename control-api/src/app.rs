//! Wiring: the one place that knows everybody. Store and CA first, then sockets, then services, then time.

use crate::admin::{self, APPLYING_AT_ONCE, MAX_APPLY, Operators, Overseer};
use crate::authority::rotation::Rotation;
use crate::authority::{self, Own};
use crate::config::Config;
use crate::confirm;
use crate::flows::Intake;
use crate::flows::store::FlowStore;
use crate::identity::attest::Attestors;
use crate::identity::issuer::Issuer;
use crate::identity::{ENROLLING_AT_ONCE, Identities};
use crate::ledger::Ledger;
use crate::ledger::follow::follow;
use crate::live::{self, Looks};
use crate::operators::keys::Keys;
use crate::operators::login::{AT_A_BROWSER, Door, SIGNING_IN_AT_ONCE};
use crate::operators::oidc::Provider;
use crate::operators::{Gatekeeper, standard};
use crate::pages::{self, Pages};
use crate::push::registry::Registry;
use crate::push::server::Server as Discovery;
use crate::push::{Push, cut_off, lease, share, wake};
use crate::serve::{Gate, Peer, connections, wire};
use crate::source;
use crate::traces;
use crate::traces::store::TraceStore;
use isthmus_certs::{ClientAuth, Clock, SystemClock};
use isthmus_proto::admin::v1::access_server::AccessServer;
use isthmus_proto::admin::v1::admin_server::AdminServer;
use isthmus_proto::admin::v1::authority_server::AuthorityServer;
use isthmus_proto::admin::v1::live_server::LiveServer as LookServer;
use isthmus_proto::admin::v1::login_server::LoginServer;
use isthmus_proto::admin::v1::policy_server::PolicyServer;
use isthmus_proto::admin::v1::resources_server::ResourcesServer;
use isthmus_proto::admin::v1::traces_server::TracesServer as KeptTracesServer;
use isthmus_proto::flows::v1::flows_server::FlowsServer;
use isthmus_proto::identity::v1::identity_server::IdentityServer;
use isthmus_proto::live::v1::live_server::LiveServer;
use isthmus_proto::traces::v1::traces_server::TracesServer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

/// Each proxy holds one; the design size is 10,000.
const PROXY_CONNECTIONS: usize = 20_000;
const OPERATOR_CONNECTIONS: usize = 512;
/// Of them, for those who come to sign in.
const SIGNING_IN: usize = 64;
/// Of an operator's tools, each a call.
const STREAMS: u32 = 64;
/// As proxies have it ([`wire`]).
const PING_EVERY: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Open calls may end; then they are ended.
const DRAIN: Duration = Duration::from_secs(10);
const AUDIT_DIR: &str = "audit";

mod apart;
mod open;
mod upkeep;

use apart::Apart;
use open::{open_aside, read_trust};
use upkeep::{follow_profile, sweep};

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
    #[error("{0}")]
    SignIn(String),
    #[error(transparent)]
    Audit(#[from] crate::audit::AuditError),
    #[error(transparent)]
    Revocation(#[from] crate::identity::revocation::RevokeError),
    #[error("cannot listen on {address}: {source}; is another control plane running?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("trustDomain: {0}")]
    TrustDomain(#[from] isthmus_certs::IdError),
    #[error("no threads for operators: {0}")]
    Threads(std::io::Error),
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
    apart: Apart,
}

impl Control {
    /// Returns once all sockets listen.
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        shutdown: CancellationToken,
    ) -> Result<Self, ControlError> {
        let attestors = Attestors::read(&config.attestation).map_err(ControlError::Attestation)?;
        let provider = config.operators.oidc.as_ref().map(Provider::new).transpose().map_err(ControlError::SignIn)?;
        let (ledger, own, flows) = open_aside(&config, &clock).await?;
        let own = Arc::new(own);
        own.store.set_profile(ledger.world().mesh.crypto_profile);
        if ledger.store().is_shared() {
            ledger.read_trust_by(read_trust(own.clone(), ledger.store().clone(), config.state_dir.clone()));
        }
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
            apart: Apart::start().map_err(ControlError::Threads)?,
            shutdown,
        };
        let address = config.at_port(control.operators.port());
        make_operator(&own, &config, &address, &*clock)?;
        let (registry, looks) = (Arc::new(Registry::default()), Arc::new(Looks::default()));
        let (push, admin) = control.services(&config, &own, &registry, &looks, &flows);
        let door = control.door(&config, &own, address.clone(), provider);
        let state_dir = config.state_dir.clone();
        let rotation = Rotation::new(own.clone(), ledger.clone(), registry.clone(), state_dir, address);
        control.until_shutdown(wake::follow(ledger.clone(), registry.clone()));
        let enrolled = own.issuer.register().live(clock.now_ms()).into_iter().map(|holding| holding.workload.into());
        let leases = lease::keep(ledger.clone(), registry.clone(), config.leases, enrolled.collect());
        control.until_shutdown(leases);
        if ledger.store().is_shared() {
            control.until_shutdown(cut_off::keep(ledger.clone(), registry.clone()));
            control.until_shutdown(share::keep(ledger.clone(), registry.clone()));
        }
        let (intake, writer) = Intake::new(ledger.clone(), registry.clone(), flows.clone());
        let kept = admin.traces.clone();
        let spans = traces::Intake { ledger: ledger.clone(), registry: registry.clone(), store: kept.clone() };
        control.serve_proxies(proxies, (push, intake, spans), &own, Arc::new(attestors));
        control.tasks.spawn(writer);
        control.serve_operators(operators, admin, (&own, door), Arc::new(rotation))?;
        let page = Arc::new(Pages { ledger: ledger.clone(), registry, own: own.clone(), flows, traces: kept });
        let serve = pages::serve(metrics, page, control.tasks.clone(), control.shutdown.clone());
        control.tasks.spawn_on(serve, &control.apart.handle());
        control.keep(own, &config);
        tracing::info!(
            revision = ledger.world().revision,
            proxies = %control.proxies,
            operators = %control.operators,
            "control plane up"
        );
        Ok(control)
    }

    /// What proxies follow, and what operators call.
    fn services(
        &self,
        config: &Config,
        own: &Own,
        registry: &Arc<Registry>,
        looks: &Arc<Looks>,
        flows: &Arc<FlowStore>,
    ) -> (Push, Operators) {
        let push = Push {
            ledger: self.ledger.clone(),
            issuer: own.issuer.clone(),
            registry: registry.clone(),
            looks: looks.clone(),
            encoded: Arc::default(),
            turned_away: Arc::default(),
            own: own.store.clone(),
            tasks: self.tasks.clone(),
            shutdown: self.shutdown.clone(),
        };
        let admin = Operators {
            ledger: self.ledger.clone(),
            registry: registry.clone(),
            advertise: config.at_port(config.advertised_port(self.proxies)),
            issuer: own.issuer.clone(),
            flows: flows.clone(),
            looks: looks.clone(),
            traces: Arc::new(TraceStore::default()),
            applying: Arc::new(Semaphore::new(APPLYING_AT_ONCE)),
            second: Arc::new(config.operators.second_approver.clone()),
            tasks: self.tasks.clone(),
            shutdown: self.shutdown.clone(),
        };
        (push, admin)
    }

    /// Where operators sign in.
    fn door(&self, config: &Config, own: &Own, address: String, provider: Option<Provider>) -> Door {
        Door {
            ledger: self.ledger.clone(),
            issuer: own.issuer.clone(),
            address,
            lifetime: config.operators.certificate_lifetime,
            signing_in: Arc::new(Semaphore::new(SIGNING_IN_AT_ONCE)),
            provider: provider.map(Arc::new),
            at_a_browser: Arc::new(Semaphore::new(AT_A_BROWSER)),
            tasks: self.tasks.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    fn serve_proxies(
        &mut self,
        listener: TcpListener,
        (push, intake, spans): (Push, Intake, traces::Intake),
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
            strangers: None,
        };
        let live =
            live::Intake { ledger: self.ledger.clone(), looks: push.looks.clone(), shutdown: self.shutdown.clone() };
        let routes = Routes::new(IdentityServer::new(identities).max_decoding_message_size(64 << 10))
            .add_service(Discovery(push))
            .add_service(FlowsServer::new(intake).max_decoding_message_size(4 << 20))
            .add_service(LiveServer::new(live).max_decoding_message_size(live::MOST_BATCH))
            .add_service(TracesServer::new(spans).max_decoding_message_size(traces::MOST_REPORT))
            .prepare();
        let incoming = connections(gate, &self.tasks, self.shutdown.clone());
        let serving = wire::serve(incoming, routes, self.tasks.clone(), self.shutdown.clone());
        self.servers.spawn(async move {
            serving.await;
            Ok(())
        });
    }

    fn serve_operators(
        &mut self,
        listener: TcpListener,
        admin: Operators,
        (own, door): (&Arc<Own>, Door),
        rotation: Arc<Rotation>,
    ) -> Result<(), ControlError> {
        // What is spawned from here on, and by it, is.
        let apart = self.apart.handle();
        let _apart = apart.enter();
        let reflection = standard::reflection().map_err(ControlError::SignIn)?;
        let keys = Keys { ledger: door.ledger.clone(), issuer: door.issuer.clone(), address: door.address.clone() };
        let gate = Gate {
            listener,
            // With the root, so that a token's pin can be checked.
            tls: own.store.server_configs(&[b"h2"], ClientAuth::Optional, true),
            admit: admin::admit,
            connections: OPERATOR_CONNECTIONS,
            strangers: Some(Arc::new(Semaphore::new(SIGNING_IN))),
        };
        // The YAML, and a little for what is around it.
        let overseer = Overseer { operators: admin.clone(), own: own.clone(), rotation };
        let most = MAX_APPLY + (1 << 20);
        let policy = PolicyServer::new(admin.clone()).max_decoding_message_size(most).max_encoding_message_size(most);
        let resources = ResourcesServer::new(admin.clone()).max_encoding_message_size(most);
        let look = LookServer::new(admin.clone());
        let kept_traces = KeptTracesServer::new(admin.clone());
        let service = AdminServer::new(admin).max_decoding_message_size(most);
        let incoming = connections(gate, &self.tasks, self.shutdown.clone());
        let ends = self.shutdown.clone().cancelled_owned();
        let (reporter, health) = standard::health();
        self.until_shutdown(standard::keep(reporter, self.ledger.clone()));
        let gate_of_calls = Gatekeeper { ledger: self.ledger.clone() };
        let router = server()
            .layer(gate_of_calls)
            .add_service(service)
            .add_service(policy)
            .add_service(look)
            .add_service(kept_traces)
            .add_service(resources)
            .add_service(AuthorityServer::new(overseer))
            .add_service(health)
            .add_service(reflection)
            .add_service(LoginServer::new(door).max_decoding_message_size(64 << 10))
            .add_service(AccessServer::new(keys).max_decoding_message_size(64 << 10));
        self.servers.spawn(router.serve_with_incoming_shutdown(incoming, ends));
        Ok(())
    }

    /// What happens by itself as time passes: own certificate, old tokens, the resource directory.
    fn keep(&self, own: Arc<Own>, config: &Config) {
        self.until_shutdown(follow_profile(self.ledger.clone(), own.store.clone()));
        self.until_shutdown(confirm::keep(self.ledger.clone(), own.issuer.audit().clone()));
        self.until_shutdown(own.keep_young());
        self.until_shutdown(sweep(self.ledger.clone()));
        if self.ledger.store().is_shared() {
            self.until_shutdown(follow(self.ledger.clone()));
        }
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

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_local_error_reset_streams(Some(100))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address).await.map_err(|source| ControlError::Listen { address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, ControlError> {
    listener.local_addr().map_err(|source| ControlError::Listen { address, source })
}
