//! A whole control plane on loopback, with clients as a proxy and an operator are: gRPC over mTLS, nothing mocked.

use crate::app::Control;
use crate::config::{Config, Listen, Log};
use hyper_util::rt::TokioIo;
use isthmus_certs::{
    ExpectedPeer, IdentityStore, JoinToken, ManualClock, PrivateKey, RootFingerprint, SpiffeId, TrustBundle,
    TrustDomain, WorkloadIdentity, csr, pem,
};
use isthmus_proto::PROTOCOL;
use isthmus_proto::admin::v1 as adm;
use isthmus_proto::admin::v1::admin_client::AdminClient;
use isthmus_proto::discovery::v1 as disc;
use isthmus_proto::discovery::v1::discovery_client::DiscoveryClient;
use isthmus_proto::identity::v1 as idv;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

#[path = "e2e/attest_azure_test.rs"]
mod attest_azure_test;
#[path = "e2e/attest_kubernetes_test.rs"]
mod attest_kubernetes_test;
#[path = "e2e/attest_test.rs"]
mod attest_test;
#[path = "e2e/audit_test.rs"]
mod audit_test;
#[path = "e2e/copies_test.rs"]
mod copies_test;
#[path = "e2e/enrol_test.rs"]
mod enrol_test;
#[path = "e2e/hang_test.rs"]
mod hang_test;
#[path = "e2e/history_test.rs"]
mod history_test;
#[path = "e2e/login_test.rs"]
mod login_test;
#[path = "e2e/names_test.rs"]
mod names_test;
#[path = "e2e/oidc_test.rs"]
mod oidc_test;
#[path = "e2e/operate_test.rs"]
mod operate_test;
#[path = "e2e/policy_test.rs"]
mod policy_test;
#[path = "e2e/rights_table_test.rs"]
mod rights_table_test;
#[path = "e2e/roles_test.rs"]
mod roles_test;
#[path = "e2e/rotation_test.rs"]
mod rotation_test;
#[path = "e2e/standard_test.rs"]
mod standard_test;
#[path = "e2e/stream_test.rs"]
mod stream_test;
#[path = "e2e/tenants_test.rs"]
mod tenants_test;
#[path = "e2e/traces_test.rs"]
mod traces_test;

const NOW_MS: i64 = 1_800_000_000_000;
/// Nothing here takes longer than milliseconds; a hang should be a failure with a name.
const SOON: Duration = Duration::from_secs(20);
/// A connection that is not made and a call that is not answered on the busiest machine: the test ends with words.
const HUNG: Duration = Duration::from_secs(120);

const MESH: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { trustDomain: shop.example, enforcement: Enforce, vipRanges: [10.96.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: web, labels: { app: web } }
spec: { site: dc1, addresses: [10.20.1.11], serviceAccount: web }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
"#;

const POLICY: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: shop, name: orders }
spec: { services: [orders], allow: [{ from: { serviceAccounts: [web] } }] }
"#;

struct World {
    dir: tempfile::TempDir,
    control: Control,
    clock: ManualClock,
    shutdown: CancellationToken,
}

async fn start_in(dir: &Path, clock: &ManualClock, shutdown: &CancellationToken) -> Control {
    hang_test::watch();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        trust_domain: "shop.example".to_string(),
        state_dir: dir.join("state"),
        advertise: "127.0.0.1:15012".to_string(),
        listen: Listen { proxies: any, operators: any, metrics: any },
        resources: None,
        authority: Default::default(),
        attestation: attestation(dir),
        leases: Default::default(),
        history: crate::config::History { revisions: 8, ..Default::default() },
        operators: sign_in(dir),
        store: Default::default(),
        log: Log::default(),
    };
    Control::start(config, Arc::new(clock.clone()), shutdown.clone()).await.unwrap()
}

/// What a test has put into the directory before it starts the control plane, as in `control.yaml`.
fn attestation(dir: &Path) -> crate::config::Attestation {
    let Ok(text) = std::fs::read_to_string(dir.join("attestation.yaml")) else { return Default::default() };
    serde_saphyr::from_str(&text.replace("DIR", &dir.display().to_string())).unwrap()
}

fn sign_in(dir: &Path) -> crate::config::SignIn {
    let Ok(text) = std::fs::read_to_string(dir.join("operators.yaml")) else { return Default::default() };
    serde_saphyr::from_str(&text.replace("DIR", &dir.display().to_string())).unwrap()
}

