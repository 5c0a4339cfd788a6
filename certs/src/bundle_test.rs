use super::*;
use crate::mesh_test::{Forge, HOUR, Mesh, NOW_MS, at};

#[test]
fn fingerprints_are_64_hex_digits() {
    let root = Mesh::new("shop.example").ca.root().clone();
    let fingerprint = RootFingerprint::of(&root);
    let text = fingerprint.to_string();
    assert_eq!((text.len(), RootFingerprint::parse(&text)), (64, Ok(fingerprint)));
    assert_eq!(text.to_uppercase().parse(), Ok(fingerprint));
    for bad in ["", "ab", &text[1..], &format!("{text}0"), &text.replace(|_| true, "g"), &"é".repeat(32)] {
        assert_eq!(RootFingerprint::parse(bad), Err(BundleError::Fingerprint), "{bad:?}");
    }
}

#[test]
fn a_bundle_holds_roots_and_nothing_else() {
    let mesh = Mesh::new("shop.example");
    let root = mesh.ca.root();
    let leaf = mesh.identity(&mesh.id("web"), HOUR).chain[0].clone();
    let no_sign = Forge::with("shop.example", |p| p.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign], |_| ()).root;
    assert_eq!(TrustBundle::from_ders([&leaf]), Err(BundleError::NotACa(1)));
    assert_eq!(TrustBundle::from_ders([root, &no_sign]), Err(BundleError::NotACa(2)));
    assert_eq!(TrustBundle::from_ders([b"garbage"]), Err(BundleError::NotACertificate(1)));
    assert_eq!(TrustBundle::from_ders::<&[u8]>([]), Err(BundleError::Empty));
    assert_eq!(TrustBundle::from_ders(vec![root; MAX_ROOTS + 1]), Err(BundleError::TooMany));
    let twice = TrustBundle::from_ders([root, root]).unwrap();
    assert_eq!((twice.roots().len(), twice), (1, mesh.ca.bundle()));
}

#[test]
fn an_ended_root_is_no_anchor() {
    let forge = Forge::new("shop.example");
    let bundle = forge.bundle();
    let now = NOW_MS as u64 / 1000;
    let end = now + 365 * 24 * 3600;
    assert_eq!([now, end, end + 1].map(|time| bundle.anchors_at(at(time)).len()), [1, 1, 0]);
    assert_eq!(bundle.anchors_at(at(now - 3 * 24 * 3600)).len(), 0);
}
