//! The mesh's own certificate authority: a root, an issuing CA below it, and the leaves it issues.
//!
//! A leaf's content is decided here alone: one SPIFFE id, an end point's usages, and the caller's public key. It
//! refuses lifetimes that outlive the issuing CA.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::{BundleError, TrustBundle};
use crate::clock::Clock;
use crate::csr::PublicKeyInfo;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{KeyError, PrivateKey};
use crate::leaf::{self, Serial};
use crate::{pem, private_file};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Replacing a root means touching every trust bundle, so it lives long and signs nothing but issuing CAs.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// The key that is online.
pub const ISSUING_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far back a certificate begins, so that a peer whose clock is up to 5 minutes late (plus the same on our side)
/// accepts it at once.
pub const BACKDATE: Duration = Duration::from_secs(600);
/// Shorter leaves would end before they arrive.
pub const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(1);

/// The last moment that a certificate can name (RFC 5280 §4.1.2.5): 9999-12-31T23:59:59Z.
const LAST_DATE: u64 = 253_402_300_799;

/// rcgen wants a date type of its own; this makes one without naming it.
macro_rules! date {
    ($time:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($time.as_secs().min(LAST_DATE))
    };
}

const ROOT_FILE: &str = "root.pem";
const ISSUING_FILE: &str = "issuing.pem";

/// Why the authority cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{file}: {source}")]
    Io { file: String, source: std::io::Error },
    #[error("{file}: {why}. Restore it from a backup; a new authority would mean enrolling every workload again")]
    Damaged { file: &'static str, why: String },
    #[error("this authority belongs to trust domain `{found}`, not `{wanted}`: the state directory is of another mesh")]
    TrustDomain { found: String, wanted: TrustDomain },
    #[error("a certificate lifetime of {0:?} is too short: give at least {MIN_LEAF_LIFETIME:?}")]
    TooShort(Duration),
    #[error("a certificate of {lifetime:?} would outlive the issuing CA, which ends at {ends} s since the epoch")]
    OutlivesIssuer { lifetime: Duration, ends: u64 },
    #[error("`{id}` is not of trust domain `{trust_domain}`, which is all that this authority speaks for")]
    ForeignId { id: SpiffeId, trust_domain: TrustDomain },
    #[error("`{0}` is not a DNS name")]
    DnsName(String),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate that was just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf, then the issuing CA.
    pub chain: Vec<CertificateDer<'static>>,
    pub id: SpiffeId,
    pub serial: Serial,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
}

/// Root and issuing CA of one trust domain, with their keys.
pub struct CertificateAuthority {
    trust_domain: TrustDomain,
    root: Signer,
    issuing: Signer,
    bundle: TrustBundle,
    clock: Arc<dyn Clock>,
}

struct Signer {
    certificate: CertificateDer<'static>,
    key: PrivateKey,
    issuer: Issuer<'static, PrivateKey>,
    not_after: UnixTime,
}

impl CertificateAuthority {
    /// Makes a new root and a new issuing CA. Nothing is written; see [`save`](Self::save).
    pub fn generate(trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let root_key = PrivateKey::generate()?;
        let root = ca_params(
            trust_domain,
            "root",
            BasicConstraints::Unconstrained,
            ROOT_LIFETIME,
            clock.now(),
        )?;
        let root = Signer::new(root.self_signed(&root_key)?.into(), root_key, ROOT_FILE)?;
        let issuing = new_issuing(trust_domain, &root, clock.now())?;
        Self::assemble(trust_domain.clone(), root, issuing, clock)
    }

    /// Reads what [`save`](Self::save) wrote. `Ok(None)` if `dir` holds no authority at all; half of one is an error.
    pub fn load(dir: &Path, trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Option<Self>, CaError> {
        match (read_signer(dir, ROOT_FILE)?, read_signer(dir, ISSUING_FILE)?) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(damaged(ROOT_FILE, "it is missing, but issuing.pem is there")),
            // A crash between the two writes of the first start: the root is what matters.
            (Some(root), None) => {
                check_trust_domain(&root, trust_domain)?;
                let issuing = new_issuing(trust_domain, &root, clock.now())?;
                Self::assemble(trust_domain.clone(), root, issuing, clock).map(Some)
            }
            (Some(root), Some(issuing)) => {
                check_trust_domain(&root, trust_domain)?;
                check_signed_by(&issuing, &root)?;
                Self::assemble(trust_domain.clone(), root, issuing, clock).map(Some)
            }
        }
    }

