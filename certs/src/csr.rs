//! Certificate requests (PKCS#10). The CA takes one thing from them: a public key whose owner signed the request.
//!
//! Refused: anything but ECDSA P-256 with SHA-256, a bad signature, trailing bytes, more than 4 KiB. Names, extensions
//! and attributes in a request are not even looked at: who somebody is was settled before, by token or certificate.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;
use x509_parser::prelude::FromDer;

use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::leaf;

/// Ours have about 230 bytes; one that OpenSSL made with a subject and names stays below 1 KiB.
pub const MAX_CSR: usize = 4096;

/// Why a request is refused. The requester has to change it; sending it again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the certificate request has more than {MAX_CSR} bytes")]
    TooLarge,
    #[error("the certificate request is not PKCS#10 in DER")]
    Malformed,
    #[error("the certificate request's key is not ECDSA P-256: make one with `openssl ecparam -name prime256v1`")]
    KeyType,
    #[error("the certificate request is not signed by its own key with ecdsa-with-SHA256")]
    Signature,
}

/// A public key whose owner has proved to hold the private one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKeyInfo(PublicKey);

impl PublicKeyInfo {
    pub fn key(&self) -> &PublicKey {
        &self.0
    }

    /// For a key made in this very process, which needs no proof.
    pub fn of(key: &PrivateKey) -> Self {
        Self(*key.public())
    }
}

/// A new private key; see [`PrivateKey::generate`].
pub fn new_key() -> Result<PrivateKey, KeyError> {
    PrivateKey::generate()
}

/// A request (DER) for `key` that says nothing else.
pub fn request(key: &PrivateKey) -> Result<Vec<u8>, KeyError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(key).map_err(|_| KeyError::Generate)?;
    Ok(request.der().to_vec())
}

/// Checks a request (DER) and returns the key that it proves.
pub fn verify(der: &[u8]) -> Result<PublicKeyInfo, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::TooLarge);
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
        return Err(CsrError::Malformed);
    };
    let info = &request.certification_request_info;
    let key = leaf::p256_key(&info.subject_pki).ok_or(CsrError::KeyType)?;
    let (algorithm, signature) = (&request.signature_algorithm, &request.signature_value);
    // RFC 5758 §3.2: no parameters. DER: a signature is whole bytes.
    let plain = algorithm.parameters.is_none() && signature.unused_bits == 0;
    if algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 || !plain || !key.verifies(info.raw, &signature.data) {
        return Err(CsrError::Signature);
    }
    Ok(PublicKeyInfo(key))
}

#[cfg(test)]
#[path = "csr_test.rs"]
mod csr_test;
