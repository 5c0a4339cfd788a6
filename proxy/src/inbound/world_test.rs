//! Two proxies in one process, joined by real mesh TLS over loopback: `web` calls `orders`. The app of `orders` listens on
//! 127.0.0.2, which stands for the workload's own address; 127.0.0.1 is loopback like everywhere.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{
    CertificateAuthority, Clock, IdentityStore, PrivateKey, PublicKeyInfo, SpiffeId, SystemClock, TrustDomain,
    WorkloadIdentity,
};
use isthmus_proto::model::{self, Action, Body, Delta, PortPolicy, Resource, ResourceKey, Rule};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(super) use super::world_apps_test::{app, exchange, get, mirror};
use super::{Inbound, Needs};
use crate::flows::{Collector, Decisions};
use crate::outbound::pool::{Limits, Peers};
use crate::outbound::{self, Outbound};
use crate::state::{AppProtocol, Enforcement, Mesh, Reader, State, TlsVersion, Transport};
use crate::telemetry::{AccessLog, ExportTarget, Keep, Metrics, Span, SpanQueue, Tracer};

pub(super) const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
pub(super) const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);

pub(super) struct World {
    pub(super) ca: CertificateAuthority,
    pub(super) web: Arc<IdentityStore>,
    pub(super) orders: Arc<Inbound_>,
    pub(super) web_state: Arc<State>,
    pub(super) outbound: Rc<Outbound>,
    pub(super) web_metrics: Metrics,
    pub(super) inbound: Rc<Inbound>,
    pub(super) decisions: Arc<Decisions>,
    pub(super) collector: RefCell<Collector>,
    pub(super) mesh: SocketAddr,
    pub(super) stop: watch::Sender<bool>,
    pub(super) spec: Spec,
    /// What the caller's proxy and the callee's have recorded.
    pub(super) spans: RefCell<[SpanQueue; 2]>,
}

/// The callee's state, to publish new policies to.
pub(super) struct Inbound_ {
    pub(super) state: Arc<State>,
    pub(super) metrics: Metrics,
}

/// What differs between tests.
#[derive(Clone)]
pub(super) struct Spec {
    pub(super) app_port: u16,
    pub(super) protocol: AppProtocol,
    pub(super) transport: Transport,
    pub(super) min_tls: TlsVersion,
    pub(super) enforcement: Enforcement,
    /// Service accounts that may call; `None`: all.
    pub(super) allow: Option<Vec<&'static str>>,
    pub(super) deny: Vec<Rule>,
    pub(super) options: model::TrafficOptions,
    pub(super) standing: model::Standing,
    pub(super) probes: Vec<model::Probe>,
    pub(super) https_redirect: Option<String>,
    pub(super) max_stream_age: Duration,
    /// The app's port at a second endpoint, which comes after the first.
    pub(super) second: Option<u16>,
    /// Of both proxies.
    pub(super) access: AccessLog,
    /// Share of traces that both record, and what they keep beside them.
    pub(super) traced: Option<(f64, Keep)>,
}

impl Spec {
    pub(super) fn http(app_port: u16) -> Spec {
        Spec {
            app_port,
            protocol: AppProtocol::Http,
            transport: Transport::MeshOnly,
            min_tls: TlsVersion::V1_2,
            enforcement: Enforcement::Enforce,
            allow: None,
            deny: Vec::new(),
            options: model::TrafficOptions::default(),
            standing: model::Standing::default(),
            probes: Vec::new(),
            https_redirect: None,
            max_stream_age: Duration::from_secs(86_400),
            second: None,
            access: AccessLog::default(),
            traced: None,
        }
    }
}

pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&TrustDomain::parse("shop.example").unwrap(), "shop", account).unwrap()
}

pub(super) fn identity(ca: &CertificateAuthority, who: &SpiffeId, lifetime: Duration) -> WorkloadIdentity {
    let key = PrivateKey::generate().unwrap();
    let issued = ca.issue(&PublicKeyInfo::of(&key), who, lifetime, &[]).unwrap();
    WorkloadIdentity::from_issued(issued, key, ca.bundle(), SystemClock.now()).unwrap()
}

pub(super) fn store(ca: &CertificateAuthority, who: &SpiffeId) -> Arc<IdentityStore> {
    let store = IdentityStore::new(who.trust_domain().clone(), Arc::new(SystemClock));
    store.replace(identity(ca, who, Duration::from_secs(3600))).unwrap();
    store
}

pub(super) fn authority() -> CertificateAuthority {
    CertificateAuthority::generate(&TrustDomain::parse("shop.example").unwrap(), Arc::new(SystemClock)).unwrap()
}

