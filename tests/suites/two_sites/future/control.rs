//! A control plane that says what it is told to: real TLS, real gRPC, real certificates, on its host's own port.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use isthmus_certs::{
    CertificateAuthority, ClientAuth, Clock, IdentityStore, JoinToken, PrivateKey, PublicKeyInfo, RootFingerprint,
    SpiffeId, SystemClock, TrustDomain, WorkloadIdentity, csr,
};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::discovery::v1::control_message::Message as Says;
use isthmus_proto::discovery::v1::discovery_server::{Discovery, DiscoveryServer};
use isthmus_proto::discovery::v1::proxy_message::Message as Hears;
use isthmus_proto::identity::v1 as id_wire;
use isthmus_proto::identity::v1::identity_server::{Identity, IdentityServer};
use isthmus_world::{Host, Task};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(20);
const PORT: u16 = 15012;

/// The control plane.
pub(super) struct Future {
    token: String,
    root: Vec<u8>,
    sessions: Receiver<Session>,
    _serving: Task<()>,
}

/// One proxy's stream. What it asks for is answered in the background; acks and nacks come here.
pub(super) struct Session {
    say: mpsc::Sender<Result<wire::ControlMessage, Status>>,
    heard: Receiver<Hears>,
    answers: Arc<std::sync::Mutex<Option<(wire::Resource, u64)>>>,
}

pub(super) fn resource(
    kind: wire::ResourceKind,
    name: &str,
    requires: &[&str],
    body: wire::resource::Body,
) -> wire::Resource {
    let key = wire::ResourceKey { kind: kind.into(), name: name.to_owned() };
    let requires = requires.iter().map(|feature| (*feature).to_owned()).collect();
    wire::Resource { key: Some(key), requires, body: Some(body) }
}

impl Future {
    pub(super) fn start(host: &Host) -> Result<Future, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let domain = TrustDomain::parse("shop.example").map_err(|e| said(&e))?;
        let ca = Arc::new(CertificateAuthority::generate(&domain, Arc::clone(&clock)).map_err(|e| said(&e))?);
        let identities = IdentityStore::new(domain.clone(), Arc::clone(&clock));
        let key = PrivateKey::generate().map_err(|e| said(&e))?;
        let own = SpiffeId::control_plane(&domain);
        let issued = ca.issue(&PublicKeyInfo::of(&key), &own, Duration::from_secs(3600), &[]).map_err(|e| said(&e))?;
        let identity = WorkloadIdentity::from_issued(issued, key, ca.bundle(), clock.now()).map_err(|e| said(&e))?;
        identities.replace(identity).map_err(|e| said(&e))?;
        let address = host.socket(PORT);
        let token = JoinToken::generate(&address.to_string(), &domain, RootFingerprint::of(ca.root()));
        let token = token.map_err(|e| said(&e))?.format().to_string();
        let root = ca.root().to_vec();
        let (opened, sessions) = sync_channel(4);
        let tls = TlsAcceptor::from(identities.server_config_with_root(&[b"h2"], ClientAuth::Optional));
        let service = Arc::new(Service { ca, clock, opened });
        let listener = host.block_on(async move { TcpListener::bind(address).await }).map_err(|e| said(&e))?;
        let serving = host.tokio(async move {
            let (ready, connections) = mpsc::channel(4);
            let server = tonic::transport::Server::builder()
                .add_service(IdentityServer::from_arc(Arc::clone(&service)))
                .add_service(DiscoveryServer::from_arc(service));
            tokio::join!(accept(listener, tls, ready), async {
                let _ = server.serve_with_incoming(ReceiverStream::new(connections)).await;
            });
        });
        Ok(Future { token, root, sessions, _serving: serving })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn roots(&self) -> Vec<Vec<u8>> {
        vec![self.root.clone()]
    }

    /// The stream of the proxy that comes next.
    pub(super) fn session(&mut self) -> Result<Session, String> {
        self.sessions.recv_timeout(DEADLINE).map_err(|e| format!("no proxy came: {e}"))
    }
}

type Connections = mpsc::Sender<Result<DuplexStream, std::io::Error>>;

async fn accept(listener: TcpListener, tls: TlsAcceptor, ready: Connections) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(decrypt(tls.clone(), stream, ready.clone()));
    }
}

/// Ends with the connection; one that the proxy gives up by itself is none.
async fn decrypt(tls: TlsAcceptor, stream: TcpStream, ready: Connections) {
    let Ok(mut encrypted) = tls.accept(stream).await else { return };
    let (mut plain, server) = duplex(1 << 16);
    if ready.send(Ok(server)).await.is_ok() {
        let _ = copy_bidirectional(&mut encrypted, &mut plain).await;
    }
}

