//! Wires the parts together: the only module that knows everybody.
//!
//! In the order of a life: listeners are bound, workers begin, the control stream begins, then capture sends traffic
//! here; at the end capture goes first, so that nothing new comes, and what is in flight may finish.

mod captured;
mod error;
mod follower;
mod join_token;
mod known_ports;
mod logging;
mod outside;
mod pages;
mod process;
mod worker;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use isthmus_certs::{Clock, IdentityStore, SystemClock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::{Readiness, SetLogLevel};
use crate::config::{self, Ask, Config, Enrol, EnrolBy, Keep, Mode, Sealing};
use crate::control::{self, FirstContact, Proof, Seal, Settings, Start, Upward};
use crate::flows::{Collector, Decisions, Shipper};
use crate::listen::{BindError, Bound, bind};
use crate::outbound::pool::{Limits, Peers};
use crate::probe::{self, How, Probe};
use crate::redirect::Exemption;
use crate::redirect::source::{SOURCE_MARK, SourceRouting};
use crate::state::State;
use crate::state::standing::Standing;
use crate::tcp::DialOptions;
use crate::telemetry::{
    AccessLog, Described, Metrics, SpanQueue, Tracer, run_exporter, run_link_samples, run_metrics_push,
};

pub use error::RunError;
use follower::Follower;
use pages::Pages;
pub use process::{Args, return_idle_memory, run_blocking};
use worker::Workers;

/// After the drain: last spans and lines, admin answers under way.
const LAST_WORK: Duration = Duration::from_secs(3);

/// Where the proxy listens, when it does. Ports are the real ones, also where the configuration says 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    pub outbound: SocketAddr,
    pub inbound: SocketAddr,
    pub mesh: SocketAddr,
    pub metrics: SocketAddr,
    pub readiness: SocketAddr,
}

/// What an embedding program may add.
#[derive(Default)]
pub struct Embedding {
    /// Called once, when all listeners are up and capture (if any) is in force.
    pub on_listening: Option<Box<dyn FnOnce(Listening) + Send>>,
    /// How the admin socket sets the log's level.
    pub set_log_level: Option<SetLogLevel>,
    /// Default: the machine's clock.
    pub clock: Option<Arc<dyn Clock>>,
    /// Cancelled before `shutdown` where somebody stops the proxy for good: then capture ends with it.
    pub by_hand: CancellationToken,
}

/// Runs a proxy until `shutdown`, then drains. Must be called in a tokio runtime with time and IO, which becomes the
/// control runtime; traffic is carried by threads of its own.
///
/// # Errors
/// [`RunError`], which says what to do.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    run_embedded(config, shutdown, Embedding::default()).await
}

/// [`run`], with hooks.
///
/// # Errors
/// As [`run`].
pub async fn run_embedded(config: Config, shutdown: CancellationToken, embedding: Embedding) -> Result<(), RunError> {
    process::check_exemption(&config)?;
    let dial = DialOptions { mark: mark(&config), ..DialOptions::default() };
    let clock = embedding.clock.unwrap_or_else(|| Arc::new(SystemClock));
    let start = Start::prepare(settings(&config, dial).await?, clock)?;
    let (state, demands) = State::new();
    let metrics = Metrics::new(config.workers);
    let (tracer, mut spans) = Tracer::new(&metrics);
    let kept = spans.take_kept();
    let access_log = AccessLog::start(config.access_log.clone(), start.identities().clock().clone(), &metrics)
        .map_err(RunError::AccessLog)?;
    let tracer = tracer.with_access_log(access_log.clone());
    let source = source_routing(&config);
    metrics.source_preserved(source.is_some());
    let (shipper, collector) = Collector::new(start.identities().clock().now_ms());
    let parts = Parts::new(config, &start, state, metrics, (tracer, shipper));
    let parts = Arc::new(Parts { source_mark: source.as_ref().map(|_| SOURCE_MARK), ..parts });
    let ports = Ports::bind(&parts.config)?;
    let listening = ports.listening();
    let stop = CancellationToken::new();
    // Cancelled on every way out, so that no task and no thread outlives this function by long.
    let _stop_all = stop.clone().drop_guard();

    let mut workers = Workers::start(&parts, ports.traffic, listening)?;
    let pages = Pages::open(&parts, ports.metrics, ports.readiness, embedding.set_log_level, &stop)?;
    let (aside, told) = Aside::start(&parts, spans, dial, &stop);
    let upward = Upward {
        state: parts.state.clone(),
        demands,
        metrics: parts.metrics.clone(),
        flows: collector,
        decisions: parts.decisions.clone(),
        kept,
        told,
    };
    let mut control = tokio::spawn(control::run(start, upward, stop.child_token()));
    let mut follower = Follower::new(parts.clone(), listening)?;
    follower.look()?;
    tracing::info!(?listening, workers = parts.config.workers, "listening");
    if let Some(on_listening) = embedding.on_listening {
        on_listening(listening);
    }

    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ended = &mut control => Err(control_ended(ended)),
        () = follower.follow() => Ok(()),
        () = workers.one_ended() => Err(RunError::WorkerEnded),
    };
    parts.readiness.stop();
    tracing::info!(drain = ?parts.config.listen.drain, "stopping: what is in flight may finish");
    follower.end(embedding.by_hand.is_cancelled());
    // The control stream goes on meanwhile: a request in flight may still need an address or a new certificate.
    workers.drain(parts.config.listen.drain).await;
    stop.cancel();
    let last_report = async {
        if !control.is_finished() {
            let _ = (&mut control).await;
        }
    };
    let last_work = async { tokio::join!(aside.ended(), pages.ended(), last_report, access_log.flush()) };
    let _ = timeout(LAST_WORK, last_work).await;
    outcome
}

