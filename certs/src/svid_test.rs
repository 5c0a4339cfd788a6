//! Vectors for the rules of the SPIFFE X509-SVID standard, each good and bad, against the whole verifier. Sections are
//! those of the standard's text. Where we are stricter than it, the vector says so.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::PeerError::{self, *};
use crate::bundle::{BundleError, TrustBundle};
use crate::mesh_test::{Forge, NOW_MS, at, td};
use crate::verify::{Role, verify_chain};

const WEB: &str = "spiffe://shop.example/ns/shop/sa/web";
const GOOD: Result<(), PeerError> = Ok(());

fn judged(forge: &Forge, chain: &[CertificateDer<'_>]) -> Result<(), PeerError> {
    let verify = |role| verify_chain(chain, &forge.bundle(), &td("shop.example"), role, at(NOW_MS as u64 / 1000));
    let (client, server) = (verify(Role::Client).map(drop), verify(Role::Server).map(drop));
    assert_eq!(client, server, "no rule here depends on the role");
    client
}

/// A leaf changed by `change` under sound CAs.
#[track_caller]
fn leaf(rule: &str, expected: Result<(), PeerError>, change: impl FnOnce(&mut CertificateParams)) {
    let forge = Forge::new("shop.example");
    assert_eq!(judged(&forge, &forge.chain(WEB, change)), expected, "{rule}");
}

/// A sound leaf under an issuing CA changed by `change`.
#[track_caller]
fn signer(rule: &str, expected: Result<(), PeerError>, change: impl FnOnce(&mut CertificateParams)) {
    let forge = Forge::with("shop.example", |_| (), change);
    assert_eq!(judged(&forge, &forge.chain(WEB, |_| ())), expected, "{rule}");
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[test]
fn section_2_one_spiffe_id() {
    leaf("§2 exactly one URI name", GOOD, |_| ());
    leaf("§2 DNS and e-mail names beside it", GOOD, |p| {
        p.subject_alt_names.push(dns("web.shop.example"));
        p.subject_alt_names.push(SanType::Rfc822Name("web@shop.example".try_into().unwrap()));
    });
    leaf("§2 no URI name", Err(NotSpiffe), |p| p.subject_alt_names = vec![dns("web.shop.example")]);
    leaf("§2 two SPIFFE ids", Err(NotSpiffe), |p| p.subject_alt_names.push(uri("spiffe://shop.example/ns/shop/sa/a")));
    leaf("§2 the same SPIFFE id twice", Err(NotSpiffe), |p| p.subject_alt_names.push(uri(WEB)));
    leaf("§2 a second URI of another scheme", Err(NotSpiffe), |p| p.subject_alt_names.push(uri("https://a.example")));
}

#[test]
fn section_2_the_id_is_a_spiffe_id() {
    let long = format!("spiffe://shop.example/ns/shop/sa/{}", "a".repeat(2048));
    for bad in [
        "https://shop.example/ns/shop/sa/web",
        "SPIFFE://shop.example/ns/shop/sa/web",
        "spiffe:shop.example/ns/shop/sa/web",
        "spiffe:///ns/shop/sa/web",
        "spiffe://shop.example:443/ns/shop/sa/web",
        "spiffe://web@shop.example/ns/shop/sa/web",
        "spiffe://Shop.example/ns/shop/sa/web",
        "spiffe://shop%2eexample/ns/shop/sa/web",
        "spiffe://shop.example/ns/shop/sa/web?x=1",
        "spiffe://shop.example/ns/shop/sa/web#x",
        "spiffe://shop.example/ns/shop/sa/web/",
        "spiffe://shop.example/ns//sa/web",
        "spiffe://shop.example/ns/../sa/web",
        "spiffe://shop.example/ns/./sa/web",
        "spiffe://shop.example/ns/shop/sa/we%62",
        &long,
    ] {
        leaf(&format!("SPIFFE-ID §2 {bad}"), Err(NotSpiffe), |p| p.subject_alt_names = vec![uri(bad)]);
    }
    // Valid SPIFFE ids that no workload of this mesh can have.
    for foreign in ["spiffe://shop.example/web", "spiffe://shop.example/ns/shop/sa/Web"] {
        leaf(&format!("stricter: {foreign}"), Err(NotSpiffe), |p| p.subject_alt_names = vec![uri(foreign)]);
    }
    leaf("another trust domain", Err(WrongTrustDomain), |p| {
        p.subject_alt_names = vec![uri("spiffe://bank.example/ns/shop/sa/web")];
    });
}

#[test]
fn section_3_1_a_leaf_has_a_path() {
    leaf("§3.1 the bare trust domain", Err(NotSpiffe), |p| p.subject_alt_names = vec![uri("spiffe://shop.example")]);
    leaf("§3.1 the root path", Err(NotSpiffe), |p| p.subject_alt_names = vec![uri("spiffe://shop.example/")]);
}

#[test]
fn section_3_2_a_signing_certificate_has_none() {
    signer("§3.2 the trust domain alone", GOOD, |p| p.subject_alt_names = vec![uri("spiffe://shop.example")]);
    signer("§3.2 no SPIFFE id, as a company's CA", GOOD, |p| p.subject_alt_names.clear());
    signer("§3.2 a URI that is no SPIFFE id", GOOD, |p| p.subject_alt_names = vec![uri("https://pki.example")]);
    let path = |p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://shop.example/ns/shop/sa/web")];
    signer("§3.2 with a path", Err(UntrustedRoot), path);
    signer("§3.2 two SPIFFE ids", Err(UntrustedRoot), |p| {
        p.subject_alt_names = vec![uri("spiffe://shop.example"), uri("spiffe://bank.example")];
    });
    let root = Forge::with("shop.example", path, |_| ()).root;
    assert_eq!(TrustBundle::from_ders([root]).err(), Some(BundleError::NotACa(1)), "§3.2 a root with a path");
}

#[test]
fn section_4_1_basic_constraints() {
    leaf("§4.1 cA false", GOOD, |p| p.is_ca = IsCa::ExplicitNoCa);
    leaf("§4.1 absent in a leaf", GOOD, |p| p.is_ca = IsCa::NoCa);
    leaf("§4.1 cA true in a leaf", Err(CaAsLeaf), |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    signer("§4.1 pathLenConstraint in a signer", GOOD, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    signer("§4.1 none in a signer", GOOD, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    signer("§4.1 cA false in a signer", Err(UntrustedRoot), |p| p.is_ca = IsCa::ExplicitNoCa);
    signer("§4.1 absent in a signer", Err(UntrustedRoot), |p| p.is_ca = IsCa::NoCa);
}

#[test]
fn section_4_2_name_constraints_are_honoured() {
    let permit = |name: &'static str| {
        move |p: &mut CertificateParams| {
            let permitted_subtrees = vec![GeneralSubtree::DnsName(name.to_owned())];
            p.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
        }
    };
    signer("§4.2 a constraint on names that the leaf does not have", GOOD, permit("shop.example"));
    for (name, expected) in [("web.shop.example", GOOD), ("web.bank.example", Err(UntrustedRoot))] {
        let forge = Forge::with("shop.example", |_| (), permit("shop.example"));
        let chain = forge.chain(WEB, |p| p.subject_alt_names.push(dns(name)));
        assert_eq!(judged(&forge, &chain), expected, "§4.2 {name}");
    }
}

#[test]
fn section_4_3_key_usage() {
    use KeyUsagePurpose::*;
    leaf("§4.3 digitalSignature", GOOD, |p| p.key_usages = vec![DigitalSignature]);
    leaf("§4.3 with keyEncipherment", GOOD, |p| p.key_usages = vec![DigitalSignature, KeyEncipherment]);
    leaf("§4.3 with keyAgreement", GOOD, |p| p.key_usages = vec![DigitalSignature, KeyAgreement]);
    leaf("§4.3 absent", Err(BadKeyUsage), |p| p.key_usages.clear());
    leaf("§4.3 without digitalSignature", Err(BadKeyUsage), |p| p.key_usages = vec![KeyAgreement]);
    leaf("§4.3 keyCertSign in a leaf", Err(BadKeyUsage), |p| p.key_usages = vec![DigitalSignature, KeyCertSign]);
    leaf("§4.3 cRLSign in a leaf", Err(BadKeyUsage), |p| p.key_usages = vec![DigitalSignature, CrlSign]);
    // BIT STRING, digitalSignature.
    let extension = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
    leaf("§4.3 not critical", Err(BadKeyUsage), |p| {
        p.key_usages.clear();
        p.custom_extensions.push(extension);
    });
    signer("§4.3 keyCertSign alone in a signer", GOOD, |p| p.key_usages = vec![KeyCertSign]);
    signer("§4.3 without keyCertSign", Err(UntrustedRoot), |p| p.key_usages = vec![CrlSign, DigitalSignature]);
    signer("§4.3 absent in a signer", Err(UntrustedRoot), |p| p.key_usages.clear());
}

#[test]
fn section_4_4_extended_key_usage() {
    use ExtendedKeyUsagePurpose::*;
    leaf("§4.4 serverAuth and clientAuth", GOOD, |p| p.extended_key_usages = vec![ServerAuth, ClientAuth]);
    leaf("§4.4 more beside them", GOOD, |p| p.extended_key_usages = vec![ServerAuth, ClientAuth, CodeSigning]);
    leaf("stricter: §4.4 absent", Err(BadKeyUsage), |p| p.extended_key_usages.clear());
    leaf("§4.4 neither of them", Err(BadKeyUsage), |p| p.extended_key_usages = vec![CodeSigning]);
    leaf("anyExtendedKeyUsage stands for neither", Err(BadKeyUsage), |p| p.extended_key_usages = vec![Any]);
}