impl Session {
    pub(super) fn say(&self, delta: wire::Delta) -> Result<(), String> {
        let message = wire::ControlMessage { message: Some(Says::Delta(delta)) };
        self.say.blocking_send(Ok(message)).map_err(|e| e.to_string())
    }

    /// From now on this is the answer to whatever the proxy asks for.
    pub(super) fn answers(&self, resource: wire::Resource, version: u64) {
        *self.answers.lock().expect("nobody panics while it is held") = Some((resource, version));
    }

    pub(super) fn acked(&self, version: u64) -> Result<(), String> {
        match self.verdict(version)? {
            None => Ok(()),
            Some(problems) => Err(format!("version {version} is nacked: {problems:?}")),
        }
    }

    /// The problems of the nack.
    pub(super) fn nacked(&self, version: u64) -> Result<Vec<String>, String> {
        self.verdict(version)?.ok_or_else(|| format!("version {version} is acked"))
    }

    fn verdict(&self, of: u64) -> Result<Option<Vec<String>>, String> {
        loop {
            match self.heard.recv_timeout(DEADLINE).map_err(|e| format!("nothing said of version {of}: {e}"))? {
                Hears::Ack(ack) if ack.version == of => return Ok(None),
                Hears::Nack(nack) if nack.version == of => {
                    let text = |problem: wire::Problem| format!("{:?} {}", problem.key, problem.reason);
                    return Ok(Some(nack.problems.into_iter().map(text).collect()));
                }
                _ => {}
            }
        }
    }
}

struct Service {
    ca: Arc<CertificateAuthority>,
    clock: Arc<dyn Clock>,
    opened: SyncSender<Session>,
}

impl Service {
    fn issue(&self, csr_der: &[u8]) -> Result<Option<id_wire::Certificate>, Status> {
        let failed = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let key = csr::verify(csr_der).map_err(|e| failed(&e))?;
        let id = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").map_err(|e| failed(&e))?;
        let issued = self.ca.issue(&key, &id, Duration::from_secs(3600), &[]).map_err(|e| failed(&e))?;
        Ok(Some(id_wire::Certificate {
            chain_der: issued.chain.iter().map(|one| one.to_vec()).collect(),
            roots_der: vec![self.ca.root().to_vec()],
            spiffe_id: id.to_string(),
            server_time_unix_ms: self.clock.now_ms(),
        }))
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn enroll(
        &self,
        request: Request<id_wire::EnrollRequest>,
    ) -> Result<Response<id_wire::EnrollResponse>, Status> {
        let certificate = self.issue(&request.into_inner().csr_der)?;
        Ok(Response::new(id_wire::EnrollResponse { certificate, workload: "shop/web".to_owned() }))
    }

    async fn challenge(
        &self,
        _: Request<id_wire::ChallengeRequest>,
    ) -> Result<Response<id_wire::ChallengeResponse>, Status> {
        Err(Status::unimplemented("join tokens only"))
    }

    async fn renew(&self, request: Request<id_wire::RenewRequest>) -> Result<Response<id_wire::RenewResponse>, Status> {
        let certificate = self.issue(&request.into_inner().csr_der)?;
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
        let (say, said) = mpsc::channel(16);
        let (hear, heard) = sync_channel(64);
        let answers = Arc::new(std::sync::Mutex::new(None));
        let welcome = wire::Welcome {
            protocol: isthmus_proto::PROTOCOL,
            build_version: "99.0.0".to_owned(),
            features: vec!["clairvoyance/v1".to_owned()],
            server_time_unix_ms: self.clock.now_ms(),
        };
        let welcome = wire::ControlMessage { message: Some(Says::Welcome(welcome)) };
        say.send(Ok(welcome)).await.map_err(|_| Status::unavailable("gone"))?;
        tokio::spawn(listen(request.into_inner(), say.clone(), hear, Arc::clone(&answers)));
        let session = Session { say, heard, answers };
        self.opened.send(session).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

/// Ends with the proxy's stream.
async fn listen(
    mut from: Streaming<wire::ProxyMessage>,
    say: mpsc::Sender<Result<wire::ControlMessage, Status>>,
    hear: SyncSender<Hears>,
    answers: Arc<std::sync::Mutex<Option<(wire::Resource, u64)>>>,
) {
    while let Ok(Some(message)) = from.message().await {
        match message.message {
            Some(Hears::Subscribe(_)) => {
                let answer = answers.lock().expect("nobody panics while it is held").clone();
                if let Some((resource, version)) = answer {
                    let delta = wire::Delta { version, upserts: vec![resource], ..Default::default() };
                    let message = wire::ControlMessage { message: Some(Says::Delta(delta)) };
                    if say.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
            other => {
                if other.is_some_and(|other| hear.send(other).is_err()) {
                    return;
                }
            }
        }
    }
}
