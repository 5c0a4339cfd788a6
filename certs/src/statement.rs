//! Statements that outlive the connection they came over: signed with a certificate's key, and checked later against the
//! roots that are trusted then, at the time at which the signer says it signed. Each kind of statement begins with words of
//! its own, so that none can pass for another, or for a handshake (whose texts begin with 64 blanks, RFC 8446 §4.4.3).

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::TrustBundle;
use crate::id::SpiffeId;
use crate::identity::WorkloadIdentity;
use crate::leaf::Leaf;
use crate::peer_error::PeerError;
use crate::verify::{self, Role};

/// ECDSA P-256 with SHA-256, in DER. `None`: the library failed.
pub fn sign(signer: &WorkloadIdentity, text: &[u8]) -> Option<Vec<u8>> {
    signer.key.sign_der(text)
}

/// Whether `who`, with a certificate of our roots that was valid at `signed_at`, signed `text`. `chain` has the leaf first.
pub fn check(
    (chain, signature): (&[CertificateDer<'_>], &[u8]),
    text: &[u8],
    who: &SpiffeId,
    bundle: &TrustBundle,
    signed_at: UnixTime,
) -> Result<(), PeerError> {
    let (leaf, above) = chain.split_first().ok_or(PeerError::NoCertificate)?;
    let (leaf, _): (Leaf, _) = verify::anchored(leaf, above, bundle, who.trust_domain(), Role::Server, signed_at)?;
    if leaf.identity.id != *who {
        return Err(PeerError::WrongIdentity);
    }
    let signed = leaf.public_key.is_some_and(|key| key.verifies(text, signature));
    if signed { Ok(()) } else { Err(PeerError::BadSignature) }
}

#[cfg(test)]
#[path = "statement_test.rs"]
mod statement_test;
