use std::collections::HashSet;

use super::*;

#[test]
fn every_reason_has_its_own_word() {
    let words: HashSet<_> = PeerError::ALL.iter().map(|reason| reason.word()).collect();
    assert_eq!(words.len(), PeerError::ALL.len());
    for reason in PeerError::ALL {
        assert!(reason.word().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(reason.to_string().starts_with(reason.word()) && reason.advice().len() > 20);
    }
}

#[test]
fn every_reason_is_found_again_in_what_our_verifiers_return() {
    for reason in PeerError::ALL {
        let error = reason.into_rustls();
        assert_eq!(PeerError::from_rustls(&error), Some(reason));
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, error.clone());
        assert_eq!(PeerError::from_io(&wrapped), Some(reason));
        let twice = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(PeerError::from_io(&twice), Some(reason));
        assert_eq!(PeerError::find(&twice), Some(reason));
        assert_eq!(PeerError::from_io(&io::Error::other(reason)), Some(reason));
    }
}

#[test]
fn causes_are_found_through_other_errors() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("transport error")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let outer = Outer(io::Error::other(PeerError::Expired.into_rustls()));
    assert_eq!(PeerError::find(&outer), Some(PeerError::Expired));
    assert_eq!(PeerError::from_io(&io::Error::other(outer)), Some(PeerError::Expired));
}

#[test]
fn other_failures_are_not_about_the_peer() {
    let garbage = Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    assert_eq!(PeerError::from_rustls(&garbage), None);
    assert_eq!(PeerError::from_rustls(&Error::AlertReceived(AlertDescription::InternalError)), None);
    assert_eq!(PeerError::from_io(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
    assert_eq!(PeerError::from_io(&io::Error::other("text")), None);
}

#[test]
fn the_peer_is_told_by_the_alert_that_tls_has_for_it() {
    let alert = |reason: PeerError| match reason.into_rustls() {
        Error::InvalidCertificate(error) => AlertDescription::from(error),
        other => panic!("{other:?}"),
    };
    assert_eq!(alert(PeerError::Expired), AlertDescription::CertificateExpired);
    assert_eq!(alert(PeerError::OwnDates), AlertDescription::AccessDenied);
    assert_eq!(alert(PeerError::UntrustedRoot), AlertDescription::UnknownCA);
    assert_eq!(alert(PeerError::BadKeyUsage), AlertDescription::UnsupportedCertificate);
    assert_eq!(alert(PeerError::WrongIdentity), AlertDescription::CertificateUnknown);
}

#[test]
fn an_alert_is_found_in_words_alone() {
    let said = |alert| PeerError::from_text(&format!("connection error: {}", Error::AlertReceived(alert)));
    assert_eq!(said(AlertDescription::CertificateExpired), Some(PeerError::DatesRefusedByPeer));
    assert_eq!(said(AlertDescription::AccessDenied), Some(PeerError::PeerWithoutCertificate));
    assert_eq!(said(AlertDescription::CertificateRevoked), Some(PeerError::RevokedByPeer));
    assert_eq!(said(AlertDescription::UnknownCA), Some(PeerError::RefusedByPeer));
    assert_eq!(said(AlertDescription::InternalError), None);
    assert_eq!(PeerError::from_text("connection reset by peer"), None);
    assert_eq!(PeerError::from_text("received fatal alert: "), None);
}
