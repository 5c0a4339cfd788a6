//! Two trust domains that believe each other, as far as they were told to.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::mesh_test::{Forge, HOUR, Handshake, Mesh};
use crate::*;

const ALPN: &[&[u8]] = &[b"isthmus/1"];

fn client(store: &Arc<IdentityStore>, expected: &SpiffeId) -> Arc<ClientConfig> {
    store.client_config(ALPN, ExpectedPeer::AnyOf(vec![expected.clone()]))
}

fn believe(store: &Arc<IdentityStore>, name: &str, bundle: TrustBundle) {
    store.set_others([(TrustDomain::parse(name).unwrap(), bundle)].into());
}

#[test]
fn two_meshes_talk_once_each_believes_the_other_and_not_before() {
    let (shop, bank) = (Mesh::new("shop.example"), Mesh::new("bank.example"));
    let (web, vault) = (shop.store("web"), bank.store("vault"));
    let run = || Handshake::run(client(&web, &bank.id("vault")), vault.server_config(ALPN, ClientAuth::Required));
    assert_eq!(run().reasons().0, Some(PeerError::WrongTrustDomain));
    believe(&web, "bank.example", bank.ca.bundle());
    assert_eq!(run().reasons().1, Some(PeerError::WrongTrustDomain));
    believe(&vault, "shop.example", shop.ca.bundle());
    let done = run();
    done.assert_ok();
    let peer = peer_identity(done.server.peer_certificates().unwrap()).unwrap();
    assert_eq!(peer.id.as_str(), "spiffe://shop.example/ns/shop/sa/web");
    // Taken back, it is over.
    web.set_others(Federation::new());
    assert_eq!(run().reasons().0, Some(PeerError::WrongTrustDomain));
}

#[test]
fn anothers_root_speaks_for_its_own_identities_alone() {
    let (shop, bank) = (Mesh::new("shop.example"), Mesh::new("bank.example"));
    let web = shop.store("web");
    believe(&web, "bank.example", bank.ca.bundle());
    let judge = |chain: &[rustls_pki_types::CertificateDer<'_>], id: &SpiffeId| {
        let held = web.held();
        let found = verify::verify_among(chain, &held, web.trust_domain(), verify::Role::Client, web.now());
        found.map(|peer| assert_eq!(peer.id, *id))
    };
    // Bank's CA makes whatever it likes: the root that counts is that of the name.
    let forge = Forge::new("bank.example");
    let ours = forge.chain("spiffe://shop.example/ns/shop/sa/web", |_| ());
    believe(&web, "bank.example", forge.bundle());
    assert_eq!(judge(&ours, &shop.id("web")), Err(PeerError::UntrustedRoot));
    let theirs = forge.chain("spiffe://bank.example/ns/shop/sa/vault", |_| ());
    assert_eq!(judge(&theirs, &bank.id("vault")), Ok(()));
    let third = forge.chain("spiffe://third.example/ns/shop/sa/vault", |_| ());
    assert_eq!(judge(&third, &bank.id("vault")), Err(PeerError::WrongTrustDomain));
    // Our own root does not speak for theirs either.
    let chain = shop.ca.bundle();
    believe(&web, "bank.example", chain);
    assert_eq!(judge(&theirs, &bank.id("vault")), Err(PeerError::UntrustedRoot));
    // And whatever runs another mesh is nobody here.
    believe(&web, "bank.example", forge.bundle());
    let control = forge.chain("spiffe://bank.example/ns/isthmus-system/sa/control", |_| ());
    assert_eq!(judge(&control, &bank.id("vault")), Err(PeerError::WrongIdentity));
}

#[test]
fn our_own_trust_domain_is_never_among_the_others() {
    let (shop, forge) = (Mesh::new("shop.example"), Forge::new("shop.example"));
    let web = shop.store("web");
    believe(&web, "shop.example", forge.bundle());
    assert!(web.others().is_empty());
    let chain = forge.chain("spiffe://shop.example/ns/shop/sa/orders", |_| ());
    let found = verify::verify_among(&chain, &web.held(), web.trust_domain(), verify::Role::Client, web.now());
    assert_eq!(found.map(drop), Err(PeerError::UntrustedRoot));
}

#[test]
fn a_profile_fixes_groups_and_ciphers_from_the_next_handshake_on() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let server = orders.server_configs(ALPN, ClientAuth::Required, false);
    let agreed = || {
        let done = Handshake::run(client(&web, &mesh.id("orders")), server.now());
        done.assert_ok();
        Negotiated::of(&done.server)
    };
    assert_eq!(agreed().to_string(), "TLS 1.3, X25519MLKEM768, TLS_AES_256_GCM_SHA384");
    orders.set_profile(CryptoProfile::Fips);
    // The other end has not heard yet: what both know is used.
    assert_eq!(agreed().group, "secp256r1");
    web.set_profile(CryptoProfile::Fips);
    assert_eq!(agreed().to_string(), "TLS 1.3, secp256r1, TLS_AES_256_GCM_SHA384");
    let fips = CryptoProfile::Fips.provider();
    let groups: Vec<_> = fips.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect();
    assert_eq!(groups, ["secp256r1", "secp384r1"]);
    assert!(fips.cipher_suites.iter().all(|suite| format!("{:?}", suite.suite()).contains("_GCM_")));
    assert!(CryptoProfile::Fips.in_words().starts_with("crypto profile fips (fips module: "));
    assert!(mesh.identity(&mesh.id("web"), HOUR).not_after > web.now());
}
