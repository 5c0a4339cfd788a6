use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use super::*;
use crate::mesh_test::{Forge, Mesh};

const WEB: &str = "spiffe://shop.example/ns/shop/sa/web";

fn forged(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Result<PeerIdentity, PeerError> {
    peer_identity(&Forge::new("shop.example").chain(WEB, change))
}

#[test]
fn reads_what_was_issued() {
    let mesh = Mesh::new("shop.example");
    let identity = mesh.identity(&mesh.id("web"), crate::mesh_test::HOUR);
    let peer = peer_identity(&identity.chain).unwrap();
    assert_eq!(peer.id.as_str(), WEB);
    assert_eq!((peer.serial, peer.not_after), (identity.serial, identity.not_after));
    assert_eq!(peer.serial.to_string().len(), 32);
}

#[test]
fn nothing_or_garbage_is_refused() {
    assert_eq!(peer_identity(&[]), Err(PeerError::NoCertificate));
    for garbage in [vec![], vec![0x30], vec![0x30, 0x80, 0, 0], vec![0x30; 20_000]] {
        assert_eq!(peer_identity(&[garbage.into()]), Err(PeerError::Malformed));
    }
    let mut trailing = Forge::new("shop.example").chain(WEB, |_| ())[0].to_vec();
    trailing.push(0);
    assert_eq!(peer_identity(&[trailing.into()]), Err(PeerError::Malformed));
}

#[test]
fn exactly_one_uri_name() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    assert_eq!(forged(|p| p.subject_alt_names = vec![]), Err(PeerError::NotSpiffe));
    assert_eq!(
        forged(|p| p.subject_alt_names = vec![SanType::DnsName("web.shop".try_into().unwrap())]),
        Err(PeerError::NotSpiffe)
    );
    assert_eq!(
        forged(|p| p.subject_alt_names.push(uri("spiffe://shop.example/ns/shop/sa/admin"))),
        Err(PeerError::NotSpiffe)
    );
    assert_eq!(forged(|p| p.subject_alt_names.push(uri("https://x.example"))), Err(PeerError::NotSpiffe));
    assert_eq!(forged(|p| p.subject_alt_names = vec![uri("https://x.example")]), Err(PeerError::NotSpiffe));
    assert_eq!(forged(|p| p.subject_alt_names = vec![uri("spiffe://shop.example")]), Err(PeerError::NotSpiffe));
    // A DNS name beside the URI is allowed (X509-SVID §2).
    let both = forged(|p| p.subject_alt_names.push(SanType::DnsName("web.shop".try_into().unwrap()))).unwrap();
    assert_eq!(both.id.as_str(), WEB);
}

#[test]
fn a_second_san_extension_is_no_second_chance() {
    // SEQUENCE { [6] "spiffe://shop.example/ns/shop/sa/admin" }
    let admin = b"spiffe://shop.example/ns/shop/sa/admin";
    let san = [&[0x30, admin.len() as u8 + 2, 0x86, admin.len() as u8], &admin[..]].concat();
    let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], san);
    assert_eq!(forged(|p| p.custom_extensions.push(extension)), Err(PeerError::Malformed));
}

#[test]
fn a_uri_that_is_no_text_is_refused() {
    let san = vec![0x30, 4, 0x86, 2, 0xff, 0xfe];
    let result = forged(|p| {
        p.subject_alt_names.clear();
        p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], san));
    });
    assert_eq!(result, Err(PeerError::Malformed));
}

#[test]
fn a_ca_is_nobody() {
    let constraints = BasicConstraints::Unconstrained;
    assert_eq!(forged(|p| p.is_ca = IsCa::Ca(constraints)), Err(PeerError::CaAsLeaf));
    let unreadable = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1]);
    let result = forged(|p| {
        p.is_ca = IsCa::NoCa;
        p.custom_extensions.push(unreadable);
    });
    assert_eq!(result, Err(PeerError::Malformed));
}

#[test]
fn key_usages_of_an_end_point() {
    use KeyUsagePurpose::*;
    for usages in [vec![], vec![KeyEncipherment], vec![DigitalSignature, KeyCertSign], vec![DigitalSignature, CrlSign]]
    {
        let shown = format!("{usages:?}");
        assert_eq!(forged(|p| p.key_usages = usages), Err(PeerError::BadKeyUsage), "{shown}");
    }
    assert!(forged(|p| p.key_usages = vec![DigitalSignature, KeyAgreement]).is_ok());
    // Extended usages depend on the role: verify.rs looks at them.
    assert!(forged(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]).is_ok());
}

#[test]
fn serials_have_one_text_form() {
    let serial = |bytes: &[u8]| Serial::from_bytes(bytes).map(|s| s.to_string());
    assert_eq!(serial(&[0, 0xab, 1]).as_deref(), Some("ab01"));
    assert_eq!(Serial::from_bytes(&[0, 1]), Serial::from_bytes(&[1]));
    assert_eq!(serial(&[0xff; 20]).map(|s| s.len()), Some(40));
    assert_eq!(serial(&[0xff; 21]), None);
    let parsed = |text: &str| Serial::parse(text).map(|s| s.to_string());
    assert_eq!(parsed("AB:01").as_deref(), Some("ab01"));
    assert_eq!(parsed("b01").as_deref(), Some("0b01"));
    assert_eq!(parsed(&"ff".repeat(20)), Some("ff".repeat(20)));
    for bad in ["", "0", "xyz", "+1", "ab 01", &"ff".repeat(21)] {
        assert_eq!(parsed(bad), None, "{bad:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = peer_identity(&[bytes.into()]);
    }

    #[test]
    fn any_damage_is_parsed_or_refused(at in 0usize..500, bit in 0u8..8) {
        let mut leaf = Forge::new("shop.example").chain(WEB, |_| ())[0].to_vec();
        let at = at % leaf.len();
        leaf[at] ^= 1 << bit;
        let _ = peer_identity(&[leaf.into()]);
    }
}
