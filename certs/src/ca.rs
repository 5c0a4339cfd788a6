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
use crate::ca_signer::{CaFile, ISSUING_FILE, ROOT_FILE, Signer, check_trust_domain, damaged};
use crate::clock::Clock;
use crate::csr::PublicKeyInfo;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{KeyError, PrivateKey};
use crate::leaf::Serial;
use crate::template::{earlier, later, leaf_params, random_serial};
use crate::vault::{self, CaKey, KeyVault, PlainVault, VaultError};
use crate::verify::{Role, verify_chain};
use crate::{ca_signer, private_file};

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
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the imported CA cannot issue for this mesh: {0}")]
    Unfit(String),
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl CaError {
    /// What rcgen says, or why the vault did not sign.
    pub(crate) fn make(error: rcgen::Error) -> Self {
        match vault::failure::take() {
            Some(reason) => Self::Vault(VaultError::Token(reason)),
            None => Self::Make(error),
        }
    }
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

/// Root and issuing CA of one trust domain.
pub struct CertificateAuthority {
    trust_domain: TrustDomain,
    root: Root,
    issuing: ArcSwap<Signer>,
    bundle: TrustBundle,
    vault: Arc<dyn KeyVault>,
    clock: Arc<dyn Clock>,
}

/// Whose root it is.
enum Root {
    Ours(Box<Signer>),
    /// A company's: its key is elsewhere, and the issuing CA is renewed by carrying a request there.
    Theirs(CertificateDer<'static>),
}

impl Root {
    fn certificate(&self) -> &CertificateDer<'static> {
        match self {
            Self::Ours(signer) => &signer.certificate,
            Self::Theirs(certificate) => certificate,
        }
    }
}

impl CertificateAuthority {
    /// With keys in memory and plain files; for tests, and where nobody asked for more.
    pub fn generate(trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        Self::generate_in(trust_domain, Arc::new(PlainVault), clock)
    }

    /// Makes a new root and a new issuing CA. Nothing is written; see [`save`](Self::save).
    pub fn generate_in(
        trust_domain: &TrustDomain,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let root = Signer::new_root(trust_domain, &*vault, clock.now())?;
        let issuing = Signer::new_issuing(trust_domain, &root, &*vault, clock.now())?;
        Self::assemble(trust_domain.clone(), Root::Ours(Box::new(root)), issuing, vault, clock)
    }

    /// An issuing CA that a company's own PKI has signed, for a key of ours: the chain from that CA up to and with the
    /// root. Refused unless a leaf of this mesh would be accepted below it.
    pub fn imported(
        trust_domain: &TrustDomain,
        key: CaKey,
        chain: &[CertificateDer<'static>],
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let [issuing, above @ .., root] = chain else {
            return Err(CaError::Unfit("give the issued CA certificate, then each CA above it, then the root".into()));
        };
        let unfit = |error: CaError| match error {
            CaError::Damaged { why, .. } => CaError::Unfit(format!("the first certificate: {why}")),
            other => other,
        };
        let issuing = Signer::new(issuing.clone(), above.to_vec(), key, ISSUING_FILE).map_err(unfit)?;
        Self::assemble(trust_domain.clone(), Root::Theirs(root.clone()), issuing, vault, clock)
    }

    /// Reads what [`save`](Self::save) wrote. `Ok(None)` if `dir` holds no authority at all. Without its root it is an
    /// error; without the issuing CA (a crash during the first start) a new one is made.
    pub fn load(
        dir: &Path,
        trust_domain: &TrustDomain,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, CaError> {
        let (root, issuing) = match (ca_signer::read(dir, ROOT_FILE)?, ca_signer::read(dir, ISSUING_FILE)?) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(damaged(ROOT_FILE, "it is missing, but issuing.pem is there")),
            (Some(root), issuing) => (open_root(root, trust_domain, &*vault)?, issuing),
        };
        let issuing = match (issuing, &root) {
            (Some(issuing), _) => Signer::open(issuing, &*vault, ISSUING_FILE)?,
            (None, Root::Ours(root)) => Signer::new_issuing(trust_domain, root, &*vault, clock.now())?,
            (None, Root::Theirs(_)) => return Err(damaged(ISSUING_FILE, "it is missing")),
        };
        Self::assemble(trust_domain.clone(), root, issuing, vault, clock).map(Some)
    }

    /// What the control plane calls at start: loads the authority of `dir`, or makes it and saves it there.
    pub fn load_or_generate(
        dir: &Path,
        trust_domain: &TrustDomain,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let loaded = Self::load(dir, trust_domain, vault.clone(), clock.clone())?;
        // Files that are good are left alone: every rewrite of a root key is one more chance to lose it.
        let complete = loaded.is_some() && dir.join(ISSUING_FILE).exists();
        let complete = complete && loaded.as_ref().is_none_or(|authority| authority.is_kept_well(dir));
        let authority = match loaded {
            Some(authority) => authority,
            None => Self::generate_in(trust_domain, vault, clock)?,
        };
        if authority.renew_issuing_if_due()? || !complete {
            authority.save(dir)?;
        }
        Ok(authority)
    }

    /// Writes `root.pem` and `issuing.pem`, certificate and what the vault keeps of the key each, mode 0600, durable when
    /// it returns.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        private_file::make_dir(dir).map_err(|source| CaError::Io { file: dir.display().to_string(), source })?;
        match &self.root {
            Root::Ours(root) => root.write(dir, ROOT_FILE)?,
            Root::Theirs(root) => ca_signer::write(dir, ROOT_FILE, std::slice::from_ref(root), None)?,
        }
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
        let leaf = params.signed_by(key.key(), &issuing.issuer).map_err(CaError::make)?;
        let mut chain = vec![leaf.into(), issuing.certificate.clone()];
        chain.extend(issuing.above.iter().cloned());
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
        self.root.certificate()
    }

    /// When the root ends; the bundle is not trusted a second longer.
    pub fn root_not_after(&self) -> UnixTime {
        let parsed = crate::leaf::parse(self.root());
        parsed.and_then(|root| crate::leaf::validity(&root)).map_or(UnixTime::since_unix_epoch(Duration::ZERO), |v| v.1)
    }

    /// Whether the root's key is ours. If not, nobody but a person can renew the issuing CA.
    pub fn is_self_rooted(&self) -> bool {
        matches!(self.root, Root::Ours(_))
    }

    /// When the issuing CA ends: no leaf lives longer.
    pub fn issuing_not_after(&self) -> UnixTime {
        self.issuing.load().not_after
    }

    /// Makes a new issuing CA once less than half of the old one's life is left (or if it begins in the future, after
    /// a clock was set back). [`issue`](Self::issue) does this by itself, so nobody has to restart a process for it.
    /// Returns whether it did. Not saving it is harmless: a leaf brings its issuing CA along, and old leaves stay good.
    pub fn renew_issuing_if_due(&self) -> Result<bool, CaError> {
        let Root::Ours(root) = &self.root else { return Ok(false) };
        let (now, issuing) = (self.clock.now(), self.issuing.load());
        let left = issuing.not_after.as_secs().saturating_sub(now.as_secs());
        // One that already ends with its root cannot be bettered.
        let late = left < ISSUING_LIFETIME.as_secs() / 2 && issuing.not_after < root.not_after;
        if !late && issuing.not_before <= now {
            return Ok(false);
        }
        self.issuing.store(Arc::new(Signer::new_issuing(&self.trust_domain, root, &*self.vault, now)?));
        Ok(true)
    }

    /// Whether the files hold what the vault keeps now; if not, the keys were kept less well before.
    fn is_kept_well(&self, dir: &Path) -> bool {
        let same = |file, signer: &Signer| {
            let kept = ca_signer::read(dir, file).ok().flatten().and_then(|file| file.kept);
            kept.is_some_and(|kept| kept.label == signer.kept_as())
        };
        let root = match &self.root {
            Root::Ours(root) => same(ROOT_FILE, root),
            Root::Theirs(_) => true,
        };
        root && same(ISSUING_FILE, &self.issuing.load())
    }

    fn assemble(
        trust_domain: TrustDomain,
        root: Root,
        issuing: Signer,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let bundle = TrustBundle::from_ders([root.certificate()])?;
        let authority = Self { trust_domain, root, issuing: ArcSwap::from_pointee(issuing), bundle, vault, clock };
        authority.prove()?;
        Ok(authority)
    }

    /// Makes a leaf for nobody and verifies it as a peer would, at a time at which the issuing CA holds: finds a wrong
    /// root, a path length, name constraints and usages at once, whoever signed the issuing CA.
    fn prove(&self) -> Result<(), CaError> {
        let issuing = self.issuing.load();
        let (from, to) = (issuing.not_before, issuing.not_after);
        let now = self.clock.now().clamp(from.min(to), to);
        let key = PrivateKey::generate()?;
        let id = SpiffeId::control_plane(&self.trust_domain);
        let leaf = leaf_params(&id, &[], random_serial()?, now, now)?.signed_by(key.public(), &issuing.issuer);
        let mut chain = vec![leaf.map_err(CaError::make)?.into(), issuing.certificate.clone()];
        chain.extend(issuing.above.iter().cloned());
        verify_chain(&chain, &self.bundle, &self.trust_domain, Role::Server, now).map(drop).map_err(|error| match &self
            .root
        {
            Root::Ours(_) => damaged(ISSUING_FILE, format!("root.pem did not sign it ({})", error.word())),
            Root::Theirs(_) => CaError::Unfit(format!(
                "a certificate below it would be refused as `{}`; it needs cA, keyCertSign, a chain to the root given \
                     last, and no constraint that excludes spiffe://{}",
                error.word(),
                self.trust_domain
            )),
        })
    }
}

/// A request (PKCS#10, DER) for an intermediate, to be carried to a company's own PKI. It names the trust domain; what the
/// CA makes of the rest is the company's to say.
pub fn request(trust_domain: &TrustDomain, key: &CaKey) -> Result<Vec<u8>, CaError> {
    let request = crate::template::ca_request(trust_domain)?.serialize_request(key).map_err(CaError::make)?;
    Ok(request.der().to_vec())
}

const PENDING_FILE: &str = "pending.pem";

/// Keeps the key of a request until its answer comes back.
pub fn save_pending(dir: &Path, kept: &vault::Kept) -> Result<(), CaError> {
    ca_signer::write(dir, PENDING_FILE, &[], Some(kept))
}

pub fn load_pending(dir: &Path) -> Result<Option<vault::Kept>, CaError> {
    Ok(ca_signer::read(dir, PENDING_FILE)?.and_then(|file| file.kept))
}

pub fn forget_pending(dir: &Path) -> Result<(), CaError> {
    let path = dir.join(PENDING_FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CaError::Io { file: path.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

fn open_root(file: CaFile, trust_domain: &TrustDomain, vault: &dyn KeyVault) -> Result<Root, CaError> {
    let Some(certificate) = file.certificates.first().cloned() else {
        return Err(damaged(ROOT_FILE, "it holds not one certificate and one key"));
    };
    if file.kept.is_none() {
        // A root that bears the mesh's name is ours and never without its key.
        return match check_trust_domain(&certificate, trust_domain) {
            Ok(()) => Err(damaged(ROOT_FILE, "it holds not one certificate and one key")),
            Err(_) => Ok(Root::Theirs(certificate)),
        };
    }
    check_trust_domain(&certificate, trust_domain)?;
    Ok(Root::Ours(Box::new(Signer::open(file, vault, ROOT_FILE)?)))
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({}, {:?}, keys [redacted])", self.trust_domain, self.bundle)
    }
}

#[cfg(test)]
#[path = "ca_test.rs"]
mod ca_test;
