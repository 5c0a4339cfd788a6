//! Connections to the control plane, as an operator and as a proxy have them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use isthmus_certs::{
    ExpectedPeer, IdentityStore, JoinToken, SpiffeId, SystemClock, TrustBundle, TrustDomain, WorkloadIdentity, csr, pem,
};
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use isthmus_proto::identity::v1::{EnrollRequest, enroll_request::Proof};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// One TLS connection with HTTP/2 on it.
pub(crate) async fn connect(tls: Arc<ClientConfig>, to: SocketAddr) -> Result<Channel, String> {
    let connector = tower::service_fn(move |_| {
        let connector = TlsConnector::from(tls.clone());
        async move {
            let tcp = TcpStream::connect(to).await?;
            tcp.set_nodelay(true)?;
            connector.connect(ServerName::from(to.ip()), tcp).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://control.isthmus");
    endpoint.connect_with_connector(connector).await.map_err(|error| format!("{to}: {error:?}"))
}

fn store() -> Result<Arc<IdentityStore>, String> {
    let trust_domain = TrustDomain::parse("bench.example").map_err(|error| error.to_string())?;
    Ok(IdentityStore::new(trust_domain, Arc::new(SystemClock)))
}

fn config(identity: WorkloadIdentity) -> Result<Arc<ClientConfig>, String> {
    let store = store()?;
    let expected = ExpectedPeer::AnyOf(vec![SpiffeId::control_plane(store.trust_domain())]);
    store.replace(identity).map_err(|error| error.to_string())?;
    Ok(store.client_config(&[b"h2"], expected))
}

#[derive(Deserialize)]
struct OperatorFile {
    address: String,
    roots: String,
    certificate: String,
    key: String,
}

/// With the credentials that the control plane wrote at its first start.
pub(crate) async fn operator(file: &Path) -> Result<Channel, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let file: OperatorFile = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    let read = |text: &str| pem::parse(text.as_bytes()).map_err(|error| error.to_string());
    let key = read(&file.key)?.key.ok_or("no key in the operator's file")?;
    let bundle = TrustBundle::from_ders(read(&file.roots)?.certificates).map_err(|error| error.to_string())?;
    let chain = read(&file.certificate)?.certificates;
    let identity = WorkloadIdentity::new(chain, key, bundle, store()?.now()).map_err(|error| error.to_string())?;
    connect(config(identity)?, file.address.parse().map_err(|_| "no address in the operator's file")?).await
}

/// What a workload gets for a join token. All simulated proxies have the same service account, and so one certificate.
pub(crate) async fn enroll(token: &str, to: SocketAddr) -> Result<Arc<ClientConfig>, String> {
    let token = JoinToken::parse(token).map_err(|error| error.to_string())?;
    let store = store()?;
    let expected = ExpectedPeer::PinnedRoot(token.root, SpiffeId::control_plane(store.trust_domain()));
    let channel = connect(store.client_config(&[b"h2"], expected), to).await?;
    let key = csr::new_key().map_err(|error| error.to_string())?;
    let request = EnrollRequest {
        proof: Some(Proof::JoinToken(token.secret().to_string())),
        csr_der: csr::request(&key).map_err(|error| error.to_string())?,
        ..EnrollRequest::default()
    };
    let answer = IdentityClient::new(channel).enroll(request).await.map_err(|status| status.to_string())?;
    let certificate = answer.into_inner().certificate.ok_or("no certificate in the answer")?;
    let bundle = TrustBundle::from_ders(certificate.roots_der).map_err(|error| error.to_string())?;
    let chain = certificate.chain_der.into_iter().map(Into::into).collect();
    config(WorkloadIdentity::new(chain, key, bundle, store.now()).map_err(|error| error.to_string())?)
}
