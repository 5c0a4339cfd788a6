//! What a workload's certificate must look like: the X.509-SVID rules that path validation does not know.
//!
//! Refused: no URI name or more than one, a name that is no mesh identity, a CA's certificate, key usages other than an
//! end point's. This runs before the chain is checked, so nothing said here is believed yet; see `verify.rs`.

use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_X509_EXT_BASIC_CONSTRAINTS};
use x509_parser::prelude::FromDer;

use crate::id::SpiffeId;
use crate::key::PublicKey;
use crate::peer_error::PeerError;

/// Our leaves have about 600 bytes and SPIRE's less than 2 KiB. A larger one is not worth parsing.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// Who the peer of a finished handshake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub id: SpiffeId,
    pub serial: Serial,
    pub not_before: UnixTime,
    /// The last second in which the certificate is valid (RFC 5280 §4.1.2.5). A connection is drained by then.
    pub not_after: UnixTime,
}

/// Reads the identity from the chain that a handshake accepted, leaf first.
///
/// This parses and applies the X.509-SVID rules, but checks no signature: call it with `peer_certificates()` of a
/// connection made with this crate's configs, never with certificates from elsewhere.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerError> {
    let leaf = certs.first().ok_or(PeerError::NoCertificate)?;
    Ok(Leaf::parse(leaf)?.identity)
}

/// A certificate that has the form of a workload's.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) identity: PeerIdentity,
    /// `None` if the key is of another kind: a peer may have one, we may not.
    pub(crate) public_key: Option<PublicKey>,
    /// Extended key usage names clientAuth, serverAuth. `anyExtendedKeyUsage` counts for neither.
    pub(crate) may_call: bool,
    pub(crate) may_serve: bool,
}

impl Leaf {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, PeerError> {
        let cert = parse(der)?;
        not_a_ca(&cert)?;
        end_point_usages(&cert)?;
        let (not_before, not_after) = validity(&cert)?;
        let extended = cert.extended_key_usage().map_err(|_| PeerError::Malformed)?.map(|usage| usage.value);
        let serial = Serial::from_bytes(cert.raw_serial()).ok_or(PeerError::Malformed)?;
        Ok(Self {
            identity: PeerIdentity { id: only_uri(&cert)?, serial, not_before, not_after },
            public_key: p256_key(&cert.subject_pki),
            may_call: extended.is_some_and(|usage| usage.client_auth),
            may_serve: extended.is_some_and(|usage| usage.server_auth),
        })
    }
}

/// Parses one certificate and nothing after it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerError> {
    if der.len() > MAX_CERTIFICATE {
        return Err(PeerError::Malformed);
    }
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        _ => Err(PeerError::Malformed),
    }
}

/// X509-SVID §3.1 and §4.1: a leaf carries no CA flag.
fn not_a_ca(cert: &X509Certificate<'_>) -> Result<(), PeerError> {
    let found = cert.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS).map_err(|_| PeerError::Malformed)?;
    match found.map(|extension| extension.parsed_extension()) {
        None => Ok(()),
        Some(ParsedExtension::BasicConstraints(constraints)) if !constraints.ca => Ok(()),
        Some(ParsedExtension::BasicConstraints(_)) => Err(PeerError::CaAsLeaf),
        Some(_) => Err(PeerError::Malformed),
    }
}

/// X509-SVID §4.3: key usage is present and critical, signs, and signs neither certificates nor CRLs.
fn end_point_usages(cert: &X509Certificate<'_>) -> Result<(), PeerError> {
    let extension = cert.key_usage().map_err(|_| PeerError::Malformed)?.ok_or(PeerError::BadKeyUsage)?;
    let usage = extension.value;
    let signs_for_itself = usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign();
    let ok = extension.critical && signs_for_itself;
    if ok { Ok(()) } else { Err(PeerError::BadKeyUsage) }
}

/// X509-SVID §2: exactly one URI name. DNS names may stand beside it.
fn only_uri(cert: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    match uris(cert)?[..] {
        [uri] => SpiffeId::parse(uri).map_err(|_| PeerError::NotSpiffe),
        _ => Err(PeerError::NotSpiffe),
    }
}

/// All URI names. A repeated SAN extension is an error, not a second list; so is a name that cannot be read.
pub(crate) fn uris<'a>(cert: &'a X509Certificate<'a>) -> Result<Vec<&'a str>, PeerError> {
    let names = cert.subject_alternative_name().map_err(|_| PeerError::Malformed)?;
    let mut uris = Vec::with_capacity(1);
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(PeerError::Malformed),
            _ => {}
        }
    }
    Ok(uris)
}

pub(crate) fn validity(cert: &X509Certificate<'_>) -> Result<(UnixTime, UnixTime), PeerError> {
    let seconds = |time: i64| {
        let since = u64::try_from(time).map_err(|_| PeerError::Malformed)?;
        Ok(UnixTime::since_unix_epoch(Duration::from_secs(since)))
    };
    let validity = cert.validity();
    Ok((seconds(validity.not_before.timestamp())?, seconds(validity.not_after.timestamp())?))
}

/// The key, if it is an uncompressed P-256 point.
pub(crate) fn p256_key(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Option<PublicKey> {
    let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let p256 = spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256);
    if p256 { PublicKey::from_point(&spki.subject_public_key.data) } else { None }
}

/// A certificate's serial number: at most 20 bytes (RFC 5280 §4.1.2.2), shown as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial {
    len: u8,
    bytes: [u8; 20],
}

impl Serial {
    /// Takes a big-endian number; leading zero bytes are dropped, as DER has one where the top bit is set.
    pub fn from_bytes(number: &[u8]) -> Option<Self> {
        let number = &number[number.iter().take_while(|b| **b == 0).count()..];
        let mut bytes = [0; 20];
        bytes.get_mut(..number.len())?.copy_from_slice(number);
        Some(Self { len: number.len() as u8, bytes })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Hex digits as [`Display`](fmt::Display) writes them; colons between pairs, as OpenSSL has them, are passed over.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let even = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
        let pairs = even.as_bytes().chunks_exact(2).map(std::str::from_utf8);
        let bytes = pairs.map(|pair| u8::from_str_radix(pair.ok()?, 16).ok()).collect::<Option<Vec<u8>>>()?;
        Self::from_bytes(&bytes).filter(|serial| serial.len > 0)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&crate::hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
#[path = "leaf_test.rs"]
mod leaf_test;
