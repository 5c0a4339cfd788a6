use super::*;

#[test]
fn a_key_survives_its_pkcs8_form() {
    let key = PrivateKey::generate().unwrap();
    let again = PrivateKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
    assert_eq!(key.public(), again.public());
    let signature = rcgen::SigningKey::sign(&again, b"message").unwrap();
    assert!(key.public().verifies(b"message", &signature));
    assert!(!key.public().verifies(b"another", &signature));
}

#[test]
fn other_keys_are_refused() {
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for der in [p384.serialized_der(), ed25519.serialized_der(), b"", b"garbage", &[0x30; 4096]] {
        assert_eq!(PrivateKey::from_pkcs8(der).unwrap_err(), KeyError::NotP256);
    }
}

#[test]
fn a_point_off_the_curve_is_no_public_key() {
    let mut point: [u8; 65] = PrivateKey::generate().unwrap().public().as_point().try_into().unwrap();
    assert!(PublicKey::from_point(&point).is_some());
    point[64] ^= 1;
    assert!(PublicKey::from_point(&point).is_none());
    assert!(PublicKey::from_point(&[4; 65]).is_none());
    assert!(PublicKey::from_point(&point[..64]).is_none());
}

#[test]
fn debug_shows_no_secret() {
    let key = PrivateKey::generate().unwrap();
    let shown = format!("{key:?}");
    assert!(shown.contains("redacted"));
    let secret = crate::hex::encode(&key.to_pkcs8().unwrap()[36..68]);
    assert!(!shown.contains(&secret[..16]));
}
