//! A certificate of somebody else's PKI, as a proof of who is there: a machine certificate of a named company's CA.
//!
//! The chain must lead to one of that CA's roots, be valid now and good for TLS clients, and its key must have signed this
//! very request. Revocation lists are not fetched: whoever is out there is taken out of the list of machines here.

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;

use crate::leaf::{self, Serial};
use crate::verify::algorithms;

/// What is signed, before the request: so that this signature means nothing elsewhere, and none from elsewhere this.
pub const ENROL_CONTEXT: &[u8] = b"isthmus enrol by certificate, v1\0";

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

/// Why there is no proof to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("the certificate's file holds no PEM certificate")]
    Certificate,
    #[error("the key's file holds no PEM private key (PKCS#8, SEC1 or PKCS#1, not encrypted)")]
    Key,
    #[error("the key is not the certificate's")]
    Mismatch,
    #[error("the key cannot sign")]
    Sign,
}

/// A proof of holding the key of a certificate, for one request.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Leaf first, as the file has it.
    pub chain: Vec<CertificateDer<'static>>,
    /// As TLS numbers it.
    pub scheme: u16,
    pub signature: Vec<u8>,
}

/// Signs a request with a machine's own key. The key does not leave this function.
pub fn sign(certificate_pem: &[u8], key_pem: &[u8], csr_der: &[u8]) -> Result<Signed, SignError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate_pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(SignError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| SignError::Key)?;
    let key = crate::provider().key_provider.load_private_key(key).map_err(|_| SignError::Key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| SignError::Mismatch)?;
    let offered: Vec<SignatureScheme> = algorithms().mapping.iter().map(|(scheme, _)| *scheme).collect();
    let signer = certified.key.choose_scheme(&offered).ok_or(SignError::Sign)?;
    let signature = signer.sign(&[ENROL_CONTEXT, csr_der].concat()).map_err(|_| SignError::Sign)?;
    Ok(Signed { chain: certified.cert, scheme: signer.scheme().into(), signature })
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
