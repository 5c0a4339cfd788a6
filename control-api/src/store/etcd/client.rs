//! Calls to an etcd cluster: one connection to one member, another member when that one fails. Every call has a deadline.
//!
//! TLS is ours (rustls), with the cluster's CA and our client certificate read from files at each connection, because both
//! are rotated under us. Refused at start: https without a CA, http where a CA or a certificate was named.

use super::super::StoreError;
use super::wire::{
    self, LeaseAlive, LeaseGrant, LeaseGranted, LeaseId, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use hyper_util::rt::TokioIo;
use isthmus_certs::provider;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, IntoStreamingRequest, Request, Status, Streaming};

/// One try: a member that does not answer for this long is left for another one.
const TRY: Duration = Duration::from_secs(2);
/// All tries together. A cluster that elects a leader answers within one or two seconds.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
const PING_EVERY: Duration = Duration::from_secs(3);
const PONG_WITHIN: Duration = Duration::from_secs(3);
/// A page of 500 resources; etcd limits each to some 1.5 MiB.
const MAX_ANSWER: usize = 1 << 30;

/// Where the cluster is, and how it is spoken to.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Before every key: several meshes may share a cluster.
    pub prefix: String,
    /// The cluster's CA, PEM.
    pub ca_file: Option<PathBuf>,
    /// Our client certificate and its key, PEM.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// This process, among the others on the same store. Empty: a random name.
    pub replica: String,
    /// A tool: it reads and writes, and is no control plane to the others.
    pub apart: bool,
    /// For how long what it says holds after its death. Absent: 10 s.
    pub lease: Option<Duration>,
}

pub(super) struct Client {
    members: Vec<Uri>,
    pub(super) options: EtcdOptions,
    present: AtomicUsize,
    channel: Mutex<Option<(usize, Channel)>>,
}

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It surely changed nothing.
    Unreachable(String),
    /// It may have been carried out.
    Unknown(String),
    /// etcd has said no.
    Refused(Status),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Unreachable(why) => StoreError::Unreachable(why),
            Failure::Unknown(why) => StoreError::Unknown(why),
            Failure::Refused(status) => StoreError::Unreachable(format!("etcd says: {}", status.message())),
        }
    }
}