fn policy(spec: &Spec) -> PortPolicy {
    let rule = |account: &&str| Rule {
        policy: "shop/orders".into(),
        index: 0,
        mode: model::RuleMode::Enforce,
        until_ms: None,
        conditions: Ok(model::Conditions {
            identities: Some(vec![model::IdentityPattern::Exact(id(account))]),
            ..model::Conditions::default()
        }),
    };
    PortPolicy {
        transport: spec.transport,
        min_tls_version: spec.min_tls,
        deny: spec.deny.clone(),
        allow: spec.allow.iter().flatten().map(rule).collect(),
        default_action: if spec.allow.is_some() { Action::Deny } else { Action::Allow },
        default_from: spec.allow.as_ref().map(|_| "shop/orders".into()),
    }
}

fn mesh_body(spec: &Spec) -> Body {
    let site = |name: &str, range: &str| model::Site {
        name: name.parse().unwrap(),
        ranges: vec![range.parse().unwrap()],
        resolvers: vec![],
        seen_as: vec![],
    };
    Body::Mesh(Box::new(model::Mesh {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        enforcement: spec.enforcement,
        site: "dc1".parse().unwrap(),
        sites: vec![site("dc1", "10.20.0.0/16")],
        vip_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        dns_suffixes: Vec::new(),
        links: Vec::new(),
        roots_der: Vec::new(),
        telemetry: Ok(model::Telemetry::default()),
        leaf_lifetime: None,
        revocations: Default::default(),
        crypto_profile: Default::default(),
        trust_domains: Default::default(),
        upkeep: model::Upkeep { max_stream_age: spec.max_stream_age, ..Default::default() },
    }))
}

fn publish(state: &State, version: u64, upserts: Vec<(ResourceKey, Body)>) {
    let upserts = upserts.into_iter().map(|(key, body)| Resource { key, body: Ok(body) }).collect();
    let delta = Delta { version, upserts, removals: Vec::new(), first_sync_complete: true };
    state.publish(Mesh::unknown().apply(delta));
}

pub(super) fn publish_inbound(state: &State, version: u64, spec: &Spec) {
    let inbound = model::Inbound {
        workload: "shop/orders".parse().unwrap(),
        addresses: vec![OWN],
        ports: vec![model::InboundPort {
            port: spec.app_port,
            protocol: spec.protocol,
            services: vec!["shop/orders".parse().unwrap()],
            policy: Ok(policy(spec)),
            options: spec.options,
            standing: spec.standing,
            probes: spec.probes.clone(),
            https_redirect: spec.https_redirect.clone(),
        }],
        default_policy: Ok(policy(spec)),
        default_standing: spec.standing,
        registered: Vec::new(),
    };
    publish(
        state,
        version,
        vec![(ResourceKey::Mesh, mesh_body(spec)), (ResourceKey::Inbound, Body::Inbound(Box::new(inbound)))],
    );
}

pub(super) fn publish_outbound(state: &State, mesh_port: Option<u16>, expected: &SpiffeId, spec: &Spec) {
    publish_endpoints(state, &[mesh_port], expected, spec);
}

/// A service with one endpoint for each port of a sidecar (`None`: one without) and each port of the app.
pub(super) fn publish_endpoints(state: &State, mesh_ports: &[Option<u16>], expected: &SpiffeId, spec: &Spec) {
    let app_ports = || [spec.app_port].into_iter().chain(spec.second);
    let endpoint = |(mesh_port, app_port): (Option<u16>, u16)| {
        Ok(model::Endpoint {
            site: Some("dc1".parse().unwrap()),
            ip: OWN,
            target_ports: [(80, app_port)].into(),
            workload: Some("shop/orders".parse().unwrap()),
            mesh: mesh_port.map(|port| model::MeshPeer { port, identities: vec![expected.clone()] }),
        })
    };
    let service = model::Service {
        name: "shop/orders".parse().unwrap(),
        hostnames: vec!["orders.shop".into()],
        vips: vec![VIP.ip()],
        ports: vec![(
            80,
            Ok(model::ServicePort {
                port: 80,
                name: "main".into(),
                protocol: spec.protocol,
                transport: Some(spec.transport),
                min_tls_version: Some(spec.min_tls),
                options: spec.options,
                standing: spec.standing,
            }),
        )],
        endpoints: mesh_ports.iter().flat_map(|mesh| app_ports().map(|app| endpoint((*mesh, app)))).collect(),
        external: None,
    };
    let name = service.name.clone();
    let address = model::Address { ip: VIP.ip(), target: model::Target::Service(name.clone()) };
    publish(
        state,
        1,
        vec![
            (ResourceKey::Mesh, mesh_body(spec)),
            (ResourceKey::Service(name), Body::Service(Box::new(service))),
            (ResourceKey::Address(VIP.ip()), Body::Address(Box::new(address))),
        ],
    );
}

/// A pair in which `web` is the caller.
pub(super) async fn world(spec: Spec) -> World {
    world_of(spec, "web", "orders").await
}

