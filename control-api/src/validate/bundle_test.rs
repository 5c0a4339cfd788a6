use super::*;
use isthmus_certs::{CertificateAuthority, SystemClock};
use proptest::prelude::*;
use std::sync::Arc;

#[test]
fn both_forms_give_the_same_roots() {
    let bank = isthmus_certs::TrustDomain::parse("bank.example").unwrap();
    let ca = CertificateAuthority::generate(&bank, Arc::new(SystemClock)).unwrap();
    let root = BASE64_STANDARD.encode(ca.root());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{root}\n-----END CERTIFICATE-----\n");
    let jwt = r#"{ "kty": "EC", "use": "jwt-svid", "kid": "a" }"#;
    let json = format!(
        r#"{{ "spiffe_sequence": 1, "keys": [{jwt}, {{ "kty": "EC", "use": "x509-svid", "x5c": ["{root}"] }}] }}"#
    );
    assert_eq!(from_pem(&pem).unwrap(), ca.bundle());
    assert_eq!(from_spiffe(&json).unwrap(), ca.bundle());
    assert!(from_spiffe(&json.replace("x509-svid", "other")).unwrap_err().contains("no root"));
    assert!(from_spiffe(&json.replace("\"x5c\": [", "\"x5c\": [\"\", ")).is_err());
    assert!(from_pem("").is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        prop_assert!(from_spiffe(&text).is_err() && from_pem(&text).is_err());
    }
}