impl World {
    /// A control plane with the mesh applied.
    async fn start() -> World {
        Self::start_with(tempfile::tempdir().unwrap()).await
    }

    /// The same in a directory that holds something already.
    async fn start_with(dir: tempfile::TempDir) -> World {
        let clock = ManualClock::at_ms(NOW_MS);
        let shutdown = CancellationToken::new();
        let started = tokio::time::timeout(HUNG, start_in(dir.path(), &clock, &shutdown)).await;
        let control = started.expect("a control plane that starts: its disk does not answer");
        let world = World { dir, control, clock, shutdown };
        let applied = apply(&mut world.operator().await, MESH).await;
        assert_eq!(applied.problems, []);
        world
    }

    /// Stops it and starts it again on the same directory.
    async fn restart(self) -> World {
        let World { dir, control, clock, shutdown } = self;
        shutdown.cancel();
        control.ended().await.unwrap();
        let shutdown = CancellationToken::new();
        let control = start_in(dir.path(), &clock, &shutdown).await;
        World { dir, control, clock, shutdown }
    }

    /// The operator of `operator.yaml`, read as the cli does.
    async fn operator(&self) -> AdminClient<Channel> {
        AdminClient::new(self.connect_as(self.operator_identity(), self.control.operators).await.unwrap())
    }

    fn operator_identity(&self) -> WorkloadIdentity {
        #[derive(serde::Deserialize)]
        struct File {
            address: String,
            roots: String,
            certificate: String,
            key: String,
        }
        let text = std::fs::read_to_string(self.dir.path().join("state/operator.yaml")).unwrap();
        let file: File = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(file.address, self.control.operators.to_string());
        let chain = pem::parse(file.certificate.as_bytes()).unwrap().certificates;
        let key = pem::parse(file.key.as_bytes()).unwrap().key.unwrap();
        let bundle = TrustBundle::from_ders(pem::parse(file.roots.as_bytes()).unwrap().certificates).unwrap();
        WorkloadIdentity::new(chain, key, bundle, isthmus_certs::Clock::now(&self.clock)).unwrap()
    }

    async fn connect_as(&self, identity: WorkloadIdentity, to: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let store = self.empty_store();
        store.replace(identity).unwrap();
        let expected = ExpectedPeer::AnyOf(vec![SpiffeId::control_plane(store.trust_domain())]);
        connect(store.client_config(&[b"h2"], expected), to).await
    }

    fn empty_store(&self) -> Arc<IdentityStore> {
        IdentityStore::new(TrustDomain::parse("shop.example").unwrap(), Arc::new(self.clock.clone()))
    }

    /// As a workload that has nothing but a join token: it trusts whoever ends at the token's root.
    async fn pinned(&self, root: RootFingerprint) -> Result<IdentityClient<Channel>, tonic::transport::Error> {
        let store = self.empty_store();
        let expected = ExpectedPeer::PinnedRoot(root, SpiffeId::control_plane(store.trust_domain()));
        Ok(IdentityClient::new(connect(store.client_config(&[b"h2"], expected), self.control.proxies).await?))
    }

    async fn token(&self, workload: &str) -> JoinToken {
        let request = adm::CreateJoinTokenRequest { workload: workload.to_string(), ttl_seconds: 60 };
        let created = self.operator().await.create_join_token(request).await.unwrap().into_inner();
        JoinToken::parse(&created.token).unwrap()
    }

    async fn enroll(&self, token: &JoinToken, key: &PrivateKey) -> Result<idv::EnrollResponse, Status> {
        let request = enroll_request(token, key, NOW_MS);
        self.pinned(token.root).await.unwrap().enroll(request).await.map(|answer| answer.into_inner())
    }

    async fn join(&self, workload: &str) -> WorkloadIdentity {
        let key = csr::new_key().unwrap();
        let answer = self.enroll(&self.token(workload).await, &key).await.unwrap();
        identity(answer.certificate.unwrap(), key, &self.clock)
    }

    /// A proxy with its discovery stream open, after its hello.
    async fn proxy(&self, workload: &str, uses: &[&str]) -> Proxy {
        let identity = self.join(workload).await;
        self.stream(identity, workload, uses).await
    }

