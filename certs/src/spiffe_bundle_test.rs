use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use super::*;
use crate::{CertificateAuthority, SystemClock, TrustDomain};

#[test]
fn a_root_is_a_key_with_its_certificate() {
    let domain = TrustDomain::parse("shop.example").unwrap();
    let ca = CertificateAuthority::generate(&domain, Arc::new(SystemClock)).unwrap();
    let text = json(&ca.bundle()).unwrap();
    assert!(text.contains(r#""use": "x509-svid", "kty": "EC", "crv": "P-256", "x": ""#), "{text}");
    assert!(text.contains(&STANDARD.encode(ca.root())), "{text}");
    let field = |name: &str| text.split(&format!("\"{name}\": \"")).nth(1).unwrap().split('"').next().unwrap();
    let spki = leaf::parse(ca.root()).unwrap();
    let mut point = vec![4];
    point.extend([field("x"), field("y")].iter().flat_map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()));
    assert_eq!(spki.public_key().subject_public_key.data.as_ref(), &point[..]);
    assert!(!text.contains("PRIVATE") && !text.contains("\"d\""));
}

#[test]
fn a_companys_rsa_root_too_and_what_has_no_jwk_is_not_left_out_in_silence() {
    let rooted = |algorithm| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&KeyPair::generate_for(algorithm).unwrap()).unwrap();
        TrustBundle::from_ders([root.der()]).unwrap()
    };
    let rsa = json(&rooted(&rcgen::PKCS_RSA_SHA256)).unwrap();
    assert!(rsa.contains(r#""kty": "RSA""#) && rsa.contains(r#""e": "AQAB""#), "{rsa}");
    assert!(json(&rooted(&rcgen::PKCS_ECDSA_P384_SHA384)).unwrap().contains(r#""crv": "P-384""#));
    assert_eq!(json(&rooted(&rcgen::PKCS_ED25519)), None);
}
