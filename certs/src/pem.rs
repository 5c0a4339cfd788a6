//! PEM as openssl writes it (RFC 7468), so that every file we keep can be read with the tools an operator has.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::{Zeroize as _, Zeroizing};

use crate::key::{KeyError, PrivateKey};
use crate::vault::Kept;

/// Certificates and at most one key.
#[derive(Debug, Default)]
pub struct PemParts {
    pub certificates: Vec<CertificateDer<'static>>,
    pub key: Option<PrivateKey>,
}

/// Why a PEM text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error("the file is not PEM")]
    NotPem,
    #[error("the PEM holds a {0} where only CERTIFICATE and PRIVATE KEY belong")]
    Section(&'static str),
    #[error("the PEM holds more than one private key")]
    TwoKeys,
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Certificates, then the key if there is one. Wiped when dropped.
pub fn write(certificates: &[CertificateDer<'_>], key: Option<&PrivateKey>) -> Result<Zeroizing<String>, KeyError> {
    let pkcs8 = key.map(PrivateKey::to_pkcs8).transpose()?;
    // Room for all of it at once: a String that grows leaves copies of the key behind.
    let bytes: usize = certificates.iter().map(|c| c.len()).sum::<usize>() + pkcs8.as_ref().map_or(0, |k| k.len());
    let mut text = Zeroizing::new(String::with_capacity(bytes * 2 + 128 * (certificates.len() + 1)));
    for certificate in certificates {
        section(&mut text, "CERTIFICATE", certificate);
    }
    if let Some(pkcs8) = pkcs8 {
        section(&mut text, "PRIVATE KEY", &pkcs8);
    }
    Ok(text)
}

fn section(text: &mut String, label: &str, der: &[u8]) {
    let body = Zeroizing::new(STANDARD.encode(der));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
}

/// A certificate request, as openssl writes it.
pub fn request(der: &[u8]) -> String {
    let mut text = String::new();
    section(&mut text, "CERTIFICATE REQUEST", der);
    text
}

/// Reads what [`write()`] wrote. Text between sections is ignored, as openssl does.
pub fn parse(text: &[u8]) -> Result<PemParts, PemError> {
    let mut parts = PemParts::default();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, mut der) = section.map_err(|_| PemError::NotPem)?;
        match kind {
            SectionKind::Certificate => parts.certificates.push(der.into()),
            SectionKind::PrivateKey => {
                let key = PrivateKey::from_pkcs8(&der);
                der.zeroize();
                if parts.key.replace(key?).is_some() {
                    return Err(PemError::TwoKeys);
                }
            }
            SectionKind::EcPrivateKey => return Err(PemError::Section("EC PRIVATE KEY (convert it: openssl pkcs8)")),
            SectionKind::RsaPrivateKey => return Err(PemError::Section("RSA PRIVATE KEY")),
            _ => return Err(PemError::Section("section of another kind")),
        }
    }
    Ok(parts)
}

/// Certificates, then one section of any label: a CA's file.
pub(crate) fn write_kept(certificates: &[CertificateDer<'_>], kept: Option<&Kept>) -> Zeroizing<String> {
    let bytes: usize = certificates.iter().map(|c| c.len()).sum::<usize>() + kept.map_or(0, |k| k.body.len());
    let mut text = Zeroizing::new(String::with_capacity(bytes * 2 + 128 * (certificates.len() + 1)));
    for certificate in certificates {
        section(&mut text, "CERTIFICATE", certificate);
    }
    if let Some(kept) = kept {
        section(&mut text, &kept.label, &kept.body);
    }
    text
}

/// Reads what [`write_kept`] wrote: any number of certificates, at most one section of another label.
pub(crate) fn parse_kept(text: &[u8]) -> Result<(Vec<CertificateDer<'static>>, Option<Kept>), PemError> {
    let text = std::str::from_utf8(text).map_err(|_| PemError::NotPem)?;
    let (mut certificates, mut found) = (Vec::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {label}-----");
        let mut body = Zeroizing::new(String::with_capacity(text.len()));
        loop {
            match lines.next().ok_or(PemError::NotPem)? {
                line if line == end => break,
                line => body.push_str(line.trim_end()),
            }
        }
        let der = Zeroizing::new(STANDARD.decode(body.as_bytes()).map_err(|_| PemError::NotPem)?);
        match label {
            "CERTIFICATE" => certificates.push(CertificateDer::from(der.to_vec())),
            _ if found.is_some() => return Err(PemError::TwoKeys),
            label => found = Some(Kept { label: label.to_owned(), body: der }),
        }
    }
    Ok((certificates, found))
}

#[cfg(test)]
#[path = "pem_test.rs"]
mod pem_test;