/// What runs beside the traffic, on the control runtime, until `stop`.
struct Aside {
    exporter: JoinHandle<()>,
    /// Asks the app whether it is ready, where that is configured.
    asking: Option<JoinHandle<()>>,
    /// Asks endpoints outside of the mesh, where their services say so.
    outside: JoinHandle<()>,
}

impl Aside {
    fn start(parts: &Parts, spans: SpanQueue, dial: DialOptions, stop: &CancellationToken) -> (Aside, control::Told) {
        let exporter = tokio::spawn(run_exporter(spans, dial, stop.child_token()));
        tokio::spawn(run_metrics_push(parts.tracer.clone(), dial, stop.child_token()));
        tokio::spawn(run_link_samples(parts.metrics.links().clone(), stop.child_token()));
        let (told, health) = watch::channel(None);
        let asking = parts.config.readiness.clone().map(|readiness| {
            let ends = stop.child_token();
            tokio::spawn(probe::keep(probe_of(readiness), dial, told, ends))
        });
        let (tell, probed) = watch::channel(Arc::default());
        let outside =
            tokio::spawn(outside::keep(parts.state.clone(), parts.metrics.clone(), dial, tell, stop.child_token()));
        (Aside { exporter, asking, outside }, control::Told { health, probed })
    }

    async fn ended(self) {
        let _ = self.exporter.await;
        if let Some(asking) = self.asking {
            let _ = asking.await;
        }
        let _ = self.outside.await;
    }
}

fn control_ended(ended: Result<Result<(), control::ControlError>, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(Err(error)) => RunError::Control(error),
        Ok(Ok(())) | Err(_) => RunError::ControlEnded,
    }
}

/// What `sourceAddress: preserve` needs of the host. Without it apps see this proxy's address, which is said once.
fn source_routing(config: &Config) -> Option<SourceRouting> {
    if config.capture.mode == Mode::None {
        return None;
    }
    match SourceRouting::permitted().map_err(Into::into).and_then(|()| SourceRouting::open()) {
        Ok(routing) => Some(routing),
        Err(error) => {
            tracing::warn!(%error, "apps see this proxy's address instead of their callers': CAP_NET_ADMIN in its network namespace is needed");
            None
        }
    }
}

/// The mark that our own sockets need. Where nothing is captured none is set: that needs no capability.
fn mark(config: &Config) -> Option<u32> {
    match (config.capture.mode, config.capture.exempt) {
        // Something else may redirect by this mark; it was asked for in so many words.
        (Mode::None, Exemption::Mark(mark)) => Some(mark),
        (Mode::None, Exemption::Uid(_)) => None,
        (Mode::Auto | Mode::Nftables | Mode::Iptables, exempt) => exempt.mark(),
    }
}