    /// What the control plane calls at start: loads the authority of `dir`, or makes it and saves it there.
    pub fn load_or_generate(dir: &Path, trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        if let Some(mut authority) = Self::load(dir, trust_domain, clock.clone())? {
            authority.renew_issuing_if_due()?;
            authority.save(dir)?;
            return Ok(authority);
        }
        let authority = Self::generate(trust_domain, clock)?;
        authority.save(dir)?;
        Ok(authority)
    }

    /// Writes `root.pem` and `issuing.pem`, certificate and key each, mode 0600, durable when it returns.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        let io = |source| CaError::Io {
            file: dir.display().to_string(),
            source,
        };
        private_file::make_dir(dir).map_err(io)?;
        for (name, signer) in [(ROOT_FILE, &self.root), (ISSUING_FILE, &self.issuing)] {
            let text = pem::write(std::slice::from_ref(&signer.certificate), Some(&signer.key))?;
            private_file::replace(dir, name, text.as_bytes()).map_err(io)?;
        }
        Ok(())
    }

    /// Issues a certificate for `id` to the holder of `key`, valid from [`BACKDATE`] ago for `lifetime` from now.
    /// DNS names are for servers that browsers or foreign clients meet; workloads get none.
    pub fn issue(
        &self,
        key: &PublicKeyInfo,
        id: &SpiffeId,
        lifetime: Duration,
        dns_names: &[&str],
    ) -> Result<Issued, CaError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(CaError::ForeignId {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if lifetime < MIN_LEAF_LIFETIME {
            return Err(CaError::TooShort(lifetime));
        }
        let now = self.clock.now();
        let not_after = later(now, lifetime);
        if not_after > self.issuing.not_after {
            return Err(CaError::OutlivesIssuer {
                lifetime,
                ends: self.issuing.not_after.as_secs(),
            });
        }
        let serial = random_serial()?;
        let not_before = earlier(now, BACKDATE);
        let params = leaf_params(id, dns_names, serial, not_before, not_after)?;
        let leaf = params.signed_by(key.key(), &self.issuing.issuer)?;
        let chain = vec![leaf.into(), self.issuing.certificate.clone()];
        Ok(Issued {
            chain,
            id: id.clone(),
            serial,
            not_before,
            not_after,
        })
    }

    /// The root, as workloads must trust it.
    pub fn bundle(&self) -> TrustBundle {
        self.bundle.clone()
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root.certificate
    }

    /// When the issuing CA ends: no leaf lives longer.
    pub fn issuing_not_after(&self) -> UnixTime {
        self.issuing.not_after
    }

    /// Makes a new issuing CA once less than half of its life is left, so that a process that is restarted twice a year
    /// never meets its end. Returns whether it did; then [`save`](Self::save) it. Leaves of the old one stay good.
    pub fn renew_issuing_if_due(&mut self) -> Result<bool, CaError> {
        let now = self.clock.now();
        let left = self.issuing.not_after.as_secs().saturating_sub(now.as_secs());
        if left >= ISSUING_LIFETIME.as_secs() / 2 {
            return Ok(false);
        }
        self.issuing = new_issuing(&self.trust_domain, &self.root, now)?;
        Ok(true)
    }

    fn assemble(td: TrustDomain, root: Signer, issuing: Signer, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let bundle = TrustBundle::from_ders([&root.certificate])?;
        Ok(Self {
            trust_domain: td,
            root,
            issuing,
            bundle,
            clock,
        })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CertificateAuthority({}, {:?}, keys [redacted])",
            self.trust_domain, self.bundle
        )
    }
}

impl Signer {
    fn new(certificate: CertificateDer<'static>, key: PrivateKey, file: &'static str) -> Result<Self, CaError> {
        let parsed = leaf::parse(&certificate).map_err(|e| damaged(file, e))?;
        if leaf::p256_key(&parsed.subject_pki).as_ref() != Some(key.public()) {
            return Err(damaged(file, "certificate and key do not belong together"));
        }
        let (_, not_after) = leaf::validity(&parsed).map_err(|e| damaged(file, e))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key.clone())?;
        Ok(Self {
            certificate,
            key,
            issuer,
            not_after,
        })
    }
}

