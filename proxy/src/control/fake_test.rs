//! A control plane in this process: real TLS and real gRPC over byte buffers, with the discovery stream in the test's hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use isthmus_certs::{
    CertificateAuthority, ClientAuth, Clock, IdentityStore, JoinToken, PrivateKey, PublicKeyInfo, RootFingerprint,
    SpiffeId, TrustDomain, WorkloadIdentity, csr, statement,
};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::discovery::v1::discovery_server::{Discovery, DiscoveryServer};
use isthmus_proto::discovery::v1::{control_message, proxy_message};
use isthmus_proto::identity::v1::identity_server::{Identity, IdentityServer};
use isthmus_proto::identity::v1::{self as id_wire, enroll_request::Proof};
use isthmus_proto::view;
use prost::Message as _;
use rustls::pki_types::UnixTime;
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::connect::{ALPN, Dialer};

/// 2027-01-15T08:00:00Z.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// Wall-clock time that runs with tokio's paused time.
pub(super) struct PausedClock(Instant);

impl PausedClock {
    pub(super) fn start() -> Arc<dyn Clock> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for PausedClock {
    fn now(&self) -> UnixTime {
        let elapsed = self.0.elapsed();
        UnixTime::since_unix_epoch(Duration::from_millis(EPOCH_MS.unsigned_abs()) + elapsed)
    }

    fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

pub(super) struct ControlPlane {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ca: Arc<CertificateAuthority>,
    pub(super) token: JoinToken,
    pub(super) lifetime: Duration,
    /// Requests of either service that got through TLS.
    pub(super) requests: Arc<AtomicUsize>,
    sessions: mpsc::Receiver<Session>,
    connections: mpsc::Sender<Result<DuplexStream, std::io::Error>>,
    identities: Arc<IdentityStore>,
}

/// One discovery stream, as the control plane sees it.
pub(super) struct Session {
    hear: Streaming<wire::ProxyMessage>,
    say: mpsc::Sender<Result<wire::ControlMessage, Status>>,
}

fn workload_id() -> SpiffeId {
    SpiffeId::parse("spiffe://shop.example/ns/shop/sa/orders").unwrap()
}

impl ControlPlane {
    pub(super) fn start(lifetime: Duration) -> Self {
        let clock = PausedClock::start();
        let trust_domain = TrustDomain::parse("shop.example").unwrap();
        let ca = Arc::new(CertificateAuthority::generate(&trust_domain, Arc::clone(&clock)).unwrap());
        let identities = IdentityStore::new(trust_domain.clone(), Arc::clone(&clock));
        let key = PrivateKey::generate().unwrap();
        let own = SpiffeId::control_plane(&trust_domain);
        let issued = ca.issue(&PublicKeyInfo::of(&key), &own, Duration::from_secs(3600), &[]).unwrap();
        identities.replace(WorkloadIdentity::from_issued(issued, key, ca.bundle(), clock.now()).unwrap()).unwrap();
        let token = JoinToken::generate("control:15012", &trust_domain, RootFingerprint::of(ca.root())).unwrap();
        let (connections, incoming) = mpsc::channel(4);
        let (opened, sessions) = mpsc::channel(4);
        let requests = Arc::new(AtomicUsize::new(0));
        let service = Service {
            clock: Arc::clone(&clock),
            ca: Arc::clone(&ca),
            secret: Mutex::new(Some(token.secret().to_string())),
            lifetime,
            requests: Arc::clone(&requests),
            opened,
        };
        let service = Arc::new(service);
        let server = tonic::transport::Server::builder()
            .add_service(IdentityServer::from_arc(Arc::clone(&service)))
            .add_service(DiscoveryServer::from_arc(service));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
        Self { clock, ca, token, lifetime, requests, sessions, connections, identities }
    }

    pub(super) fn dialer(&self) -> Dialer {
        let tls = TlsAcceptor::from(self.identities.server_config_with_root(ALPN, ClientAuth::Optional));
        let connections = self.connections.clone();
        Dialer::new("control:15012", move || {
            let (tls, connections) = (tls.clone(), connections.clone());
            Box::pin(async move {
                let (client, server) = duplex(1 << 16);
                tokio::spawn(serve(tls, server, connections));
                Ok(Box::new(client) as Box<dyn super::connect::Wire>)
            })
        })
    }

    /// The delta with a signature over its upserts, as the whole view of `shop/orders`.
    pub(super) fn signed(&self, mut delta: wire::Delta) -> wire::Delta {
        let signed_unix_ms = self.clock.now_ms();
        let digest = |one: &wire::Resource| view::digest(&one.encode_to_vec());
        let digests = delta.upserts.iter().map(|one| (view::key(one.key.as_ref().unwrap()), digest(one))).collect();
        let of = view::ViewOf { workload: "shop/orders", version: delta.version, signed_unix_ms };
        let own = self.identities.current().unwrap();
        let signature = statement::sign(&own, &view::text(of, &digests)).unwrap();
        let chain_der = own.chain.iter().map(|der| der.to_vec()).collect();
        delta.signature = Some(wire::ViewSignature { signed_unix_ms, chain_der, signature });
        delta
    }

    /// Nobody is there.
    pub(super) fn no_way() -> Dialer {
        Dialer::new("control:15012", || Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) }))
    }

    pub(super) async fn session(&mut self) -> Session {
        self.sessions.recv().await.unwrap()
    }
}

