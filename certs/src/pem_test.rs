use super::*;
use crate::mesh_test::{HOUR, Mesh};

#[test]
fn what_was_written_is_read() {
    let mesh = Mesh::new("shop.example");
    let identity = mesh.identity(&mesh.id("web"), HOUR);
    let text = write(&identity.chain, Some(&identity.key)).unwrap();
    assert!(text.lines().all(|line| line.len() <= 64), "RFC 7468 §2");
    let parts = parse(text.as_bytes()).unwrap();
    assert_eq!(parts.certificates, identity.chain);
    assert_eq!(parts.key.unwrap().public(), identity.key.public());
    assert!(parse(write(&identity.chain, None).unwrap().as_bytes()).unwrap().key.is_none());
}

#[test]
fn other_sections_are_refused() {
    let key = PrivateKey::generate().unwrap();
    let text = write(&[], Some(&key)).unwrap();
    assert_eq!(parse(format!("{}{}", text.as_str(), text.as_str()).as_bytes()).unwrap_err(), PemError::TwoKeys);
    for label in ["EC PRIVATE KEY", "RSA PRIVATE KEY", "PUBLIC KEY"] {
        let other = text.replace("PRIVATE KEY", label);
        assert!(matches!(parse(other.as_bytes()), Err(PemError::Section(_))), "{label}");
    }
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    assert_eq!(parse(p384.as_bytes()).unwrap_err(), PemError::Key(KeyError::NotP256));
    assert_eq!(parse(&text.as_bytes()[..text.len() / 2]).unwrap_err(), PemError::NotPem);
    assert!(parse(b"").unwrap().certificates.is_empty());
}

#[test]
fn debug_shows_no_secret() {
    let key = PrivateKey::generate().unwrap();
    let shown = format!("{:?}", parse(write(&[], Some(&key)).unwrap().as_bytes()).unwrap());
    assert!(shown.contains("[redacted]"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "(-----(BEGIN|END) (CERTIFICATE|PRIVATE KEY)-----\n|[A-Za-z0-9+/=]{0,64}\n|.){0,20}") {
        let _ = parse(text.as_bytes());
    }
}
