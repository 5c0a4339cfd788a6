//! A workload's own identity: the chain it was issued, its key, and the roots that came with it.
//!
//! Made only from parts that belong together: the leaf has a workload's form, holds the public half of the key, and
//! leads to one of the roots now. Anything else is refused before a peer could see it.

use std::fmt;
use std::io;
use std::path::Path;

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::{BundleError, RootFingerprint, TrustBundle};
use crate::ca::{BACKDATE, Issued};
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{KeyError, PrivateKey};
use crate::leaf::{Leaf, Serial};
use crate::peer_error::PeerError;
use crate::verify::{self, Role};
use crate::{pem, private_file};
use zeroize::Zeroizing;

/// The chain and its key.
pub const IDENTITY_FILE: &str = "identity.pem";
/// The roots that came with it.
pub const ROOTS_FILE: &str = "roots.pem";

/// Why an identity is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate holds another key than ours: the answer belongs to another request")]
    OtherKey,
    #[error("the certificate is for `{found}`, ours is `{ours}`")]
    OtherIdentity { found: SpiffeId, ours: SpiffeId },
    #[error("our own certificate would not be accepted: {0}")]
    Certificate(#[from] PeerError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    #[error("{file}: {why}. Remove it and enrol again with a new join token")]
    Damaged { file: String, why: String },
}

/// Everything needed to prove who we are. Cheap to clone; the key stays where it is.
#[derive(Clone)]
pub struct WorkloadIdentity {
    pub id: SpiffeId,
    /// Leaf, then the issuing CA, as it is sent in a handshake.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
    pub serial: Serial,
    pub not_before: UnixTime,
    /// The last second in which the certificate is valid.
    pub not_after: UnixTime,
    pub bundle: TrustBundle,
    /// Counts the replacements in an [`IdentityStore`](crate::IdentityStore), from 1; 0 before it is in one.
    pub generation: u64,
    /// The root at which the chain ends.
    pub(crate) root: CertificateDer<'static>,
}

impl WorkloadIdentity {
    /// Takes what the control plane answered, and the key that the request was made with.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        bundle: TrustBundle,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let (first, rest) = chain.split_first().ok_or(PeerError::NoCertificate)?;
        let claimed = Leaf::parse(first)?;
        if claimed.public_key.as_ref() != Some(key.public()) {
            return Err(IdentityError::OtherKey);
        }
        let trust_domain = claimed.identity.id.trust_domain();
        // Both roles: the same certificate serves and calls.
        verify::anchored(first, rest, &bundle, trust_domain, Role::Client, now)?;
        let (leaf, root) = verify::anchored(first, rest, &bundle, trust_domain, Role::Server, now)?;
        let (identity, root) = (leaf.identity, root.clone());
        Ok(Self {
            id: identity.id,
            serial: identity.serial,
            not_before: identity.not_before,
            not_after: identity.not_after,
            generation: 0,
            chain,
            key,
            bundle,
            root,
        })
    }

    /// For the control plane, which issues its own.
    pub fn from_issued(
        issued: Issued,
        key: PrivateKey,
        bundle: TrustBundle,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        Self::new(issued.chain, key, bundle, now)
    }

    /// When the certificate was issued, by the issuer's clock: `notBefore` without the backdating. Half of the life is
    /// counted from here.
    pub fn issued_at(&self) -> UnixTime {
        let issued = UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.not_before.as_secs()) + BACKDATE);
        if issued < self.not_after { issued } else { self.not_before }
    }

    /// Of the root at which the chain ends.
    pub fn root_fingerprint(&self) -> RootFingerprint {
        RootFingerprint::of(&self.root)
    }

    /// Whether its dates hold at `at`.
    pub fn holds_at(&self, at: UnixTime) -> bool {
        self.not_before <= at && at <= self.not_after
    }

    /// What `identity.pem` (chain and key) and `roots.pem` hold.
    pub fn to_pem(&self) -> Result<[Zeroizing<String>; 2], IdentityError> {
        Ok([pem::write(&self.chain, Some(&self.key))?, pem::write(self.bundle.roots(), None)?])
    }

    /// Reads what [`to_pem`](Self::to_pem) made. An ended one is `Err(Certificate(Expired))`: enrol again.
    pub fn from_pem(
        [identity, roots]: [&[u8]; 2],
        trust_domain: &TrustDomain,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let parse = |text: &[u8], file: &str| {
            pem::parse(text).map_err(|why| IdentityError::Damaged { file: file.into(), why: why.to_string() })
        };
        let bundle = TrustBundle::from_ders(&parse(roots, ROOTS_FILE)?.certificates)?;
        let identity = parse(identity, IDENTITY_FILE)?;
        let damaged = || IdentityError::Damaged { file: IDENTITY_FILE.into(), why: "it holds no private key".into() };
        let read = Self::new(identity.certificates, identity.key.ok_or_else(damaged)?, bundle, now)?;
        if read.id.trust_domain() != trust_domain {
            return Err(PeerError::WrongTrustDomain.into());
        }
        Ok(read)
    }

    /// Writes both files to a state directory, 0600 each, each replaced in one step.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let io = |source| IdentityError::Io { file: dir.display().to_string(), source };
        private_file::make_dir(dir).map_err(io)?;
        let [identity, roots] = self.to_pem()?;
        // Roots first: an identity whose root is missing could not be loaded, more roots than needed do no harm.
        private_file::replace(dir, ROOTS_FILE, roots.as_bytes()).map_err(io)?;
        private_file::replace(dir, IDENTITY_FILE, identity.as_bytes()).map_err(io)
    }

    /// Reads what [`save`](Self::save) wrote. `Ok(None)`: there is none. An ended one is
    /// `Err(Certificate(Expired))`: enrol again.
    pub fn load(dir: &Path, trust_domain: &TrustDomain, now: UnixTime) -> Result<Option<Self>, IdentityError> {
        let Some(identity) = read(dir, IDENTITY_FILE)? else {
            return Ok(None);
        };
        let roots = read(dir, ROOTS_FILE)?.unwrap_or_default();
        Self::from_pem([&identity, &roots], trust_domain, now).map(Some)
    }
}

fn read(dir: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let path = dir.join(name);
    private_file::read(&path).map_err(|source| IdentityError::Io { file: path.display().to_string(), source })
}

impl fmt::Debug for WorkloadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadIdentity")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after.as_secs())
            .field("generation", &self.generation)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "identity_test.rs"]
mod identity_test;
