//! A workload's key: ECDSA P-256, made where it is used, never sent.
//!
//! One type signs CSRs, certificates and handshakes, so the secret exists once: inside AWS-LC, which wipes it when
//! freed. Its PKCS#8 form is produced only to be written to disk, in memory that is wiped as well.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::{SignatureAlgorithm, SignatureScheme, sign};
use zeroize::Zeroizing;

/// An uncompressed P-256 point: 0x04, x, y (SEC 1 §2.3.3).
const POINT: usize = 65;
/// A P-256 key in PKCS#8 has 138 bytes; anything much longer is not one.
const MAX_PKCS8: usize = 512;

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key is not an ECDSA P-256 private key in PKCS#8")]
    NotP256,
    #[error("the system gave no key: its random source or its cryptography failed")]
    Generate,
}

/// A private key and its public half. Cheap to clone; clones share the secret.
#[derive(Clone)]
pub struct PrivateKey {
    pair: Arc<EcdsaKeyPair>,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key from the system's random source.
    pub fn generate() -> Result<Self, KeyError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate).and_then(Self::new)
    }

    /// Reads a PKCS#8 document (DER).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        if der.len() > MAX_PKCS8 {
            return Err(KeyError::NotP256);
        }
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| KeyError::NotP256)
            .and_then(Self::new)
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let public = PublicKey::from_point(pair.public_key().as_ref()).ok_or(KeyError::NotP256)?;
        Ok(Self { pair: Arc::new(pair), public })
    }

    /// PKCS#8, DER; wiped when dropped.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// ECDSA with SHA-256, signature in DER. `None` if the library failed.
    pub fn sign_der(&self, message: &[u8]) -> Option<Vec<u8>> {
        // AWS-LC ignores the argument and uses its own random source.
        let signature = self.pair.sign(&SystemRandom::new(), message).ok()?;
        Some(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey([redacted], {:?})", self.public)
    }
}

/// A P-256 public key that lies on the curve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; POINT]);

impl PublicKey {
    /// Takes an uncompressed point. `None` if it is not one, or not on the curve.
    pub fn from_point(point: &[u8]) -> Option<Self> {
        let point: [u8; POINT] = point.try_into().ok()?;
        let key = aws_lc_rs::signature::ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point).is_ok();
        (key && point[0] == 4).then_some(Self(point))
    }

    /// The uncompressed point, 65 bytes.
    pub fn as_point(&self) -> &[u8] {
        &self.0
    }

    /// ECDSA with SHA-256, signature in DER.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P-256 {}…", crate::hex::encode(&self.0[1..9]))
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_der(message).ok_or(rcgen::Error::RingUnspecified)
    }
}

impl sign::SigningKey for PrivateKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn sign::Signer>)
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl sign::Signer for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.sign_der(message).ok_or_else(|| rustls::Error::General("AWS-LC could not sign".into()))
    }
    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[cfg(test)]
#[path = "key_test.rs"]
mod key_test;