fn new_issuing(trust_domain: &TrustDomain, root: &Signer, now: UnixTime) -> Result<Signer, CaError> {
    let key = PrivateKey::generate()?;
    let left = Duration::from_secs(root.not_after.as_secs().saturating_sub(now.as_secs()));
    let lifetime = ISSUING_LIFETIME.min(left);
    let params = ca_params(
        trust_domain,
        "issuing CA",
        BasicConstraints::Constrained(0),
        lifetime,
        now,
    )?;
    Signer::new(params.signed_by(key.public(), &root.issuer)?.into(), key, ISSUING_FILE)
}

fn ca_params(
    trust_domain: &TrustDomain,
    what: &str,
    constraints: BasicConstraints,
    lifetime: Duration,
    now: UnixTime,
) -> Result<CertificateParams, CaError> {
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    // The number makes the name unique, so that two roots of one mesh are told apart by name.
    // Not the trust domain: a CommonName has at most 64 characters (RFC 5280 appendix A.1), a trust domain 255.
    let name = format!("Isthmus {what} {}", &serial.to_string()[..8]);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(trust_domain.uri().try_into()?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    (params.not_before, params.not_after) = (date!(earlier(now, DAY)), date!(later(now, lifetime)));
    Ok(params)
}

fn leaf_params(
    id: &SpiffeId,
    dns_names: &[&str],
    serial: Serial,
    not_before: UnixTime,
    not_after: UnixTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    // No subject: a second place for a name is a second name. The SAN is critical then (RFC 5280 §4.1.2.6).
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    for name in dns_names {
        let valid = rustls_pki_types::DnsName::try_from(*name).is_ok();
        let ia5 = (*name)
            .try_into()
            .ok()
            .filter(|_| valid)
            .ok_or_else(|| CaError::DnsName((*name).to_owned()))?;
        params.subject_alt_names.push(SanType::DnsName(ia5));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    (params.not_before, params.not_after) = (date!(not_before), date!(not_after));
    Ok(params)
}

/// 128 bits from the system's random source; the top byte is never zero, so every serial is shown with 32 digits.
fn random_serial() -> Result<Serial, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Generate)?;
    bytes[0] = bytes[0].max(1);
    Serial::from_bytes(&bytes).ok_or(CaError::Key(KeyError::Generate))
}

fn read_signer(dir: &Path, file: &'static str) -> Result<Option<Signer>, CaError> {
    let path = dir.join(file);
    let content = private_file::read(&path).map_err(|source| CaError::Io {
        file: path.display().to_string(),
        source,
    })?;
    let Some(content) = content else { return Ok(None) };
    let parts = pem::parse(&content).map_err(|e| damaged(file, e))?;
    let (Ok([certificate]), Some(key)) = (<[_; 1]>::try_from(parts.certificates), parts.key) else {
        return Err(damaged(file, "it holds not one certificate and one key"));
    };
    Signer::new(certificate, key, file).map(Some)
}

fn check_trust_domain(root: &Signer, wanted: &TrustDomain) -> Result<(), CaError> {
    let cert = leaf::parse(&root.certificate).map_err(|e| damaged(ROOT_FILE, e))?;
    let uri = leaf::uris(&cert)
        .map_err(|e| damaged(ROOT_FILE, e))?
        .first()
        .copied()
        .unwrap_or_default();
    if uri == wanted.uri() {
        return Ok(());
    }
    Err(CaError::TrustDomain {
        found: uri.trim_start_matches("spiffe://").to_owned(),
        wanted: wanted.clone(),
    })
}

fn check_signed_by(issuing: &Signer, root: &Signer) -> Result<(), CaError> {
    let cert = leaf::parse(&issuing.certificate).map_err(|e| damaged(ISSUING_FILE, e))?;
    // The part before the signature is what was signed; x509-parser keeps it to itself, but can check it.
    let root = leaf::parse(&root.certificate).map_err(|e| damaged(ROOT_FILE, e))?;
    cert.verify_signature(Some(root.public_key()))
        .map_err(|_| damaged(ISSUING_FILE, "root.pem did not sign it"))
}

fn damaged(file: &'static str, why: impl fmt::Display) -> CaError {
    CaError::Damaged {
        file,
        why: why.to_string(),
    }
}

fn later(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs().saturating_add(by.as_secs())))
}

fn earlier(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs().saturating_sub(by.as_secs())))
}

#[cfg(test)]
#[path = "ca_test.rs"]
mod ca_test;