impl Client {
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let wrong = |why: String| StoreError::Unreachable(format!("store.etcd: {why}"));
        let mut members = Vec::new();
        for endpoint in &options.endpoints {
            let uri: Uri = endpoint.parse().map_err(|error| wrong(format!("`{endpoint}`: {error}")))?;
            let tls = match uri.scheme_str() {
                Some("https") => true,
                Some("http") => false,
                _ => return Err(wrong(format!("`{endpoint}` is not https://host:port"))),
            };
            if tls != options.ca_file.is_some() {
                let why = if tls { "needs caFile" } else { "is in plain; write https:// where caFile is set" };
                return Err(wrong(format!("`{endpoint}` {why}")));
            }
            if uri.port_u16().is_none() {
                return Err(wrong(format!("`{endpoint}` has no port")));
            }
            members.push(uri);
        }
        if members.is_empty() {
            return Err(wrong("no endpoints".to_string()));
        }
        if options.certificate_file.is_some() != options.key_file.is_some() {
            return Err(wrong("certificateFile and keyFile go together".to_string()));
        }
        if let (Some(ca), true) = (&options.ca_file, options.endpoints.iter().any(|e| e.starts_with("https"))) {
            tls(ca, &options).map_err(|error| wrong(error.to_string()))?;
        }
        // A fleet of control planes does not begin at the same member.
        let present = AtomicUsize::new(rand::random::<u64>() as usize % members.len());
        Ok(Client { members, options, present, channel: Mutex::new(None) })
    }

    /// The connection that there is, or a new one to the member whose turn it is.
    async fn channel(&self) -> Result<(usize, Channel), String> {
        let mut held = self.channel.lock().await;
        let present = self.present.load(Ordering::Relaxed);
        if let Some((at, channel)) = held.as_ref().filter(|(at, _)| *at == present) {
            return Ok((*at, channel.clone()));
        }
        let member = self.members[present % self.members.len()].clone();
        let name = member.to_string();
        let connected = tokio::time::timeout(CONNECT, connect(member, self.options.clone())).await;
        let channel = connected.map_err(|_| format!("{name}: no connection within 2 s"))?;
        let channel = channel.map_err(|error| format!("{name}: {}", innermost(&error)))?;
        *held = Some((present, channel.clone()));
        Ok((present, channel))
    }

    /// This member failed: the next one is asked from now on.
    async fn leave(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let _ = self.present.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
        let mut held = self.channel.lock().await;
        if held.as_ref().is_some_and(|(at, _)| *at == member) {
            *held = None;
        }
    }

    /// A call that may be made twice.
    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let until = Instant::now() + WITHIN;
        loop {
            let failed = match self.once(path, question.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(status)) => return Err(Failure::Refused(status)),
                Err(failed) => failed,
            };
            if Instant::now() >= until {
                return Err(failed);
            }
            tokio::time::sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }

    /// One try at one member.
    pub(super) async fn once<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Failure>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let at = self.present.load(Ordering::Relaxed);
        let (at, channel) = match self.channel().await {
            Ok(found) => found,
            Err(why) => {
                self.leave(at).await;
                return Err(Failure::Unreachable(why));
            }
        };
        let call = async {
            let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
            grpc.ready().await.map_err(|error| Failure::Unreachable(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
            grpc.unary(Request::new(question), path, codec).await.map_err(failure)
        };
        let failed = match tokio::time::timeout(TRY, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(Failure::Refused(status))) => return Err(Failure::Refused(status)),
            Ok(Err(failed)) => failed,
            Err(_) => Failure::Unknown(format!("{} did not answer within 2 s", self.members[at])),
        };
        self.leave(at).await;
        Err(failed)
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        self.ask("/etcdserverpb.KV/Range", request).await
    }

    /// Not repeated: the caller finds out first whether it was carried out.
    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Failure> {
        self.once("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn grant(&self, ttl: i64) -> Result<LeaseGranted, Failure> {
        self.once("/etcdserverpb.Lease/LeaseGrant", LeaseGrant { ttl }).await
    }

    pub(super) async fn revoke(&self, id: i64) -> Result<wire::Nothing, Failure> {
        self.once("/etcdserverpb.Lease/LeaseRevoke", LeaseId { id }).await
    }

    /// Renews a lease once; false: it has ended.
    pub(super) async fn alive(&self, id: i64) -> Result<bool, Failure> {
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let once = async {
            let (at, mut answers) = self.stream::<LeaseId, LeaseAlive>(path, LeaseId { id }).await?;
            match answers.message().await {
                Ok(Some(answer)) => Ok(answer.ttl > 0),
                Ok(None) => Err((at, Failure::Unknown("etcd ended a lease's stream".to_string()))),
                Err(status) => Err((at, failure(status))),
            }
        };
        match tokio::time::timeout(TRY, once).await {
            Ok(Ok(alive)) => Ok(alive),
            Ok(Err((at, failed))) => {
                self.leave(at).await;
                Err(failed)
            }
            Err(_) => {
                self.leave(self.present.load(Ordering::Relaxed)).await;
                Err(Failure::Unknown("the lease was not renewed within 2 s".to_string()))
            }
        }
    }

    /// A stream of answers to one question, which stays open.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        question: Q,
    ) -> Result<(usize, Streaming<A>), (usize, Failure)>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let at = self.present.load(Ordering::Relaxed);
        let (at, channel) = self.channel().await.map_err(|why| (at, Failure::Unreachable(why)))?;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        grpc.ready().await.map_err(|error| (at, Failure::Unreachable(error.to_string())))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let asked = futures::stream::once(async { question });
        // Open for as long as somebody listens: etcd ends a watch with the questions.
        let open = futures::StreamExt::chain(asked, futures::stream::pending());
        let mut request = open.into_streaming_request();
        // From a member that has lost the others nothing new would ever come.
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let answers = tokio::time::timeout(TRY, grpc.streaming(request, path, codec)).await;
        let answers = answers.map_err(|_| (at, Failure::Unknown("no answer within 2 s".to_string())))?;
        Ok((at, answers.map_err(|status| (at, failure(status)))?.into_inner()))
    }

    pub(super) async fn left(&self, member: usize) {
        self.leave(member).await;
    }
}

/// What became of a call, from its status.
fn failure(status: Status) -> Failure {
    match status.code() {
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::Unimplemented => Failure::Refused(status),
        _ => Failure::Unknown(status.message().to_string()),
    }
}

async fn connect(member: Uri, options: EtcdOptions) -> Result<Channel, tonic::transport::Error> {
    let (host, port) = (member.host().unwrap_or_default().to_string(), member.port_u16().unwrap_or_default());
    let connector = tower::service_fn(move |_: Uri| {
        let (host, options) = (host.trim_matches(['[', ']']).to_string(), options.clone());
        async move { dial(&host, port, &options).await.map(TokioIo::new) }
    });
    Endpoint::from(member)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

trait Wire: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Wire for T {}

async fn dial(host: &str, port: u16, options: &EtcdOptions) -> io::Result<Box<dyn Wire>> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let Some(ca) = &options.ca_file else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(tls(ca, options)?));
    Ok(Box::new(connector.connect(name, tcp).await?))
}

fn tls(ca: &Path, options: &EtcdOptions) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca)? {
        roots.add(root).map_err(|error| wrong(ca, &error))?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match (&options.certificate_file, &options.key_file) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(|e| wrong(certificate, &e))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, &error))?;
    all.map(|one| one.map_err(|error| wrong(path, &error))).collect()
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
