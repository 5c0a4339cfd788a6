use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::*;
use crate::mesh_test::{Forge, HOUR, Mesh, NOW_MS, at, td};

const WEB: &str = "spiffe://shop.example/ns/shop/sa/web";
const NOW: u64 = NOW_MS as u64 / 1000;

fn verify(forge: &Forge, chain: &[CertificateDer<'_>], role: Role, now: u64) -> Result<SpiffeId, PeerError> {
    verify_chain(chain, &forge.bundle(), &td("shop.example"), role, at(now)).map(|peer| peer.id)
}

#[test]
fn a_good_chain_in_both_roles() {
    let forge = Forge::new("shop.example");
    let chain = forge.chain(WEB, |_| ());
    for role in [Role::Client, Role::Server] {
        assert_eq!(verify(&forge, &chain, role, NOW).unwrap().as_str(), WEB);
    }
}

#[test]
fn valid_through_its_last_second_and_not_one_more() {
    let mesh = Mesh::new("shop.example");
    let identity = mesh.identity(&mesh.id("web"), 2 * HOUR);
    let verify =
        |now| verify_chain(&identity.chain, &mesh.ca.bundle(), mesh.ca.trust_domain(), Role::Client, at(now)).err();
    assert_eq!(verify(identity.not_after.as_secs()), None);
    assert_eq!(verify(identity.not_after.as_secs() + 1), Some(PeerError::Expired));
    assert_eq!(verify(identity.not_before.as_secs()), None);
    assert_eq!(verify(identity.not_before.as_secs() - 1), Some(PeerError::NotYetValid));
}

#[test]
fn an_ended_issuer_or_root_ends_what_is_below() {
    let late = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(NOW - 10);
    let issuing = Forge::with("shop.example", |_| (), |p| p.not_after = late);
    assert_eq!(verify(&issuing, &issuing.chain(WEB, |_| ()), Role::Client, NOW), Err(PeerError::Expired));
    // RFC 5280 takes an anchor's dates for granted; we do not.
    let root = Forge::with("shop.example", |p| p.not_after = late, |_| ());
    assert_eq!(verify(&root, &root.chain(WEB, |_| ()), Role::Client, NOW), Err(PeerError::UntrustedRoot));
    assert!(verify(&root, &root.chain(WEB, |_| ()), Role::Client, NOW - 10).is_ok());
}

#[test]
fn somebody_elses_roots_are_refused() {
    let (ours, theirs) = (Forge::new("shop.example"), Forge::new("shop.example"));
    assert_eq!(verify(&ours, &theirs.chain(WEB, |_| ()), Role::Client, NOW), Err(PeerError::UntrustedRoot));
    // The same name, another key.
    let name = |p: &mut rcgen::CertificateParams| p.distinguished_name = Default::default();
    let (ours, theirs) = (Forge::with("shop.example", name, |_| ()), Forge::with("shop.example", name, |_| ()));
    assert_eq!(verify(&ours, &theirs.chain(WEB, |_| ()), Role::Client, NOW), Err(PeerError::UntrustedRoot));
    // Bringing the root along does not make it trusted.
    let mut chain = theirs.chain(WEB, |_| ());
    chain.push(theirs.root.clone());
    assert_eq!(verify(&ours, &chain, Role::Client, NOW), Err(PeerError::UntrustedRoot));
}

#[test]
fn nobody_is_trusted_by_an_empty_bundle() {
    let forge = Forge::new("shop.example");
    let chain = forge.chain(WEB, |_| ());
    let result = verify_chain(&chain, &TrustBundle::empty(), &td("shop.example"), Role::Client, at(NOW));
    assert_eq!(result, Err(PeerError::UntrustedRoot));
}

#[test]
fn two_roots_while_one_is_replaced() {
    let (old, new) = (Forge::new("shop.example"), Forge::new("shop.example"));
    let both = TrustBundle::from_ders([&old.root, &new.root]).unwrap();
    for forge in [&old, &new] {
        let chain = forge.chain(WEB, |_| ());
        assert!(verify_chain(&chain, &both, &td("shop.example"), Role::Client, at(NOW)).is_ok());
    }
}

#[test]
fn another_trust_domain_is_refused_even_by_our_root() {
    let forge = Forge::new("shop.example");
    let chain = forge.chain("spiffe://other.example/ns/shop/sa/web", |_| ());
    assert_eq!(verify(&forge, &chain, Role::Client, NOW), Err(PeerError::WrongTrustDomain));
}

#[test]
fn extended_usage_must_allow_the_role() {
    use ExtendedKeyUsagePurpose::*;
    let forge = Forge::new("shop.example");
    let with = |usages: Vec<_>| forge.chain(WEB, |p| p.extended_key_usages = usages);
    let server_only = with(vec![ServerAuth]);
    assert!(verify(&forge, &server_only, Role::Server, NOW).is_ok());
    assert_eq!(verify(&forge, &server_only, Role::Client, NOW), Err(PeerError::BadKeyUsage));
    let client_only = with(vec![ClientAuth]);
    assert!(verify(&forge, &client_only, Role::Client, NOW).is_ok());
    assert_eq!(verify(&forge, &client_only, Role::Server, NOW), Err(PeerError::BadKeyUsage));
    for none in [with(vec![]), with(vec![CodeSigning])] {
        assert_eq!(verify(&forge, &none, Role::Client, NOW), Err(PeerError::BadKeyUsage));
    }
}

#[test]
fn an_issuer_that_may_not_issue_vouches_for_nobody() {
    let no_sign = Forge::with("shop.example", |_| (), |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_eq!(verify(&no_sign, &no_sign.chain(WEB, |_| ()), Role::Client, NOW), Err(PeerError::UntrustedRoot));
    let no_ca = Forge::with("shop.example", |_| (), |p| p.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(verify(&no_ca, &no_ca.chain(WEB, |_| ()), Role::Client, NOW), Err(PeerError::UntrustedRoot));
}

#[test]
fn an_issuing_ca_makes_no_further_ca() {
    let forge = Forge::new("shop.example");
    let control = SpiffeId::control_plane(&td("shop.example"));
    let chain = forge.chain_through_another_ca(WEB);
    assert_eq!(verify(&forge, &chain, Role::Client, NOW), Err(PeerError::UntrustedRoot));
    assert!(verify(&forge, &forge.chain(control.as_str(), |_| ()), Role::Server, NOW).is_ok());
}

#[test]
fn a_leaf_cannot_issue() {
    let forge = Forge::new("shop.example");
    let key = crate::PrivateKey::generate().unwrap();
    let web = forge.chain_for(key.public(), WEB, |_| ());
    // web signs a certificate for admin with its own key.
    let issuer = rcgen::Issuer::from_ca_cert_der(&web[0], key).unwrap();
    let id = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/admin").unwrap();
    let serial = crate::template::random_serial().unwrap();
    let params = crate::template::leaf_params(&id, &[], serial, at(NOW - 60), at(NOW + 60)).unwrap();
    let leaf = params.signed_by(crate::PrivateKey::generate().unwrap().public(), &issuer).unwrap();
    let chain = vec![leaf.into(), web[0].clone(), web[1].clone()];
    assert_eq!(verify(&forge, &chain, Role::Client, NOW), Err(PeerError::UntrustedRoot));
}

#[test]
fn a_missing_issuing_ca_and_a_long_chain_are_refused() {
    let forge = Forge::new("shop.example");
    let chain = forge.chain(WEB, |_| ());
    assert_eq!(verify(&forge, &chain[..1], Role::Client, NOW), Err(PeerError::UntrustedRoot));
    assert_eq!(verify(&forge, &[], Role::Client, NOW), Err(PeerError::NoCertificate));
    let long = [&chain[..], &[chain[1].clone(), chain[1].clone(), chain[1].clone(), chain[1].clone()]].concat();
    assert_eq!(verify(&forge, &long, Role::Client, NOW), Err(PeerError::Malformed));
    assert!(verify(&forge, &forge.chain_without_issuing(WEB), Role::Client, NOW).is_ok());
}

#[test]
fn a_pinned_root_must_be_there_and_must_have_signed() {
    let forge = Forge::new("shop.example");
    let control = SpiffeId::control_plane(&td("shop.example"));
    let mut chain = forge.chain(control.as_str(), |_| ());
    let pin = RootFingerprint::of(&forge.root);
    let pinned = |chain: &[_], id: &SpiffeId| verify_pinned(chain, &pin, id, at(NOW)).map(|peer| peer.id);

    assert_eq!(pinned(&chain, &control), Err(PeerError::UntrustedRoot), "without the root");
    chain.push(forge.root.clone());
    assert_eq!(pinned(&chain, &control), Ok(control.clone()));
    let web = SpiffeId::parse(WEB).unwrap();
    assert_eq!(pinned(&chain, &web), Err(PeerError::WrongIdentity));
    let elsewhere = SpiffeId::control_plane(&td("other.example"));
    assert_eq!(pinned(&chain, &elsewhere), Err(PeerError::WrongTrustDomain));

    // An attacker's chain with the true root, which is public, put at its end.
    let attacker = Forge::new("shop.example");
    let mut chain = attacker.chain(control.as_str(), |_| ());
    chain.push(attacker.root.clone());
    assert_eq!(pinned(&chain, &control), Err(PeerError::UntrustedRoot));
    chain.push(forge.root.clone());
    assert_eq!(pinned(&chain, &control), Err(PeerError::UntrustedRoot));
    assert_eq!(pinned(std::slice::from_ref(&forge.root), &control), Err(PeerError::UntrustedRoot), "the root alone");
}

#[test]
fn a_pin_on_a_leaf_or_an_issuing_ca_is_no_way_round() {
    let forge = Forge::new("shop.example");
    let control = SpiffeId::control_plane(&td("shop.example"));
    let mut chain = forge.chain(control.as_str(), |_| ());
    chain.push(chain[0].clone());
    let pin = RootFingerprint::of(&chain[0]);
    assert_eq!(verify_pinned(&chain, &pin, &control, at(NOW)), Err(PeerError::UntrustedRoot));
}

#[test]
fn a_changed_bit_in_any_byte_is_refused() {
    let forge = Forge::new("shop.example");
    let good = forge.chain(WEB, |_| ());
    for which in 0..2 {
        for byte in 0..good[which].len() {
            let (mut chain, mut der) = (good.clone(), good[which].to_vec());
            der[byte] ^= 1 << (byte % 8);
            chain[which] = der.into();
            assert!(verify(&forge, &chain, Role::Client, NOW).is_err(), "certificate {which}, byte {byte}");
        }
    }
}
