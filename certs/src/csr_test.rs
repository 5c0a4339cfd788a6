use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;
use crate::mesh_test::{HOUR, Mesh};

fn signed_by(key: &impl rcgen::SigningKey, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn a_request_proves_its_key_and_says_nothing_else() {
    let key = new_key().unwrap();
    let der = request(&key).unwrap();
    assert!(der.len() < 300, "{} bytes", der.len());
    assert_eq!(verify(&der).unwrap().key(), key.public());
    let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
    assert_eq!(parsed.certification_request_info.subject.iter().count(), 0);
    assert!(parsed.requested_extensions().is_none());
}

#[test]
fn names_and_extensions_in_a_request_are_ignored() {
    let mesh = Mesh::new("shop.example");
    let key = new_key().unwrap();
    let der = signed_by(&key, |p| {
        p.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        p.subject_alt_names = vec![
            SanType::URI("spiffe://shop.example/ns/isthmus-system/sa/control".try_into().unwrap()),
            SanType::DnsName("bank.example".try_into().unwrap()),
        ];
        p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    });
    let issued = mesh.ca.issue(&verify(&der).unwrap(), &mesh.id("web"), HOUR, &[]).unwrap();
    let leaf = crate::leaf::parse(&issued.chain[0]).unwrap();
    assert_eq!(crate::leaf::uris(&leaf).unwrap(), ["spiffe://shop.example/ns/shop/sa/web"]);
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1);
    assert!(!leaf.is_ca() && leaf.subject().iter().count() == 0);
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn other_key_types_are_refused() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(verify(&signed_by(&key, |_| ())), Err(CsrError::KeyType));
    }
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    assert_eq!(verify(&signed_by(&rsa, |_| ())), Err(CsrError::KeyType));
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    /// Shows one key, signs with another: a certificate for a stranger's key.
    struct Thief(PrivateKey, PrivateKey);
    impl rcgen::PublicKeyData for Thief {
        fn der_bytes(&self) -> &[u8] {
            self.0.public().as_point()
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }
    impl rcgen::SigningKey for Thief {
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            rcgen::SigningKey::sign(&self.1, message)
        }
    }
    let thief = Thief(new_key().unwrap(), new_key().unwrap());
    assert_eq!(verify(&signed_by(&thief, |_| ())), Err(CsrError::Signature));
}

#[test]
fn oversized_and_malformed_requests_are_refused() {
    let key = new_key().unwrap();
    let big = signed_by(&key, |p| {
        p.subject_alt_names = vec![SanType::DnsName("x".repeat(5000).try_into().unwrap())];
    });
    assert_eq!(verify(&big), Err(CsrError::TooLarge));
    let good = request(&key).unwrap();
    let trailing = [&good[..], &[0]].concat();
    for bad in [&b""[..], b"garbage", &[0x30; 4096], &good[..good.len() - 1], &trailing] {
        assert_eq!(verify(bad), Err(CsrError::Malformed));
    }
    let certificate = Mesh::new("shop.example").ca.root().to_vec();
    assert!(verify(&certificate).is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        proptest::prop_assert!(verify(&bytes).is_err());
    }
}

#[test]
fn every_changed_bit_is_refused() {
    let good = request(&new_key().unwrap()).unwrap();
    for bit in 0..good.len() * 8 {
        let mut der = good.clone();
        der[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&der).is_err(), "byte {}, bit {}", bit / 8, bit % 8);
    }
}
