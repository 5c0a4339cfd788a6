//! A CA's certificate with its key, in memory and on disk.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, Issuer};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::ca::{CaError, ISSUING_LIFETIME, ROOT_LIFETIME};
use crate::id::TrustDomain;
use crate::key::PrivateKey;
use crate::{leaf, pem, private_file, template};

pub(crate) const ROOT_FILE: &str = "root.pem";
pub(crate) const ISSUING_FILE: &str = "issuing.pem";

pub(crate) struct Signer {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, PrivateKey>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    key: PrivateKey,
}

impl Signer {
    pub(crate) fn new_root(trust_domain: &TrustDomain, now: UnixTime) -> Result<Self, CaError> {
        let key = PrivateKey::generate()?;
        let params = template::ca_params(trust_domain, "root", BasicConstraints::Unconstrained, ROOT_LIFETIME, now)?;
        Self::new(params.self_signed(&key)?.into(), key, ROOT_FILE)
    }

    /// Never outlives `root`; may sign leaves only (pathLen 0).
    pub(crate) fn new_issuing(trust_domain: &TrustDomain, root: &Self, now: UnixTime) -> Result<Self, CaError> {
        let key = PrivateKey::generate()?;
        let left = Duration::from_secs(root.not_after.as_secs().saturating_sub(now.as_secs()));
        let (lifetime, constraints) = (ISSUING_LIFETIME.min(left), BasicConstraints::Constrained(0));
        let params = template::ca_params(trust_domain, "issuing CA", constraints, lifetime, now)?;
        Self::new(params.signed_by(key.public(), &root.issuer)?.into(), key, ISSUING_FILE)
    }

    fn new(certificate: CertificateDer<'static>, key: PrivateKey, file: &'static str) -> Result<Self, CaError> {
        let parsed = leaf::parse(&certificate).map_err(|e| damaged(file, e))?;
        if leaf::p256_key(&parsed.subject_pki).as_ref() != Some(key.public()) {
            return Err(damaged(file, "certificate and key do not belong together"));
        }
        let (not_before, not_after) = leaf::validity(&parsed).map_err(|e| damaged(file, e))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key.clone())?;
        Ok(Self { certificate, issuer, not_before, not_after, key })
    }

    /// `Ok(None)`: there is no such file.
    pub(crate) fn read(dir: &Path, file: &'static str) -> Result<Option<Self>, CaError> {
        let path = dir.join(file);
        let content =
            private_file::read(&path).map_err(|source| CaError::Io { file: path.display().to_string(), source })?;
        let Some(content) = content else { return Ok(None) };
        let parts = pem::parse(&content).map_err(|e| damaged(file, e))?;
        let (Ok([certificate]), Some(key)) = (<[_; 1]>::try_from(parts.certificates), parts.key) else {
            return Err(damaged(file, "it holds not one certificate and one key"));
        };
        Self::new(certificate, key, file).map(Some)
    }

    /// Certificate and key in one file, so that they cannot come apart.
    pub(crate) fn write(&self, dir: &Path, file: &str) -> Result<(), CaError> {
        let text = pem::write(std::slice::from_ref(&self.certificate), Some(&self.key))?;
        private_file::replace(dir, file, text.as_bytes())
            .map_err(|source| CaError::Io { file: dir.join(file).display().to_string(), source })
    }
}

pub(crate) fn check_trust_domain(root: &Signer, wanted: &TrustDomain) -> Result<(), CaError> {
    let cert = leaf::parse(&root.certificate).map_err(|e| damaged(ROOT_FILE, e))?;
    let uri = leaf::uris(&cert).map_err(|e| damaged(ROOT_FILE, e))?.first().copied().unwrap_or_default();
    if uri == wanted.uri() {
        return Ok(());
    }
    Err(CaError::TrustDomain { found: uri.trim_start_matches("spiffe://").to_owned(), wanted: wanted.clone() })
}

pub(crate) fn check_signed_by(issuing: &Signer, root: &Signer) -> Result<(), CaError> {
    let cert = leaf::parse(&issuing.certificate).map_err(|e| damaged(ISSUING_FILE, e))?;
    // The part before the signature is what was signed; x509-parser keeps it to itself, but can check it.
    let root = leaf::parse(&root.certificate).map_err(|e| damaged(ROOT_FILE, e))?;
    cert.verify_signature(Some(root.public_key())).map_err(|_| damaged(ISSUING_FILE, "root.pem did not sign it"))
}

pub(crate) fn damaged(file: &'static str, why: impl fmt::Display) -> CaError {
    CaError::Damaged { file, why: why.to_string() }
}
