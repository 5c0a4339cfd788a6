//! A document that somebody else's PKI has signed (CMS SignedData, RFC 5652), as a proof of who is there: the attested
//! document of a cloud's instance metadata service. Pure: bytes, CAs and a time in, what was signed out.
//!
//! One signer, SHA-2, signed attributes, the content inside. Its certificate must lead to one of the CAs that are given,
//! be valid now and a TLS server's. Refused: all else that CMS can say. Nothing is fetched: an issuer that the document
//! does not bring along must be among the CAs.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use rustls::SignatureScheme;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;

use crate::der::{INTEGER, NotDer, OCTET_STRING, OID, Reader, SEQUENCE, SET, context};
use crate::foreign::{anchor_at, dns_names};
use crate::leaf;
use crate::verify::algorithms;

/// Azure's have about 4 KiB.
pub const MAX_DOCUMENT: usize = 32 * 1024;
/// Signer, two issuers, the root, and room.
const MAX_CERTIFICATES: usize = 6;

const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// 2.16.840.1.101.3.4.2; then 1, 2, 3 for SHA-256, -384, -512.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];

/// Why it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("it has more than {MAX_DOCUMENT} bytes")]
    TooLarge,
    #[error("it is not CMS SignedData as DER, with one signer and its content inside")]
    Malformed,
    #[error("it is signed with an algorithm that is not accepted")]
    Algorithm,
    #[error("its signer's certificate is not in it")]
    NoSigner,
    #[error("its signer's certificate has ended, begins later, is no TLS server's, or none of the CAs signed it")]
    Chain,
    #[error("its signature does not hold")]
    Signature,
}

impl From<NotDer> for DocumentError {
    fn from(_: NotDer) -> Self {
        Self::Malformed
    }
}

/// What was signed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDocument {
    pub content: Vec<u8>,
    /// The DNS names of the signer's certificate, lower case.
    pub signer: Vec<String>,
}

/// A parsed document. Nothing in it is believed yet.
struct Parsed<'a> {
    content: &'a [u8],
    certificates: Vec<CertificateDer<'a>>,
    issuer: &'a [u8],
    serial: &'a [u8],
    digest: &'static digest::Algorithm,
    attributes: &'a [u8],
    signature: &'a [u8],
}

/// Checks a document against `cas` at `now`. Self-issued ones among them are trusted; others only help to get there.
pub fn verify(document: &[u8], cas: &[CertificateDer<'_>], now: UnixTime) -> Result<SignedDocument, DocumentError> {
    if document.len() > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge);
    }
    let parsed = parse(document)?;
    check_attributes(&parsed)?;
    let signer = parsed.signer()?;
    let certificate = leaf::parse(signer).map_err(|_| DocumentError::NoSigner)?;
    let end_entity = EndEntityCert::try_from(signer).map_err(|_| DocumentError::Chain)?;
    let anchors: Vec<_> = cas.iter().filter(|ca| is_self_issued(ca)).filter_map(|ca| anchor_at(ca, now)).collect();
    let helping = cas.iter().filter(|ca| !is_self_issued(ca));
    let between: Vec<CertificateDer<'_>> = helping.chain(&parsed.certificates).map(|der| der.as_ref().into()).collect();
    end_entity
        .verify_for_usage(algorithms().all, &anchors, &between, now, KeyUsage::server_auth(), None, None)
        .map_err(|_| DocumentError::Chain)?;
    check_signature(&parsed, &end_entity)?;
    let signer = dns_names(&certificate).map_err(|_| DocumentError::NoSigner)?;
    Ok(SignedDocument { content: parsed.content.to_vec(), signer })
}

fn is_self_issued(ca: &CertificateDer<'_>) -> bool {
    leaf::parse(ca).is_ok_and(|cert| cert.subject().as_raw() == cert.issuer().as_raw())
}

/// RFC 5652, 3 and 5.1.
fn parse(document: &[u8]) -> Result<Parsed<'_>, DocumentError> {
    let mut outer = Reader::new(document);
    let mut info = outer.inside(SEQUENCE)?;
    outer.end()?;
    if info.element(OID)?.content != SIGNED_DATA {
        return Err(DocumentError::Malformed);
    }
    let mut explicit = info.inside(context(0))?;
    info.end()?;
    let mut signed = explicit.inside(SEQUENCE)?;
    explicit.end()?;
    signed.element(INTEGER)?;
    signed.element(SET)?;
    let content = read_content(signed.inside(SEQUENCE)?)?;
    let mut certificates = Vec::new();
    if let Some(all) = signed.optional(context(0))? {
        let mut all = Reader::new(all.content);
        while !all.is_empty() {
            certificates.push(CertificateDer::from(all.element(SEQUENCE)?.whole));
        }
    }
    if certificates.len() > MAX_CERTIFICATES {
        return Err(DocumentError::Malformed);
    }
    signed.optional(context(1))?;
    let mut signers = signed.inside(SET)?;
    signed.end()?;
    let signer = signers.inside(SEQUENCE)?;
    signers.end()?;
    read_signer(signer, content, certificates)
}