async fn settings(config: &Config, dial: DialOptions) -> Result<Settings, RunError> {
    let seal = match (&config.state_dir, config.last_good.seal) {
        (Some(dir), Sealing::Auto) => Seal::find(dir).await.map_err(RunError::Seal)?,
        (_, Sealing::None) | (None, _) => Seal::default(),
    };
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let keep = match config.last_good.keep {
        Keep::Auto => !in_pod,
        Keep::On => true,
        Keep::Off => false,
    };
    Ok(Settings {
        seal,
        last_good: keep.then_some(config.last_good.max_stale),
        // Not everybody has one; without it a copied directory is known by its identity alone.
        machine_id: std::fs::read("/etc/machine-id").unwrap_or_default(),
        address: config.control_plane.clone(),
        token: join_token::find(config)?,
        enrol: config.enrol.clone().map(first_contact),
        state_dir: config.state_dir.clone(),
        dial,
        build_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn probe_of(readiness: config::Readiness) -> Probe {
    let config::Readiness { ask, interval, timeout, failures, successes } = readiness;
    let how = match ask {
        Ask::Tcp(at) => How::Tcp(at),
        Ask::Http { at, path } => How::Http { at, path },
        Ask::Grpc { at, service } => How::Grpc { at, service },
        Ask::Command { program, arguments } => How::Command { program, arguments },
    };
    Probe { how, interval, timeout, failures, successes }
}

fn first_contact(enrol: Enrol) -> FirstContact {
    let proof = match enrol.by {
        EnrolBy::Certificate { authority, certificate_file: certificate, key_file: key } => {
            Proof::Certificate { authority, certificate, key }
        }
        EnrolBy::Kubernetes { cluster, token_file: token } => Proof::Kubernetes { cluster, token },
        EnrolBy::Azure { metadata } => Proof::Azure { metadata },
    };
    FirstContact { trust_domain: enrol.trust_domain, root: enrol.root, proof }
}

/// The listeners, bound and not yet served.
struct Ports {
    traffic: [Bound; 3],
    metrics: Bound,
    readiness: Bound,
}

impl Ports {
    fn bind(config: &Config) -> Result<Ports, BindError> {
        let (listen, workers) = (&config.listen, config.workers);
        Ok(Ports {
            traffic: [
                bind("listen.outbound", listen.outbound, workers)?,
                bind("listen.inbound", listen.inbound, workers)?,
                bind("listen.mesh", listen.mesh, workers)?,
            ],
            metrics: bind("listen.metrics", listen.metrics, 1)?,
            readiness: bind("listen.readiness", listen.readiness, 1)?,
        })
    }

    fn listening(&self) -> Listening {
        let [outbound, inbound, mesh] = &self.traffic;
        Listening {
            outbound: outbound.address,
            inbound: inbound.address,
            mesh: mesh.address,
            metrics: self.metrics.address,
            readiness: self.readiness.address,
        }
    }
}

impl Listening {
    fn ports(self) -> Vec<u16> {
        [self.outbound, self.inbound, self.mesh, self.metrics, self.readiness].map(|address| address.port()).to_vec()
    }
}

/// What everybody shares.
struct Parts {
    config: Config,
    state: Arc<State>,
    identities: Arc<IdentityStore>,
    renew_now: Arc<Notify>,
    standing: Arc<Standing>,
    /// By which way traffic is captured, once it is.
    captured_by: OnceLock<&'static str>,
    peers: Arc<Peers>,
    metrics: Metrics,
    tracer: Tracer,
    decisions: Arc<Decisions>,
    flows: Shipper,
    readiness: Arc<Readiness>,
    /// Where apps may be dialled from their callers' addresses.
    source_mark: Option<u32>,
    /// What spans say of this process.
    described: Described,
}

impl Parts {
    fn new(
        config: Config,
        start: &Start,
        state: Arc<State>,
        metrics: Metrics,
        (tracer, flows): (Tracer, Shipper),
    ) -> Parts {
        let identities = start.identities().clone();
        let readiness = Readiness::new(state.clone(), identities.clone(), start.standing().clone());
        let peers = Peers::new(&identities, &state, Limits::default());
        Parts {
            config,
            state,
            identities,
            renew_now: start.renew_now().clone(),
            standing: start.standing().clone(),
            captured_by: OnceLock::new(),
            peers,
            metrics,
            tracer,
            decisions: Decisions::new(),
            flows,
            readiness,
            source_mark: None,
            described: described(),
        }
    }
}

/// OpenTelemetry's own variable, which an operator or a pod's template may set.
fn described() -> Described {
    let asked = std::env::var("OTEL_RESOURCE_ATTRIBUTES").ok();
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Described::of_process(asked.as_deref(), &host, in_pod, rand::random())
}

#[cfg(test)]
#[path = "app/app_test.rs"]
mod app_test;
