//! The mesh's own certificate authority: a root, an issuing CA below it, and the leaves it issues.
//!
//! A leaf's content is decided here alone: one SPIFFE id, an end point's usages, and the caller's public key. It
//! refuses lifetimes that outlive the issuing CA.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::{BundleError, TrustBundle};
use crate::ca_signer::{ISSUING_FILE, ROOT_FILE, Signer, check_signed_by, check_trust_domain, damaged};
use crate::clock::Clock;
use crate::csr::PublicKeyInfo;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::KeyError;
use crate::leaf::Serial;
use crate::private_file;
use crate::template::{earlier, later, leaf_params, random_serial};

/// Replacing a root means touching every trust bundle, so it lives long and signs nothing but issuing CAs.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// The key that is online.
pub const ISSUING_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far back a certificate begins, so that a peer whose clock is up to 5 minutes late (plus the same on our side)
/// accepts it at once.
pub const BACKDATE: Duration = Duration::from_secs(600);
/// Shorter leaves would end before they arrive.
pub const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(1);

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
    issuing: ArcSwap<Signer>,
    bundle: TrustBundle,
    clock: Arc<dyn Clock>,
}

impl CertificateAuthority {
    /// Makes a new root and a new issuing CA. Nothing is written; see [`save`](Self::save).
    pub fn generate(trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let root = Signer::new_root(trust_domain, clock.now())?;
        let issuing = Signer::new_issuing(trust_domain, &root, clock.now())?;
        Self::assemble(trust_domain.clone(), root, issuing, clock)
    }

    /// Reads what [`save`](Self::save) wrote. `Ok(None)` if `dir` holds no authority at all. Without its root it is an
    /// error; without the issuing CA (a crash during the first start) a new one is made.
    pub fn load(dir: &Path, trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Option<Self>, CaError> {
        let (root, issuing) = match (Signer::read(dir, ROOT_FILE)?, Signer::read(dir, ISSUING_FILE)?) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(damaged(ROOT_FILE, "it is missing, but issuing.pem is there")),
            (Some(root), issuing) => (root, issuing),
        };
        check_trust_domain(&root, trust_domain)?;
        let issuing = match issuing {
            Some(issuing) => issuing,
            None => Signer::new_issuing(trust_domain, &root, clock.now())?,
        };
        check_signed_by(&issuing, &root)?;
        Self::assemble(trust_domain.clone(), root, issuing, clock).map(Some)
    }

    /// What the control plane calls at start: loads the authority of `dir`, or makes it and saves it there.
    pub fn load_or_generate(dir: &Path, trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let loaded = Self::load(dir, trust_domain, clock.clone())?;
        // Files that are good are left alone: every rewrite of a root key is one more chance to lose it.
        let complete = loaded.is_some() && dir.join(ISSUING_FILE).exists();
        let authority = match loaded {
            Some(authority) => authority,
            None => Self::generate(trust_domain, clock)?,
        };
        if authority.renew_issuing_if_due()? || !complete {
            authority.save(dir)?;
        }
        Ok(authority)
    }

    /// Writes `root.pem` and `issuing.pem`, certificate and key each, mode 0600, durable when it returns.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        private_file::make_dir(dir).map_err(|source| CaError::Io { file: dir.display().to_string(), source })?;
        self.root.write(dir, ROOT_FILE)?;
        self.issuing.load().write(dir, ISSUING_FILE)
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
            return Err(CaError::ForeignId { id: id.clone(), trust_domain: self.trust_domain.clone() });
        }
        if lifetime < MIN_LEAF_LIFETIME {
            return Err(CaError::TooShort(lifetime));
        }
        self.renew_issuing_if_due()?;
        let (now, issuing) = (self.clock.now(), self.issuing.load());
        let not_after = later(now, lifetime);
        if not_after > issuing.not_after {
            return Err(CaError::OutlivesIssuer { lifetime, ends: issuing.not_after.as_secs() });
        }
        let serial = random_serial()?;
        let not_before = earlier(now, BACKDATE);
        let params = leaf_params(id, dns_names, serial, not_before, not_after)?;
        let leaf = params.signed_by(key.key(), &issuing.issuer)?;
        let chain = vec![leaf.into(), issuing.certificate.clone()];
        Ok(Issued { chain, id: id.clone(), serial, not_before, not_after })
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
        self.issuing.load().not_after
    }

    /// Makes a new issuing CA once less than half of the old one's life is left (or if it begins in the future, after
    /// a clock was set back). [`issue`](Self::issue) does this by itself, so nobody has to restart a process for it.
    /// Returns whether it did. Not saving it is harmless: a leaf brings its issuing CA along, and old leaves stay good.
    pub fn renew_issuing_if_due(&self) -> Result<bool, CaError> {
        let (now, issuing) = (self.clock.now(), self.issuing.load());
        let left = issuing.not_after.as_secs().saturating_sub(now.as_secs());
        // One that already ends with its root cannot be bettered.
        let late = left < ISSUING_LIFETIME.as_secs() / 2 && issuing.not_after < self.root.not_after;
        if !late && issuing.not_before <= now {
            return Ok(false);
        }
        self.issuing.store(Arc::new(Signer::new_issuing(&self.trust_domain, &self.root, now)?));
        Ok(true)
    }

    fn assemble(td: TrustDomain, root: Signer, issuing: Signer, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let bundle = TrustBundle::from_ders([&root.certificate])?;
        Ok(Self { trust_domain: td, root, issuing: ArcSwap::from_pointee(issuing), bundle, clock })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({}, {:?}, keys [redacted])", self.trust_domain, self.bundle)
    }
}

#[cfg(test)]
#[path = "ca_test.rs"]
mod ca_test;
