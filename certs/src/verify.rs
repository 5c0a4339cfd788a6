//! Is this chain a workload of our mesh? Pure: certificates, roots and a time in, an identity or a reason out.
//!
//! In order: the leaf has a workload's form, names our trust domain, and its chain leads to one of our roots, every
//! certificate valid now (not a second longer) and every issuer allowed to issue.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::bundle::{RootFingerprint, TrustBundle, signs_certificates};
use crate::id::{SpiffeId, TrustDomain};
use crate::leaf::{self, Leaf, PeerIdentity};
use crate::peer_error::PeerError;
use crate::store::Held;

/// Leaf, issuing CA, root, and two for cross-signing while roots are changed.
const MAX_CHAIN: usize = 5;

/// What the peer is in this handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// Checks a chain, leaf first, against the roots of `trust_domain` at `now`.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    trust_domain: &TrustDomain,
    role: Role,
    now: UnixTime,
) -> Result<PeerIdentity, PeerError> {
    let (leaf, intermediates) = chain.split_first().ok_or(PeerError::NoCertificate)?;
    anchored(leaf, intermediates, bundle, trust_domain, role, now).map(|(leaf, _)| leaf.identity)
}

/// As [`verify_chain`], for identities of `ours` and of the trust domains that we believe beside it. Which roots count is
/// decided by the trust domain that the leaf claims, so that nobody's root can speak for another's identities.
pub(crate) fn verify_among(
    chain: &[CertificateDer<'_>],
    held: &Held,
    ours: &TrustDomain,
    role: Role,
    now: UnixTime,
) -> Result<PeerIdentity, PeerError> {
    if held.others.is_empty() {
        return verify_chain(chain, &held.bundle, ours, role, now);
    }
    let claimed = Leaf::parse(chain.first().ok_or(PeerError::NoCertificate)?)?.identity.id;
    match held.others.get(claimed.trust_domain()) {
        // What runs another mesh is nobody here, whatever its certificate says.
        Some(_) if claimed.is_system() => Err(PeerError::WrongIdentity),
        Some(theirs) => verify_chain(chain, theirs, claimed.trust_domain(), role, now),
        None => verify_chain(chain, &held.bundle, ours, role, now),
    }
}

/// As [`verify_chain`], when all that is known of the mesh is the fingerprint of its root: the root must be in the
/// chain, and the peer must be `expected`.
pub fn verify_pinned(
    chain: &[CertificateDer<'_>],
    pin: &RootFingerprint,
    expected: &SpiffeId,
    now: UnixTime,
) -> Result<PeerIdentity, PeerError> {
    let (leaf, rest) = chain.split_first().ok_or(PeerError::NoCertificate)?;
    let root = rest.iter().take(MAX_CHAIN).find(|cert| RootFingerprint::of(cert) == *pin);
    let root = root.ok_or(PeerError::UntrustedRoot)?;
    let bundle = TrustBundle::from_ders([root]).map_err(|_| PeerError::UntrustedRoot)?;
    let (leaf, _) = anchored(leaf, rest, &bundle, expected.trust_domain(), Role::Server, now)?;
    if leaf.identity.id == *expected { Ok(leaf.identity) } else { Err(PeerError::WrongIdentity) }
}

/// The moment nearest to `now` at which the leaf held, by its own word: for comparing clocks, and nothing else.
pub(crate) fn when_it_held(chain: &[CertificateDer<'_>], now: UnixTime) -> Result<UnixTime, PeerError> {
    let leaf = Leaf::parse(chain.first().ok_or(PeerError::NoCertificate)?)?.identity;
    let (from, to) = (leaf.not_before, leaf.not_after);
    if from > to { Err(PeerError::Malformed) } else { Ok(now.clamp(from, to)) }
}

/// Also returns the root that the chain ends at.
pub(crate) fn anchored<'b>(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &'b TrustBundle,
    trust_domain: &TrustDomain,
    role: Role,
    now: UnixTime,
) -> Result<(Leaf, &'b CertificateDer<'static>), PeerError> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(PeerError::Malformed);
    }
    let parsed = Leaf::parse(leaf)?;
    if parsed.identity.id.trust_domain() != trust_domain {
        return Err(PeerError::WrongTrustDomain);
    }
    // webpki lets an absent extension pass, also in CAs, as RFC 5280 does. A leaf must have it.
    let (present, usage) = match role {
        Role::Client => (parsed.may_call, KeyUsage::client_auth()),
        Role::Server => (parsed.may_serve, KeyUsage::server_auth()),
    };
    if !present {
        return Err(PeerError::BadKeyUsage);
    }
    let anchors = bundle.anchors_at(now);
    let end_entity = EndEntityCert::try_from(leaf).map_err(|e| reason(&e))?;
    let path = end_entity
        .verify_for_usage(algorithms().all, &anchors, intermediates, now, usage, None, Some(&issuers_may_issue))
        .map_err(|e| reason(&e))?;
    let root = bundle.root_of(path.anchor()).ok_or(PeerError::UntrustedRoot)?;
    Ok((parsed, root))
}

fn issuers_may_issue(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let cert = leaf::parse(&der).map_err(|_| webpki::Error::BadDer)?;
        if !signs_certificates(&cert) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

/// The signatures that a chain or a handshake may carry.
pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    crate::tls::provider().signature_verification_algorithms
}

fn reason(error: &webpki::Error) -> PeerError {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } | E::InvalidCertValidity => PeerError::Expired,
        E::CertNotValidYet { .. } => PeerError::NotYetValid,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => PeerError::BadKeyUsage,
        E::CaUsedAsEndEntity => PeerError::CaAsLeaf,
        // A root of the same name but another key is another root; an issuer that may not issue vouches for nobody.
        E::UnknownIssuer
        | E::InvalidSignatureForPublicKey
        | E::EndEntityUsedAsCa
        | E::PathLenConstraintViolated
        | E::NameConstraintViolation
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded => PeerError::UntrustedRoot,
        _ => PeerError::Malformed,
    }
}

#[cfg(test)]
#[path = "verify_test.rs"]
mod verify_test;
