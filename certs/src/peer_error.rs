//! Why a peer is not believed, one word each, and how to find that word again in what rustls and tokio-rustls return.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// The reason for which a handshake failed. [`word`](Self::word) is the same in log, metric and decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerError {
    /// The peer showed no certificate where one is required.
    NoCertificate,
    /// Not a certificate, or one that contradicts itself.
    Malformed,
    /// Not exactly one URI name, or one that is no mesh identity.
    NotSpiffe,
    /// A mesh identity of another mesh.
    WrongTrustDomain,
    /// No root in our bundle signed this chain (or none whose certificate is valid now).
    UntrustedRoot,
    /// A certificate in the chain has ended by our clock.
    Expired,
    /// A certificate in the chain begins later, by our clock.
    NotYetValid,
    /// A certificate, or everything its identity was issued, that an operator has revoked.
    Revoked,
    /// A good certificate of somebody else than the one we expected.
    WrongIdentity,
    /// Key usage or extended key usage does not allow this.
    BadKeyUsage,
    /// A CA's certificate presented as a workload's.
    CaAsLeaf,
    /// The peer does not hold the key of the certificate that it showed.
    BadSignature,
    /// We have no certificate yet, so nobody can be answered.
    NoIdentity,
    /// We have a certificate, and it does not hold by our own clock: it is not shown.
    OwnDates,
    /// The peer refused our certificate; its log says why.
    RefusedByPeer,
    /// The peer says that our certificate, or everything that we were issued, is revoked.
    RevokedByPeer,
    /// The peer says that a certificate is outside of its dates, by its clock.
    DatesRefusedByPeer,
    /// The peer says that it has no certificate to show.
    PeerWithoutCertificate,
    /// No TLS version, cipher suite or key exchange in common: the peer is not a mesh proxy.
    Incompatible,
    /// No application protocol in common.
    NoCommonProtocol,
}

/// Those that are about certificates.
const ALERTS: [AlertDescription; 12] = [
    AlertDescription::NoCertificate,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::CertificateRequired,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::ProtocolVersion,
    AlertDescription::InsufficientSecurity,
    AlertDescription::HandshakeFailure,
];

impl PeerError {
    pub const ALL: [Self; 20] = [
        Self::NoCertificate,
        Self::Malformed,
        Self::NotSpiffe,
        Self::WrongTrustDomain,
        Self::UntrustedRoot,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::WrongIdentity,
        Self::BadKeyUsage,
        Self::CaAsLeaf,
        Self::BadSignature,
        Self::NoIdentity,
        Self::OwnDates,
        Self::RefusedByPeer,
        Self::RevokedByPeer,
        Self::DatesRefusedByPeer,
        Self::PeerWithoutCertificate,
        Self::Incompatible,
        Self::NoCommonProtocol,
    ];

