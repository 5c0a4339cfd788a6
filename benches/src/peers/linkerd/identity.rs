//! Who a proxy is: the files it starts with, and the certificate it gets for them.

use std::fs;
use std::path::Path;

use linkerd2_proxy_api::identity::identity_server::Identity;
use linkerd2_proxy_api::identity::{CertifyRequest, CertifyResponse};
use prost_types::Timestamp;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use tonic::{Request, Response, Status};

use super::control::Control;
use crate::certificates::write_secret;

/// 2100-01-01: no certificate is renewed while something is measured.
const VALID_UNTIL: i64 = 4_102_444_800;

/// What linkerd2-proxy reads at its start: a key, a request for a certificate, and a token, which nobody looks at here.
pub(super) fn documents(dir: &Path, name: &str) -> Result<(), String> {
    let (request, key) = request(name).map_err(|error| format!("making the request of {name}: {error}"))?;
    fs::create_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    write_secret(&dir.join("csr.der"), &request)?;
    write_secret(&dir.join("key.p8"), &key)?;
    write_secret(&dir.join("token"), b"bench")
}

/// The request and the key, both in DER.
fn request(name: &str) -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok((params.serialize_request(&key)?.der().to_vec(), key.serialize_der()))
}

#[tonic::async_trait]
impl Identity for Control {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let asked = request.into_inner();
        let leaf_certificate = self.sign(&asked.identity, asked.certificate_signing_request)?;
        let valid_until = Some(Timestamp { seconds: VALID_UNTIL, nanos: 0 });
        Ok(Response::new(CertifyResponse { leaf_certificate, valid_until, ..CertifyResponse::default() }))
    }
}

impl Control {
    /// Only the name of the proxy beside this, and only if the request is for no other.
    fn sign(&self, identity: &str, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        let refuse = |error: rcgen::Error| Status::invalid_argument(format!("the request of {identity}: {error}"));
        let mut asked =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).map_err(refuse)?;
        let name = identity.try_into().map_err(refuse)?;
        if identity != self.mesh.certifies || asked.params.subject_alt_names != [SanType::DnsName(name)] {
            return Err(Status::permission_denied(format!("{identity} is not {}", self.mesh.certifies)));
        }
        asked.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        asked.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = asked.signed_by(&self.issuer).map_err(refuse)?;
        Ok(certificate.der().to_vec())
    }
}