    async fn stream(&self, identity: WorkloadIdentity, workload: &str, uses: &[&str]) -> Proxy {
        let channel = self.connect_as(identity, self.control.proxies).await.unwrap();
        let (send, messages) = mpsc::channel(16);
        let hello = disc::Hello {
            protocol: PROTOCOL,
            build_version: "test".to_string(),
            workload: workload.to_string(),
            subscriptions: uses.iter().map(|name| key(name)).collect(),
            ..disc::Hello::default()
        };
        send.send(disc::ProxyMessage { message: Some(disc::proxy_message::Message::Hello(hello)) }).await.unwrap();
        let answer = DiscoveryClient::new(channel).stream(ReceiverStream::new(messages)).await.unwrap();
        Proxy { send, receive: answer.into_inner(), parts: Vec::new(), synced: false }
    }
}

/// What a test sees of a proxy.
struct Proxy {
    send: mpsc::Sender<disc::ProxyMessage>,
    receive: Streaming<disc::ControlMessage>,
    /// Of a first sync that is not complete yet.
    parts: Vec<disc::Resource>,
    synced: bool,
}

impl Proxy {
    async fn say(&self, message: disc::proxy_message::Message) {
        self.send.send(disc::ProxyMessage { message: Some(message) }).await.unwrap();
    }

    async fn ack(&self, version: u64) {
        self.say(disc::proxy_message::Message::Ack(disc::Ack { version })).await;
    }

    async fn next(&mut self) -> Result<Option<disc::ControlMessage>, Status> {
        tokio::time::timeout(SOON, self.receive.message()).await.expect("a message within 20 s")
    }

    /// The next change; a first sync whole, however many parts it comes in.
    async fn delta(&mut self) -> disc::Delta {
        loop {
            match self.next().await.unwrap().unwrap().message.unwrap() {
                disc::control_message::Message::Delta(mut delta) if self.synced || delta.first_sync_complete => {
                    self.synced = true;
                    self.parts.append(&mut delta.upserts);
                    delta.upserts = std::mem::take(&mut self.parts);
                    return delta;
                }
                disc::control_message::Message::Delta(part) => self.parts.extend(part.upserts),
                disc::control_message::Message::Welcome(welcome) => assert_eq!(welcome.protocol, PROTOCOL),
                disc::control_message::Message::Question(_) | disc::control_message::Message::Clock(_) => {}
            }
        }
    }

    async fn ended(&mut self) -> Status {
        loop {
            match self.next().await {
                Err(status) => return status,
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a status"),
            }
        }
    }
}

async fn connect(config: Arc<rustls::ClientConfig>, to: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let connector = TlsConnector::from(config.clone());
        async move {
            let tcp = TcpStream::connect(to).await?;
            let name = rustls::pki_types::ServerName::from(to.ip());
            connector.connect(name, tcp).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://control").connect_timeout(HUNG).timeout(HUNG);
    endpoint.connect_with_connector(connector).await
}

fn enroll_request(token: &JoinToken, key: &PrivateKey, time_ms: i64) -> idv::EnrollRequest {
    idv::EnrollRequest {
        proof: Some(idv::enroll_request::Proof::JoinToken(token.secret().to_string())),
        csr_der: csr::request(key).unwrap(),
        client_time_unix_ms: time_ms,
    }
}

fn identity(certificate: idv::Certificate, key: PrivateKey, clock: &ManualClock) -> WorkloadIdentity {
    let chain = certificate.chain_der.into_iter().map(Into::into).collect();
    let bundle = TrustBundle::from_ders(certificate.roots_der).unwrap();
    WorkloadIdentity::new(chain, key, bundle, isthmus_certs::Clock::now(clock)).unwrap()
}

fn key(name: &str) -> disc::ResourceKey {
    let kind = if name.contains('/') { disc::ResourceKind::Service } else { disc::ResourceKind::Address };
    disc::ResourceKey { kind: kind.into(), name: name.to_string() }
}

async fn apply(operator: &mut AdminClient<Channel>, yaml: &str) -> adm::ApplyResponse {
    let documents = vec![adm::Document { source: "t.yaml".to_string(), yaml: yaml.to_string() }];
    operator.apply(adm::ApplyRequest { documents, ..Default::default() }).await.unwrap().into_inner()
}