    /// One word for logs, metric labels and span attributes.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Malformed => "malformed-certificate",
            Self::NotSpiffe => "not-spiffe",
            Self::WrongTrustDomain => "wrong-trust-domain",
            Self::UntrustedRoot => "untrusted-root",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::Revoked => "revoked",
            Self::WrongIdentity => "wrong-identity",
            Self::BadKeyUsage => "bad-key-usage",
            Self::CaAsLeaf => "ca-as-leaf",
            Self::BadSignature => "bad-signature",
            Self::NoIdentity => "no-identity",
            Self::OwnDates => "own-certificate-outside-dates",
            Self::RefusedByPeer => "refused-by-peer",
            Self::RevokedByPeer => "revoked-by-peer",
            Self::DatesRefusedByPeer => "dates-refused-by-peer",
            Self::PeerWithoutCertificate => "peer-without-certificate",
            Self::Incompatible => "incompatible-tls",
            Self::NoCommonProtocol => "no-common-protocol",
        }
    }

    /// Whose fault it is and what to look at.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NoCertificate => "the peer has no mesh certificate: is its sidecar enrolled?",
            Self::Malformed => "the peer's certificate cannot be read: it was not issued by this mesh",
            Self::NotSpiffe => "the peer's certificate carries no identity of the form spiffe://…/ns/…/sa/…",
            Self::WrongTrustDomain => "the peer belongs to another mesh: compare both trust domains",
            Self::UntrustedRoot => {
                "no root that we trust signed the peer's certificate: was the peer enrolled elsewhere?"
            }
            Self::Expired => {
                "the peer's certificate has ended: can it reach the control plane, and do both clocks agree?"
            }
            Self::NotYetValid => "the peer's certificate begins in our future: compare both clocks",
            Self::Revoked => "the peer's identity was revoked: if that was a mistake, let it join with a new token",
            Self::WrongIdentity => "somebody else answers at this address: is the endpoint list current?",
            Self::BadKeyUsage => "the peer's certificate may not be used for this",
            Self::CaAsLeaf => "the peer shows a CA's certificate as its own",
            Self::BadSignature => "the peer does not hold the key of the certificate that it shows",
            Self::NoIdentity => "this proxy has no certificate yet: see its enrolment",
            Self::OwnDates => {
                "our own certificate does not hold by this machine's clock: the clock is wrong, or the certificate was not \
                 renewed in time; see `isthmus status`"
            }
            Self::RefusedByPeer => "the peer refused our certificate: see the peer's log",
            Self::RevokedByPeer => {
                "this workload was revoked (`isthmus identity revocations`): if it may come back, let it join with a token \
                 that is made now"
            }
            Self::DatesRefusedByPeer => {
                "by the peer's clock our certificate has ended, or not begun: one of the two clocks is wrong, or it was not \
                 renewed in time; `isthmus certs --trouble` names a clock that is off"
            }
            Self::PeerWithoutCertificate => {
                "the peer has no certificate that holds by its own clock: it is not enrolled, did not renew in time, or its \
                 clock is wrong; see its log"
            }
            Self::Incompatible => "the peer offers no TLS 1.3 with our algorithms: it is no mesh proxy",
            Self::NoCommonProtocol => "the peer speaks no protocol that we offer: compare both versions",
        }
    }

    /// Finds the reason in a TLS error. `None`: the failure is about something else than who the peer is, for example
    /// bytes that are not TLS.
    pub fn from_rustls(error: &Error) -> Option<Self> {
        match error {
            Error::InvalidCertificate(error) => Some(Self::from_certificate_error(error)),
            Error::NoCertificatesPresented => Some(Self::NoCertificate),
            Error::PeerIncompatible(_) => Some(Self::Incompatible),
            Error::NoApplicationProtocol => Some(Self::NoCommonProtocol),
            Error::AlertReceived(alert) => Self::from_alert(*alert),
            // rustls has no variant for a resolver that found nothing; the text is checked by a test.
            Error::General(text) if text == "no server certificate chain resolved" => Some(Self::NoIdentity),
            Error::Other(OtherError(cause)) => cause.downcast_ref::<Self>().copied(),
            _ => None,
        }
    }

    /// As [`from_rustls`](Self::from_rustls), for the `io::Error` in which TLS streams wrap it.
    pub fn from_io(error: &io::Error) -> Option<Self> {
        // Not `source()`, which skips the error that an io::Error was made from.
        Self::find(error.get_ref()?)
    }

    /// Looks through an error and its causes, as h2 and tonic wrap them.
    pub fn find(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let found = None
            .or_else(|| error.downcast_ref::<Self>().copied())
            .or_else(|| error.downcast_ref::<Error>().and_then(Self::from_rustls))
            .or_else(|| error.downcast_ref::<io::Error>().and_then(Self::from_io));
        found.or_else(|| Self::from_text(&error.to_string())).or_else(|| Self::find(error.source()?))
    }

    /// The alert with which the peer ended a connection, in the text of an error that has lost its cause: h2 keeps of an
    /// IO error its kind and its words. Without one in it: `None`.
    pub fn from_text(text: &str) -> Option<Self> {
        const SAYS: &str = "received fatal alert: ";
        let (_, named) = text.split_once(SAYS)?;
        let name = named.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        let alert = ALERTS.iter().find(|alert| format!("{alert:?}") == name)?;
        Self::from_alert(*alert)
    }

    fn from_certificate_error(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            // Only we ourselves return it; see `into_rustls`.
            E::ApplicationVerificationFailure => Self::OwnDates,
            E::Other(OtherError(cause)) => cause.downcast_ref::<Self>().copied().unwrap_or(Self::Malformed),
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::UnknownIssuer => Self::UntrustedRoot,
            E::Revoked => Self::Revoked,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::WrongIdentity,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::BadKeyUsage,
            E::BadSignature
            | E::UnsupportedSignatureAlgorithmContext { .. }
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::BadSignature,
            _ => Self::Malformed,
        }
    }

    fn from_alert(alert: AlertDescription) -> Option<Self> {
        use AlertDescription as A;
        match alert {
            A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA => Some(Self::RefusedByPeer),
            A::CertificateRevoked => Some(Self::RevokedByPeer),
            A::CertificateExpired => Some(Self::DatesRefusedByPeer),
            // What rustls says where a resolver found nothing, and we where we have nothing to show that holds.
            A::AccessDenied => Some(Self::PeerWithoutCertificate),
            A::ProtocolVersion | A::InsufficientSecurity | A::HandshakeFailure => Some(Self::Incompatible),
            A::NoApplicationProtocol => Some(Self::NoCommonProtocol),
            _ => None,
        }
    }

    /// What our verifiers return. Where TLS has an alert for the case, the error is one that makes rustls send it, so
    /// that the peer's log says the same.
    pub(crate) fn into_rustls(self) -> Error {
        Error::InvalidCertificate(match self {
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::UntrustedRoot => CertificateError::UnknownIssuer,
            Self::Revoked => CertificateError::Revoked,
            Self::BadKeyUsage => CertificateError::InvalidPurpose,
            Self::OwnDates => CertificateError::ApplicationVerificationFailure,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.word(), self.advice())
    }
}

impl std::error::Error for PeerError {}

#[cfg(test)]
#[path = "peer_error_test.rs"]
mod peer_error_test;