fn read_content(mut info: Reader<'_>) -> Result<&[u8], DocumentError> {
    if info.element(OID)?.content != DATA {
        return Err(DocumentError::Malformed);
    }
    let mut explicit = info.inside(context(0))?;
    info.end()?;
    let content = explicit.element(OCTET_STRING)?.content;
    explicit.end()?;
    Ok(content)
}

/// RFC 5652, 5.3, with the signer named by issuer and serial number.
fn read_signer<'a>(
    mut info: Reader<'a>,
    content: &'a [u8],
    certificates: Vec<CertificateDer<'a>>,
) -> Result<Parsed<'a>, DocumentError> {
    info.element(INTEGER)?;
    let mut name = info.inside(SEQUENCE)?;
    let (issuer, serial) = (name.element(SEQUENCE)?.whole, name.element(INTEGER)?.content);
    name.end()?;
    let digest = digest_of(info.inside(SEQUENCE)?.element(OID)?.content)?;
    let attributes = info.element(context(0))?.whole;
    // The scheme follows from the key and the digest; a wrong one fails with the signature.
    info.element(SEQUENCE)?;
    let signature = info.element(OCTET_STRING)?.content;
    info.optional(context(1))?;
    info.end()?;
    Ok(Parsed { content, certificates, issuer, serial, digest, attributes, signature })
}

fn digest_of(oid: &[u8]) -> Result<&'static digest::Algorithm, DocumentError> {
    match oid.strip_prefix(SHA2) {
        Some([1]) => Ok(&SHA256),
        Some([2]) => Ok(&SHA384),
        Some([3]) => Ok(&SHA512),
        _ => Err(DocumentError::Algorithm),
    }
}

/// RFC 5652, 11.1 and 11.2: both attributes, each once, with one value, and true.
fn check_attributes(parsed: &Parsed<'_>) -> Result<(), DocumentError> {
    let (mut kind, mut digest) = (None, None);
    let mut all = Reader::new(parsed.attributes).inside(context(0))?;
    while !all.is_empty() {
        let mut attribute = all.inside(SEQUENCE)?;
        let oid = attribute.element(OID)?.content;
        let mut values = attribute.inside(SET)?;
        attribute.end()?;
        let slot = match oid {
            CONTENT_TYPE => &mut kind,
            MESSAGE_DIGEST => &mut digest,
            _ => continue,
        };
        let value = values.any()?;
        values.end()?;
        if slot.replace((value.tag, value.content)).is_some() {
            return Err(DocumentError::Malformed);
        }
    }
    let hash = digest::digest(parsed.digest, parsed.content);
    if kind != Some((OID, DATA)) {
        return Err(DocumentError::Malformed);
    }
    if digest == Some((OCTET_STRING, hash.as_ref())) { Ok(()) } else { Err(DocumentError::Signature) }
}

impl<'a> Parsed<'a> {
    fn signer(&self) -> Result<&CertificateDer<'a>, DocumentError> {
        let names =
            |cert: &X509Certificate<'_>| cert.issuer().as_raw() == self.issuer && cert.raw_serial() == self.serial;
        let mut found = self.certificates.iter().filter(|der| leaf::parse(der).is_ok_and(|cert| names(&cert)));
        found.next().ok_or(DocumentError::NoSigner)
    }
}

/// RFC 5652, 5.4: what is signed are the attributes, written as the SET that they are.
fn check_signature(parsed: &Parsed<'_>, signer: &EndEntityCert<'_>) -> Result<(), DocumentError> {
    use SignatureScheme as S;
    let mut message = parsed.attributes.to_vec();
    message[0] = SET;
    let schemes: [S; 2] = match parsed.digest {
        digest if digest == &SHA256 => [S::RSA_PKCS1_SHA256, S::ECDSA_NISTP256_SHA256],
        digest if digest == &SHA384 => [S::RSA_PKCS1_SHA384, S::ECDSA_NISTP384_SHA384],
        _ => [S::RSA_PKCS1_SHA512, S::ECDSA_NISTP521_SHA512],
    };
    let known = algorithms().mapping.iter().filter(|(scheme, _)| schemes.contains(scheme));
    let good = known
        .flat_map(|(_, algorithms)| algorithms.iter())
        .any(|one| signer.verify_signature(*one, &message, parsed.signature).is_ok());
    if good { Ok(()) } else { Err(DocumentError::Signature) }
}

#[cfg(test)]
#[path = "signed_document_test.rs"]
mod signed_document_test;
