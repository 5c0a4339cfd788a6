//! A certificate of somebody else's PKI, as a proof of who is there: a machine certificate of a named company's CA.
//!
//! The chain must lead to one of that CA's roots, be valid now and good for TLS clients, and its key must have signed this
//! very request. Revocation lists are not fetched: whoever is out there is taken out of the list of machines here.

use rustls::SignatureScheme;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;

use crate::leaf::{self, Serial};
use crate::verify::algorithms;

/// Machine certificate, two CAs above it, the root, and room.
const MAX_CHAIN: usize = 6;
/// A certificate with more names than this is no machine's.
const MAX_NAMES: usize = 64;

/// Why it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    #[error("the certificate cannot be read")]
    Malformed,
    #[error("the certificate has ended, begins later, or is no TLS client's, or no root of that CA signed it")]
    Chain,
    #[error("the request is not signed by the certificate's key, or with an algorithm that is not accepted")]
    Signature,
}

/// What a good one says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub serial: Serial,
    /// Lower case.
    pub dns_names: Vec<String>,
}

/// Checks a chain, leaf first, against `roots` at `now`, and `signature` over `message`. `scheme` as TLS numbers it.
pub fn verify(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: UnixTime,
    message: &[u8],
    scheme: u16,
    signature: &[u8],
) -> Result<Foreign, ForeignError> {
    let (leaf, above) = chain.split_first().ok_or(ForeignError::Malformed)?;
    if chain.len() > MAX_CHAIN {
        return Err(ForeignError::Malformed);
    }
    let parsed = leaf::parse(leaf).map_err(|_| ForeignError::Malformed)?;
    let anchors = roots.iter().filter_map(|root| anchor_at(root, now)).collect::<Vec<_>>();
    let cert = EndEntityCert::try_from(leaf).map_err(|_| ForeignError::Malformed)?;
    let usage = KeyUsage::client_auth();
    cert.verify_for_usage(algorithms().all, &anchors, above, now, usage, None, None)
        .map_err(|_| ForeignError::Chain)?;
    let scheme = SignatureScheme::from(scheme);
    let known = algorithms().mapping.iter().find(|(known, _)| *known == scheme).map(|(_, algorithms)| *algorithms);
    let good =
        known.is_some_and(|known| known.iter().any(|one| cert.verify_signature(*one, message, signature).is_ok()));
    if !good {
        return Err(ForeignError::Signature);
    }
    let serial = Serial::from_bytes(parsed.raw_serial()).ok_or(ForeignError::Malformed)?;
    Ok(Foreign { serial, dns_names: dns_names(&parsed)? })
}

/// Dates of an anchor are not looked at by path validation, so they are here.
pub(crate) fn anchor_at<'a>(root: &'a CertificateDer<'_>, now: UnixTime) -> Option<TrustAnchor<'a>> {
    let parsed = leaf::parse(root).ok()?;
    let (from, to) = leaf::validity(&parsed).ok()?;
    (from <= now && now <= to).then(|| webpki::anchor_from_trusted_cert(root).ok()).flatten()
}

pub(crate) fn dns_names(cert: &x509_parser::certificate::X509Certificate<'_>) -> Result<Vec<String>, ForeignError> {
    let names = cert.subject_alternative_name().map_err(|_| ForeignError::Malformed)?;
    let mut found = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names).take(MAX_NAMES) {
        if let GeneralName::DNSName(name) = name {
            found.push(name.to_ascii_lowercase());
        }
    }
    Ok(found)
}
