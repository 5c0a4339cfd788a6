//! Who we are, proved: what goes into the enrolment request beside it. Made anew for each try, because tokens are rotated
//! under us and documents are good for one request. No private key leaves its file but as a signature.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use isthmus_certs::{JoinToken, RootFingerprint, TrustDomain, foreign};
use isthmus_proto::identity::v1 as wire;
use isthmus_proto::identity::v1::enroll_request::Proof as WireProof;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use serde::Deserialize;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::ControlError;
use super::enroll::{ANSWER_DEADLINE, answer_in_time};
use crate::tcp::{DialOptions, dial};

/// Larger is no PEM file and no token.
const MAX_FILE: u64 = 256 * 1024;
const MAX_DOCUMENT: usize = 64 * 1024;
/// The first version whose documents carry `subscriptionId`, and the one that Azure documents.
const API_VERSION: &str = "2021-02-01";

/// Whom to trust before anything is known of the mesh, and what to show.
#[derive(Debug, Clone)]
pub struct FirstContact {
    pub trust_domain: TrustDomain,
    pub root: RootFingerprint,
    pub proof: Proof,
}

#[derive(Debug, Clone)]
pub enum Proof {
    JoinToken(JoinToken),
    /// A machine's certificate of a company's own CA.
    Certificate {
        authority: String,
        certificate: PathBuf,
        key: PathBuf,
    },
    /// A pod's projected token.
    Kubernetes {
        cluster: String,
        token: PathBuf,
    },
    /// An Azure VM's attested document, from its metadata service.
    Azure {
        metadata: SocketAddr,
    },
}

impl FirstContact {
    pub(super) fn by_token(token: JoinToken) -> Self {
        Self { trust_domain: token.trust_domain.clone(), root: token.root, proof: Proof::JoinToken(token) }
    }
}

impl Proof {
    /// For this very request. `channel` leads to the control plane, which has proved itself.
    pub(super) async fn make(
        &self,
        csr_der: &[u8],
        channel: &Channel,
        options: DialOptions,
    ) -> Result<WireProof, ControlError> {
        match self {
            Self::JoinToken(token) => Ok(WireProof::JoinToken(token.secret().to_string())),
            Self::Certificate { authority, certificate, key } => {
                let (certificate_pem, key_pem) = (read(certificate).await?, read(key).await?);
                let signed = foreign::sign(&certificate_pem, &key_pem, csr_der).map_err(|error| {
                    ControlError::Proof(format!("{} and {}: {error}", certificate.display(), key.display()))
                })?;
                Ok(WireProof::Certificate(wire::CertificateProof {
                    authority: authority.clone(),
                    chain_der: signed.chain.iter().map(|der| der.to_vec()).collect(),
                    signature_scheme: signed.scheme.into(),
                    signature: signed.signature,
                }))
            }
            Self::Kubernetes { cluster, token: file } => {
                let text = read(file).await?;
                let unreadable = || ControlError::Proof(format!("{}: it is no token", file.display()));
                let token = std::str::from_utf8(&text).map_err(|_| unreadable())?.trim().to_owned();
                Ok(WireProof::Kubernetes(wire::KubernetesProof { cluster: cluster.clone(), token }))
            }
            Self::Azure { metadata } => {
                let request = wire::ChallengeRequest { csr_der: csr_der.to_vec() };
                let nonce = answer_in_time(IdentityClient::new(channel.clone()).challenge(request)).await?.nonce;
                let asked = tokio::time::timeout(ANSWER_DEADLINE, attested_document(*metadata, &nonce, options)).await;
                let document = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                let named = |why| ControlError::Proof(format!("Azure's metadata service at {metadata}: {why}"));
                Ok(WireProof::Azure(wire::AzureProof { document: document.map_err(named)? }))
            }
        }
    }
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ControlError> {
    use tokio::io::AsyncReadExt as _;
    let failed = |error: std::io::Error| ControlError::Proof(format!("{}: {error}", path.display()));
    let mut bytes = Zeroizing::new(Vec::new());
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(MAX_FILE).read_to_end(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

#[derive(Deserialize)]
struct Attested {
    encoding: String,
    signature: String,
}

/// Plain HTTP, as the service has it: the address is link-local and answered by the hypervisor.
async fn attested_document(metadata: SocketAddr, nonce: &str, options: DialOptions) -> Result<Vec<u8>, String> {
    if nonce.len() > 10 || !nonce.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("the control plane's nonce is not ten digits".to_owned());
    }
    let tcp = dial(metadata, options).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let request = http::Request::get(format!("/metadata/attested/document?api-version={API_VERSION}&nonce={nonce}"))
        .header("host", metadata.to_string())
        // The service answers nobody who was made to ask, as by a redirect.
        .header("metadata", "true")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await.map_err(|error| error.to_string())?;
        if status != http::StatusCode::OK {
            return Err(format!("it answers {status}"));
        }
        read_attested(&body.to_bytes())
    };
    tokio::select! {
        answer = asked => answer,
        // Its end in order is no error: what it brought is still to be read.
        Err(error) = connection => Err(error.to_string()),
    }
}

fn read_attested(body: &[u8]) -> Result<Vec<u8>, String> {
    let attested: Attested = serde_json::from_slice(body).map_err(|error| format!("no attested document: {error}"))?;
    if attested.encoding != "pkcs7" {
        return Err(format!("its document is in {}, not in pkcs7", attested.encoding.escape_debug()));
    }
    let text: String = attested.signature.split_whitespace().collect();
    BASE64_STANDARD.decode(text).map_err(|error| format!("no attested document: {error}"))
}

#[cfg(test)]
#[path = "proof_test.rs"]
mod proof_test;
