//! The roots that this mesh trusts, and the fingerprint by which a join token names one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use crate::id::TrustDomain;
use crate::leaf;

/// A rotation needs two. More than this is a mistake, and each one costs signature checks per handshake.
pub const MAX_ROOTS: usize = 16;

/// The SHA-256 of a root certificate's DER. Shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootFingerprint([u8; 32]);

impl RootFingerprint {
    pub fn of(root: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, root).as_ref());
        Self(bytes)
    }

    /// 64 hex digits.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        crate::hex::decode(text).map(Self).ok_or(BundleError::Fingerprint)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for RootFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for RootFingerprint {
    type Err = BundleError;
    fn from_str(text: &str) -> Result<Self, BundleError> {
        Self::parse(text)
    }
}

/// Why a list of roots is refused. Whoever sent it has to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("a root's fingerprint has 64 hex digits")]
    Fingerprint,
    #[error("the bundle holds no root")]
    Empty,
    #[error("the bundle holds more than {MAX_ROOTS} roots")]
    TooMany,
    #[error("root number {0} (from 1) is not a certificate")]
    NotACertificate(usize),
    #[error("root number {0} (from 1) is not a CA's certificate that may sign certificates")]
    NotACa(usize),
}

/// The roots of other trust domains that are believed: each speaks for its own identities, and for nobody else's.
pub type Federation = BTreeMap<TrustDomain, TrustBundle>;

/// The roots of one trust domain. Cheap to clone. An empty bundle trusts nobody.
#[derive(Clone, Default)]
pub struct TrustBundle(Arc<Roots>);

#[derive(Default)]
struct Roots {
    ders: Vec<CertificateDer<'static>>,
    fingerprints: Vec<RootFingerprint>,
    anchors: Vec<TrustAnchor<'static>>,
    validity: Vec<(UnixTime, UnixTime)>,
}

impl TrustBundle {
    /// Trusts nobody: what a workload has before it is enrolled.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Takes DER certificates. Each must be a CA's that may sign certificates; repeated ones count once.
    pub fn from_ders<D: AsRef<[u8]>>(ders: impl IntoIterator<Item = D>) -> Result<Self, BundleError> {
        let mut roots = Roots::default();
        for (index, der) in ders.into_iter().enumerate() {
            if index == MAX_ROOTS {
                return Err(BundleError::TooMany);
            }
            roots.add(CertificateDer::from(der.as_ref().to_vec()), index + 1)?;
        }
        if roots.ders.is_empty() { Err(BundleError::Empty) } else { Ok(Self(Arc::new(roots))) }
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.0.ders
    }

    /// In the order of [`roots`](Self::roots).
    pub fn fingerprints(&self) -> &[RootFingerprint] {
        &self.0.fingerprints
    }

    pub fn is_empty(&self) -> bool {
        self.0.ders.is_empty()
    }

    /// The roots that may be used at `now`. Path validation takes an anchor's own dates for granted (RFC 5280 §6.1.1),
    /// so an ended root would be trusted for ever.
    pub(crate) fn anchors_at(&self, now: UnixTime) -> Vec<TrustAnchor<'_>> {
        let valid = |(from, to): &(UnixTime, UnixTime)| *from <= now && now <= *to;
        let pairs = self.0.anchors.iter().zip(&self.0.validity);
        pairs.filter(|(_, dates)| valid(dates)).map(|(anchor, _)| anchor.clone()).collect()
    }

    /// Which root has this anchor's name and key.
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&CertificateDer<'static>> {
        let same = |a: &TrustAnchor<'_>| {
            a.subject == anchor.subject && a.subject_public_key_info == anchor.subject_public_key_info
        };
        self.0.anchors.iter().position(same).map(|at| &self.0.ders[at])
    }
}

impl Roots {
    fn add(&mut self, der: CertificateDer<'static>, number: usize) -> Result<(), BundleError> {
        let fingerprint = RootFingerprint::of(&der);
        if self.fingerprints.contains(&fingerprint) {
            return Ok(());
        }
        let not_a_certificate = BundleError::NotACertificate(number);
        let cert = leaf::parse(&der).map_err(|_| not_a_certificate)?;
        if !signs_certificates(&cert) {
            return Err(BundleError::NotACa(number));
        }
        let validity = leaf::validity(&cert).map_err(|_| not_a_certificate)?;
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| not_a_certificate)?.to_owned();
        self.ders.push(der);
        self.fingerprints.push(fingerprint);
        self.anchors.push(anchor);
        self.validity.push(validity);
        Ok(())
    }
}

/// The CA flag, a name that a signer may bear, and keyCertSign in a key usage that is present (RFC 5280 §4.2.1.3), which webpki does not look at.
pub(crate) fn signs_certificates(cert: &x509_parser::certificate::X509Certificate<'_>) -> bool {
    let ca = matches!(cert.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let usage = matches!(cert.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign());
    ca && usage && has_signers_name(cert)
}

/// X509-SVID §3.2: the SPIFFE id of a signing certificate has no path. A company's own CA has no SPIFFE id at all.
fn has_signers_name(cert: &x509_parser::certificate::X509Certificate<'_>) -> bool {
    let Ok(uris) = leaf::uris(cert) else {
        return false;
    };
    let mut ids = uris.iter().filter_map(|uri| uri.strip_prefix("spiffe://"));
    match (ids.next(), ids.next()) {
        (None, _) => true,
        (Some(id), None) => TrustDomain::parse(id).is_ok(),
        (Some(_), Some(_)) => false,
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.0.fingerprints == other.0.fingerprints
    }
}
impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustBundle").field(&self.0.fingerprints).finish()
    }
}

#[cfg(test)]
#[path = "bundle_test.rs"]
mod bundle_test;
