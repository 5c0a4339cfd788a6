//! What stands in each certificate that we make: CAs first, then leaves.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::UnixTime;

use crate::ca::CaError;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::KeyError;
use crate::leaf::Serial;

/// CAs begin a day back: nobody should have to think about clocks when a mesh is set up.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The last moment that a certificate can name (RFC 5280 §4.1.2.5): 9999-12-31T23:59:59Z.
const LAST_DATE: u64 = 253_402_300_799;

/// rcgen wants a date type of its own; this makes one without naming it.
macro_rules! date {
    ($time:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($time.as_secs().min(LAST_DATE))
    };
}

pub(crate) fn ca_params(
    trust_domain: &TrustDomain,
    what: &str,
    constraints: BasicConstraints,
    lifetime: Duration,
    now: UnixTime,
) -> Result<CertificateParams, CaError> {
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    // The number makes the name unique, so that two roots of one mesh are told apart by name.
    // Not the trust domain: a CommonName has at most 64 characters (RFC 5280 appendix A.1), a trust domain 255.
    let name = format!("Isthmus {what} {}", &serial.to_string()[..8]);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(trust_domain.uri().try_into()?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    (params.not_before, params.not_after) = (date!(earlier(now, DAY)), date!(later(now, lifetime)));
    Ok(params)
}

/// What a request for an intermediate says: a name for people, and the trust domain.
pub(crate) fn ca_request(trust_domain: &TrustDomain) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Isthmus intermediate CA");
    params.subject_alt_names = vec![SanType::URI(trust_domain.uri().try_into()?)];
    Ok(params)
}

pub(crate) fn leaf_params(
    id: &SpiffeId,
    dns_names: &[&str],
    serial: Serial,
    not_before: UnixTime,
    not_after: UnixTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    // No subject: a second place for a name is a second name. The SAN is critical then (RFC 5280 §4.1.2.6).
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    for name in dns_names {
        let valid = rustls_pki_types::DnsName::try_from(*name).is_ok();
        let ia5 = (*name).try_into().ok().filter(|_| valid).ok_or_else(|| CaError::DnsName((*name).to_owned()))?;
        params.subject_alt_names.push(SanType::DnsName(ia5));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    (params.not_before, params.not_after) = (date!(not_before), date!(not_after));
    Ok(params)
}

/// 128 bits from the system's random source; the top byte is never zero, so every serial is shown with 32 digits.
pub(crate) fn random_serial() -> Result<Serial, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Generate)?;
    bytes[0] = bytes[0].max(1);
    Serial::from_bytes(&bytes).ok_or(CaError::Key(KeyError::Generate))
}

pub(crate) fn later(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs().saturating_add(by.as_secs())))
}

pub(crate) fn earlier(time: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs().saturating_sub(by.as_secs())))
}