pub(super) async fn world_of(spec: Spec, caller: &str, expected: &str) -> World {
    let ca = authority();
    let (web, orders) = (store(&ca, &id(caller)), store(&ca, &id("orders")));
    let (web_state, orders_state) = (State::new().0, State::new().0);
    let (stop, stopped) = watch::channel(false);
    let listener = TcpListener::bind((OWN, 0)).await.unwrap();
    let mesh = listener.local_addr().unwrap();
    publish_inbound(&orders_state, 1, &spec);
    publish_outbound(&web_state, Some(mesh.port()), &id(expected), &spec);
    let decisions = Decisions::new();
    let (flows, collector) = Collector::new(SystemClock.now_ms());
    let (metrics, web_metrics) = (Metrics::new(1).for_worker(0), Metrics::new(1).for_worker(0));
    let [(web_tracer, web_spans), (orders_tracer, orders_spans)] = [(), ()].map(|()| traced(&metrics, &spec));
    let inbound = Inbound::new(Needs {
        state: Reader::new(Arc::clone(&orders_state)),
        identity: orders,
        metrics: metrics.clone(),
        tracer: orders_tracer,
        decisions: Arc::clone(&decisions),
        flows: flows.clone(),
        mark: None,
        source_mark: None,
        own_ports: vec![mesh.port(), 15001],
        stop: stopped.clone(),
    });
    let outbound = Outbound::new(outbound::Needs {
        state: Reader::new(Arc::clone(&web_state)),
        identity: Arc::clone(&web),
        peers: Peers::new(&web, &web_state, Limits::default()),
        metrics: web_metrics.clone(),
        tracer: web_tracer,
        decisions: Arc::clone(&decisions),
        flows,
        mark: None,
        stop: stopped,
    });
    let accepting = Rc::clone(&inbound);
    tokio::task::spawn_local(async move {
        while let Ok((stream, source)) = listener.accept().await {
            let inbound = Rc::clone(&accepting);
            tokio::task::spawn_local(async move { inbound.mesh(stream, source).await });
        }
    });
    let orders = Arc::new(Inbound_ { state: orders_state, metrics });
    World {
        ca,
        web,
        orders,
        web_state,
        outbound,
        web_metrics,
        inbound,
        decisions,
        collector: RefCell::new(collector),
        mesh,
        stop,
        spec,
        spans: RefCell::new([web_spans, orders_spans]),
    }
}

fn traced(metrics: &Metrics, spec: &Spec) -> (Tracer, SpanQueue) {
    let (tracer, queue) = Tracer::new(metrics);
    if let Some((sampling, keep)) = spec.traced {
        let endpoint = Some("unix:/nowhere".parse().unwrap());
        tracer.configure(ExportTarget { endpoint, sampling, keep, resource: Vec::new() });
    }
    (tracer.with_access_log(spec.access.clone()), queue)
}

impl World {
    /// The next `count` spans of both proxies.
    pub(super) async fn spans(&self, count: usize) -> Vec<Span> {
        let mut all = Vec::new();
        while all.len() < count {
            for queue in self.spans.borrow_mut().iter_mut() {
                all.extend(std::iter::from_fn(|| queue.take()));
            }
            tokio::task::yield_now().await;
        }
        all
    }

    /// Where the app of `web` connects to, as if it had dialled `destination`.
    pub(super) async fn capture(&self, destination: SocketAddr) -> (SocketAddr, Rc<Cell<usize>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let outbound = Rc::clone(&self.outbound);
        let open = Rc::new(Cell::new(0));
        let counted = Rc::clone(&open);
        tokio::task::spawn_local(async move {
            while let Ok((stream, source)) = listener.accept().await {
                let (outbound, open) = (Rc::clone(&outbound), Rc::clone(&counted));
                open.set(open.get() + 1);
                tokio::task::spawn_local(async move {
                    outbound.captured(stream, source, destination).await;
                    open.set(open.get() - 1);
                });
            }
        });
        (address, open)
    }

    /// Where somebody without a sidecar connects to, as if capture had brought it to `orders`.
    pub(super) async fn capture_inbound(&self, destination: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inbound = Rc::clone(&self.inbound);
        tokio::task::spawn_local(async move {
            while let Ok((stream, source)) = listener.accept().await {
                let inbound = Rc::clone(&inbound);
                tokio::task::spawn_local(async move { inbound.captured(stream, source, destination).await });
            }
        });
        address
    }
}

/// Runs a test's world on one thread, as a worker does; no test takes longer than this.
pub(super) async fn on_worker<T>(test: impl Future<Output = T>) -> T {
    let local = tokio::task::LocalSet::new();
    let limited = tokio::time::timeout(Duration::from_secs(60), test);
    local.run_until(limited).await.expect("the test ends in time")
}