/// TLS on one side, the gRPC server on the other; a refused handshake never reaches the server.
async fn serve(tls: TlsAcceptor, wire: DuplexStream, to: mpsc::Sender<Result<DuplexStream, std::io::Error>>) {
    let Ok(mut encrypted) = tls.accept(wire).await else {
        return;
    };
    let (mut plain, server) = duplex(1 << 16);
    if to.send(Ok(server)).await.is_ok() {
        let _ = copy_bidirectional(&mut encrypted, &mut plain).await;
    }
}

impl Session {
    /// The next message that does not merely compare clocks: on paused time a minute is over at once.
    pub(super) async fn hear(&mut self) -> proxy_message::Message {
        loop {
            match self.hear.message().await.unwrap().unwrap().message.unwrap() {
                proxy_message::Message::Clock(_) => {}
                other => return other,
            }
        }
    }

    /// What the proxy's clock says, when it next says so.
    pub(super) async fn hear_clock(&mut self) -> i64 {
        loop {
            if let proxy_message::Message::Clock(theirs) = self.hear.message().await.unwrap().unwrap().message.unwrap()
            {
                return theirs.unix_ms;
            }
        }
    }

    pub(super) async fn clock(&self, unix_ms: i64) {
        self.say(control_message::Message::Clock(wire::Clock { unix_ms })).await;
    }

    pub(super) async fn hello(&mut self) -> wire::Hello {
        match self.hear().await {
            proxy_message::Message::Hello(hello) => hello,
            other => panic!("{other:?} instead of hello"),
        }
    }

    pub(super) async fn say(&self, message: control_message::Message) {
        self.say.send(Ok(wire::ControlMessage { message: Some(message) })).await.unwrap();
    }

    pub(super) async fn welcome(&self, clock: &dyn Clock) {
        let welcome = wire::Welcome {
            protocol: isthmus_proto::PROTOCOL,
            build_version: "fake".into(),
            features: vec![],
            server_time_unix_ms: clock.now_ms(),
        };
        self.say(control_message::Message::Welcome(welcome)).await;
    }

    pub(super) async fn delta(&self, delta: wire::Delta) {
        self.say(control_message::Message::Delta(delta)).await;
    }
}

struct Service {
    clock: Arc<dyn Clock>,
    ca: Arc<CertificateAuthority>,
    secret: Mutex<Option<String>>,
    lifetime: Duration,
    requests: Arc<AtomicUsize>,
    opened: mpsc::Sender<Session>,
}

impl Service {
    fn issue(&self, csr_der: &[u8]) -> Result<id_wire::Certificate, Status> {
        let key = csr::verify(csr_der).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let issued = self.ca.issue(&key, &workload_id(), self.lifetime, &[]).unwrap();
        Ok(id_wire::Certificate {
            chain_der: issued.chain.iter().map(|c| c.to_vec()).collect(),
            roots_der: vec![self.ca.root().to_vec()],
            spiffe_id: workload_id().to_string(),
            server_time_unix_ms: self.clock.now_ms(),
        })
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn enroll(
        &self,
        request: Request<id_wire::EnrollRequest>,
    ) -> Result<Response<id_wire::EnrollResponse>, Status> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let request = request.into_inner();
        let skew = request.client_time_unix_ms - self.clock.now_ms();
        if skew.abs() > 300_000 {
            return Err(Status::failed_precondition(isthmus_certs::skew_in_words(skew)));
        }
        let Some(Proof::JoinToken(given)) = request.proof else {
            return Err(Status::unauthenticated("no proof"));
        };
        let mut secret = self.secret.lock().await;
        if secret.as_ref() != Some(&given) {
            return Err(Status::unauthenticated("token was used before"));
        }
        *secret = None;
        Ok(Response::new(id_wire::EnrollResponse {
            certificate: Some(self.issue(&request.csr_der)?),
            workload: "shop/orders".into(),
        }))
    }

    async fn challenge(
        &self,
        _: Request<id_wire::ChallengeRequest>,
    ) -> Result<Response<id_wire::ChallengeResponse>, Status> {
        Ok(Response::new(id_wire::ChallengeResponse { nonce: "0123456789".to_owned() }))
    }

    async fn renew(&self, request: Request<id_wire::RenewRequest>) -> Result<Response<id_wire::RenewResponse>, Status> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let certificate = Some(self.issue(&request.into_inner().csr_der)?);
        Ok(Response::new(id_wire::RenewResponse { certificate }))
    }
}

#[tonic::async_trait]
impl Discovery for Service {
    type StreamStream = ReceiverStream<Result<wire::ControlMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<wire::ProxyMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (say, said) = mpsc::channel(16);
        let session = Session { hear: request.into_inner(), say };
        self.opened.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}
