//! A CA's certificate with its key, in memory and on disk.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, Issuer};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::ca::{CaError, ISSUING_LIFETIME, ROOT_LIFETIME};
use crate::id::TrustDomain;
use crate::vault::{CaKey, Kept, KeyVault};
use crate::{leaf, pem, private_file, template};

pub(crate) const ROOT_FILE: &str = "root.pem";
pub(crate) const ISSUING_FILE: &str = "issuing.pem";

/// A CA that can sign.
pub(crate) struct Signer {
    pub(crate) certificate: CertificateDer<'static>,
    /// CAs between this one and the root, nearest first: a company's own, above an imported one.
    pub(crate) above: Vec<CertificateDer<'static>>,
    pub(crate) issuer: Issuer<'static, CaKey>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    key: CaKey,
}

/// What a CA's file holds.
pub(crate) struct CaFile {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) kept: Option<Kept>,
}

impl Signer {
    pub(crate) fn new_root(trust_domain: &TrustDomain, vault: &dyn KeyVault, now: UnixTime) -> Result<Self, CaError> {
        let key = vault.generate(&format!("isthmus root {trust_domain}"))?;
        let params = template::ca_params(trust_domain, "root", BasicConstraints::Unconstrained, ROOT_LIFETIME, now)?;
        Self::new(params.self_signed(&key).map_err(CaError::make)?.into(), Vec::new(), key, ROOT_FILE)
    }

    /// Never outlives `root`; may sign leaves only (pathLen 0).
    pub(crate) fn new_issuing(
        trust_domain: &TrustDomain,
        root: &Self,
        vault: &dyn KeyVault,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        let key = vault.generate(&format!("isthmus issuing {trust_domain}"))?;
        let left = Duration::from_secs(root.not_after.as_secs().saturating_sub(now.as_secs()));
        let (lifetime, constraints) = (ISSUING_LIFETIME.min(left), BasicConstraints::Constrained(0));
        let params = template::ca_params(trust_domain, "issuing CA", constraints, lifetime, now)?;
        let certificate = params.signed_by(key.public(), &root.issuer).map_err(CaError::make)?;
        Self::new(certificate.into(), Vec::new(), key, ISSUING_FILE)
    }

    pub(crate) fn new(
        certificate: CertificateDer<'static>,
        above: Vec<CertificateDer<'static>>,
        key: CaKey,
        file: &'static str,
    ) -> Result<Self, CaError> {
        let parsed = leaf::parse(&certificate).map_err(|e| damaged(file, e))?;
        if leaf::p256_key(&parsed.subject_pki).as_ref() != Some(key.public()) {
            return Err(damaged(file, "certificate and key do not belong together"));
        }
        let (not_before, not_after) = leaf::validity(&parsed).map_err(|e| damaged(file, e))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key.clone())?;
        Ok(Self { certificate, above, issuer, not_before, not_after, key })
    }

    /// From a file's content.
    pub(crate) fn open(content: CaFile, vault: &dyn KeyVault, file: &'static str) -> Result<Self, CaError> {
        let mut certificates = content.certificates.into_iter();
        let (Some(certificate), Some(kept)) = (certificates.next(), content.kept) else {
            return Err(damaged(file, "it holds not one certificate and one key"));
        };
        let key = vault.open(&kept, Some(&certificate))?;
        Self::new(certificate, certificates.collect(), key, file)
    }

    pub(crate) fn kept_as(&self) -> &'static str {
        self.key.kept_as()
    }

    /// Certificate and key in one file, so that they cannot come apart.
    pub(crate) fn write(&self, dir: &Path, file: &str) -> Result<(), CaError> {
        let kept = self.key.keep(Some(&self.certificate))?;
        let certificates: Vec<_> = std::iter::once(&self.certificate).chain(&self.above).cloned().collect();
        write(dir, file, &certificates, Some(&kept))
    }
}

/// `Ok(None)`: there is no such file.
pub(crate) fn read(dir: &Path, file: &'static str) -> Result<Option<CaFile>, CaError> {
    let path = dir.join(file);
    let content =
        private_file::read(&path).map_err(|source| CaError::Io { file: path.display().to_string(), source })?;
    let Some(content) = content else { return Ok(None) };
    let (certificates, kept) = pem::parse_kept(&content).map_err(|e| damaged(file, e))?;
    Ok(Some(CaFile { certificates, kept }))
}

pub(crate) fn write(
    dir: &Path,
    file: &str,
    certificates: &[CertificateDer<'_>],
    kept: Option<&Kept>,
) -> Result<(), CaError> {
    private_file::replace(dir, file, pem::write_kept(certificates, kept).as_bytes())
        .map_err(|source| CaError::Io { file: dir.join(file).display().to_string(), source })
}

pub(crate) fn check_trust_domain(root: &CertificateDer<'_>, wanted: &TrustDomain) -> Result<(), CaError> {
    let cert = leaf::parse(root).map_err(|e| damaged(ROOT_FILE, e))?;
    let uri = leaf::uris(&cert).map_err(|e| damaged(ROOT_FILE, e))?.first().copied().unwrap_or_default();
    if uri == wanted.uri() {
        return Ok(());
    }
    Err(CaError::TrustDomain { found: uri.trim_start_matches("spiffe://").to_owned(), wanted: wanted.clone() })
}

pub(crate) fn damaged(file: &'static str, why: impl fmt::Display) -> CaError {
    CaError::Damaged { file, why: why.to_string() }
}
