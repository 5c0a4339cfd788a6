//! Certificate requests (PKCS#10). The CA takes one thing from them: a public key whose owner signed the request.
//!
//! Refused: anything but ECDSA P-256 with SHA-256, a bad signature, trailing bytes, more than 4 KiB. Names, extensions
//! and attributes in a request are not even looked at: who somebody is was settled before, by token or certificate.

use x509_parser::certification_request::X509CertificationRequest;
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
    let signature = &request.signature_value.data;
    if !ends_as_it_must(der, info.raw, signature) || !key.verifies(info.raw, signature) {
        return Err(CsrError::Signature);
    }
    Ok(PublicKeyInfo(key))
}

/// What follows the signed part has one form in DER: ecdsa-with-SHA256 without parameters (RFC 5758 §3.2), then the
/// signature in whole bytes. The parser is lenient about tags here, and what nobody signed should not vary.
fn ends_as_it_must(der: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    const ECDSA_WITH_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    // A P-256 signature has at most 72 bytes, so one length byte is enough.
    let Ok(length) = u8::try_from(signature.len() + 1) else {
        return false;
    };
    let tail = [ECDSA_WITH_SHA256, &[3, length, 0], signature].concat();
    der.first() == Some(&0x30) && der.strip_suffix(&tail[..]).is_some_and(|head| head.ends_with(signed))
}

#[cfg(test)]
#[path = "csr_test.rs"]
mod csr_test;
