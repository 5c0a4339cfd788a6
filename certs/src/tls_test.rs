use std::time::Duration;

use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};

use super::*;
use crate::mesh_test::{Forge, HOUR, Handshake, Mesh, td};
use crate::{PrivateKey, TrustBundle, WorkloadIdentity, peer_identity};

pub(super) const ALPN: &[&[u8]] = &[b"isthmus/1", b"h2"];

pub(super) fn any_of(ids: &[&SpiffeId]) -> ExpectedPeer {
    ExpectedPeer::AnyOf(ids.iter().map(|id| (*id).clone()).collect())
}

/// web calls orders, both of this mesh, orders' certificate required.
pub(super) fn call(client: &Arc<IdentityStore>, server: &Arc<IdentityStore>, expected: ExpectedPeer) -> Handshake {
    Handshake::run(client.client_config(ALPN, expected), server.server_config(ALPN, ClientAuth::Required))
}

/// A store that holds what `forge` made, valid or not.
fn forged(forge: &Forge, account: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Arc<IdentityStore> {
    let key = PrivateKey::generate().unwrap();
    let uri = format!("spiffe://shop.example/ns/shop/sa/{account}");
    let chain = forge.chain_for(key.public(), &uri, change);
    let mesh = Mesh::new("shop.example");
    let store = mesh.empty_store();
    // The store checks what it is given, at a time of its own choosing; here, when this certificate is good.
    let (from, to) = crate::leaf::validity(&crate::leaf::parse(&chain[0]).unwrap()).unwrap();
    // Nobody shows what has ended by its own clock: who shows it has another one.
    if !(from..=to).contains(&store.now()) {
        mesh.clock.set_ms(from.as_secs() as i64 * 1000 + 1000);
    }
    store.replace(WorkloadIdentity::new(chain, key, forge.bundle(), from).unwrap()).unwrap();
    store
}

#[test]
fn both_ends_learn_who_the_other_is() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let done = call(&web, &orders, any_of(&[&mesh.id("other"), &mesh.id("orders")]));
    done.assert_ok();
    assert_eq!(peer_identity(done.server.peer_certificates().unwrap()).unwrap().id, mesh.id("web"));
    assert_eq!(peer_identity(done.client.peer_certificates().unwrap()).unwrap().id, mesh.id("orders"));
    assert_eq!(done.client.alpn_protocol(), Some(&b"isthmus/1"[..]));
    for (version, group, kind) in [
        (done.client.protocol_version(), done.client.negotiated_key_exchange_group(), done.client.handshake_kind()),
        (done.server.protocol_version(), done.server.negotiated_key_exchange_group(), done.server.handshake_kind()),
    ] {
        assert_eq!(version, Some(ProtocolVersion::TLSv1_3));
        assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(kind, Some(HandshakeKind::Full));
    }
}

#[test]
fn a_peer_without_the_hybrid_exchange_is_served_too() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let mut classic = (*provider()).clone();
    classic.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let client = ClientConfig::builder_with_details(classic.into(), Arc::new(TlsClock(web.clock().clone())))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CheckServer {
            store: web.clone(),
            expected: any_of(&[&mesh.id("orders")]),
        }))
        .with_client_cert_resolver(Arc::new(OwnCertificate { store: web, with_root: false }));
    let done = Handshake::run(Arc::new(client), orders.server_config(&[], ClientAuth::Required));
    done.assert_ok();
    assert_eq!(done.server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
}

#[test]
fn alpn_falls_back_and_refuses() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let run = |offer: &[&[u8]]| {
        Handshake::run(
            web.client_config(offer, any_of(&[&mesh.id("orders")])),
            orders.server_config(ALPN, ClientAuth::Required),
        )
    };
    let h2 = run(&[b"h2"]);
    h2.assert_ok();
    assert_eq!(h2.server.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(run(&[b"isthmus/99"]).reasons(), (Some(PeerError::NoCommonProtocol), Some(PeerError::NoCommonProtocol)));
}

#[test]
fn no_handshake_is_resumed() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let client = web.client_config(ALPN, any_of(&[&mesh.id("orders")]));
    let server = orders.server_config(ALPN, ClientAuth::Required);
    for _ in 0..2 {
        let done = Handshake::run(client.clone(), server.clone());
        done.assert_ok();
        assert_eq!(done.server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn the_wrong_peer_is_refused() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let wrong = call(&web, &orders, any_of(&[&mesh.id("batch")]));
    assert_eq!(wrong.reasons(), (Some(PeerError::WrongIdentity), Some(PeerError::RefusedByPeer)));
    let nobody = call(&web, &orders, any_of(&[]));
    assert_eq!(nobody.reasons().0, Some(PeerError::WrongIdentity));
}

#[test]
fn another_mesh_is_refused_both_ways() {
    let (shop, other) = (Mesh::new("shop.example"), Mesh::new("other.example"));
    let (web, orders) = (shop.store("web"), other.store("orders"));
    let refused = call(&web, &orders, any_of(&[&other.id("orders")]));
    assert_eq!(refused.reasons(), (Some(PeerError::WrongTrustDomain), Some(PeerError::RefusedByPeer)));

    // A client that trusts the other mesh, so that the server is the one to refuse.
    let lenient = other.empty_store();
    lenient.set_bundle(other.ca.bundle());
    let config = lenient.client_config(ALPN, any_of(&[&other.id("orders")]));
    let mut config = Arc::unwrap_or_clone(config);
    config.client_auth_cert_resolver = Arc::new(OwnCertificate { store: web, with_root: false });
    let refused = Handshake::run(Arc::new(config), orders.server_config(ALPN, ClientAuth::Required));
    assert_eq!(refused.reasons(), (Some(PeerError::RefusedByPeer), Some(PeerError::WrongTrustDomain)));
}

#[test]
fn the_same_name_under_another_root_is_refused_both_ways() {
    let (ours, theirs) = (Mesh::new("shop.example"), Mesh::new("shop.example"));
    let (web, orders) = (ours.store("web"), theirs.store("orders"));
    let refused = call(&web, &orders, any_of(&[&ours.id("orders")]));
    assert_eq!(refused.reasons(), (Some(PeerError::UntrustedRoot), Some(PeerError::RefusedByPeer)));
    web.set_bundle(TrustBundle::from_ders([theirs.ca.root()]).unwrap());
    let refused = call(&web, &orders, any_of(&[&ours.id("orders")]));
    assert_eq!(refused.reasons(), (Some(PeerError::RefusedByPeer), Some(PeerError::UntrustedRoot)));
}

#[test]
fn an_ended_or_future_certificate_is_refused_both_ways() {
    let forge = Forge::new("shop.example");
    // Less than the day by which the authorities are backdated.
    let most_of_a_day = 20 * HOUR;
    let orders_id = td_id("orders");
    for (moved, reason) in [(false, PeerError::Expired), (true, PeerError::NotYetValid)] {
        let shift = |p: &mut rcgen::CertificateParams| {
            if moved {
                (p.not_before, p.not_after) = (p.not_before + most_of_a_day, p.not_after + most_of_a_day);
            } else {
                (p.not_before, p.not_after) = (p.not_before - most_of_a_day, p.not_after - most_of_a_day);
            }
        };
        let wide = |p: &mut rcgen::CertificateParams| {
            (p.not_before, p.not_after) = (p.not_before - most_of_a_day, p.not_after + most_of_a_day);
        };
        let good = forged(&forge, "web", |_| ());
        let bad = forged(&forge, "orders", shift);
        let refused = call(&good, &bad, any_of(&[&orders_id]));
        assert_eq!(refused.reasons(), (Some(reason), Some(PeerError::DatesRefusedByPeer)));
        let refused = call(&forged(&forge, "web", shift), &forged(&forge, "orders", wide), any_of(&[&orders_id]));
        assert_eq!(refused.reasons(), (Some(PeerError::DatesRefusedByPeer), Some(reason)));
    }
}

fn td_id(account: &str) -> SpiffeId {
    SpiffeId::workload(&td("shop.example"), "shop", account).unwrap()
}

#[test]
fn a_two_second_leaf_works_until_its_end() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.empty_store(), mesh.store("orders"));
    web.replace(mesh.identity(&mesh.id("web"), Duration::from_secs(2))).unwrap();
    let run = || call(&web, &orders, any_of(&[&mesh.id("orders")]));
    run().assert_ok();
    mesh.clock.advance(Duration::from_millis(2999));
    run().assert_ok();
    mesh.clock.advance(Duration::from_millis(1));
    // Ended: it is not even shown, and both ends know why.
    assert_eq!(run().reasons(), (Some(PeerError::OwnDates), Some(PeerError::PeerWithoutCertificate)));
    let callee = call(&orders, &web, any_of(&[&mesh.id("web")])).reasons();
    assert_eq!(callee, (Some(PeerError::PeerWithoutCertificate), Some(PeerError::NoIdentity)));
    assert_eq!(web.own_fault(PeerError::NoIdentity), PeerError::OwnDates);
    assert_eq!(mesh.empty_store().own_fault(PeerError::NoIdentity), PeerError::NoIdentity);
    web.replace(mesh.identity(&mesh.id("web"), Duration::from_secs(2))).unwrap();
    run().assert_ok();
}

#[test]
fn no_certificate_is_refused_where_required_and_seen_where_optional() {
    let mesh = Mesh::new("shop.example");
    let (newcomer, control) = (mesh.empty_store(), mesh.store("control"));
    newcomer.set_bundle(mesh.ca.bundle());
    let client = newcomer.client_config(ALPN, any_of(&[&mesh.id("control")]));
    let refused = Handshake::run(client.clone(), control.server_config(ALPN, ClientAuth::Required));
    assert_eq!(refused.reasons(), (Some(PeerError::RefusedByPeer), Some(PeerError::NoCertificate)));
    let taken = Handshake::run(client, control.server_config(ALPN, ClientAuth::Optional));
    taken.assert_ok();
    assert!(taken.server.peer_certificates().is_none());
    // Renew comes with one, on the same port.
    let web = mesh.store("web").client_config(ALPN, any_of(&[&mesh.id("control")]));
    let renews = Handshake::run(web, control.server_config(ALPN, ClientAuth::Optional));
    renews.assert_ok();
    assert_eq!(peer_identity(renews.server.peer_certificates().unwrap()).unwrap().id, mesh.id("web"));
    // Optional is no excuse for a bad one.
    let foreign = Mesh::new("other.example");
    let mut config = Arc::unwrap_or_clone(newcomer.client_config(ALPN, any_of(&[&mesh.id("control")])));
    config.client_auth_cert_resolver = Arc::new(OwnCertificate { store: foreign.store("web"), with_root: false });
    let refused = Handshake::run(Arc::new(config), control.server_config(ALPN, ClientAuth::Optional));
    assert_eq!(refused.reasons().1, Some(PeerError::WrongTrustDomain));
}

#[test]
fn a_server_without_identity_answers_nobody() {
    let mesh = Mesh::new("shop.example");
    let (web, empty) = (mesh.store("web"), mesh.empty_store());
    let refused = call(&web, &empty, any_of(&[&mesh.id("orders")]));
    assert_eq!(refused.reasons(), (Some(PeerError::PeerWithoutCertificate), Some(PeerError::NoIdentity)));
}

#[test]
fn tls_1_2_is_refused_both_ways() {
    let mesh = Mesh::new("shop.example");
    let store = mesh.store("web");
    let old = [&rustls::version::TLS12];
    let provider12 = rustls::crypto::aws_lc_rs::default_provider();
    let client = ClientConfig::builder_with_provider(provider12.clone().into())
        .with_protocol_versions(&old)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CheckServer {
            store: store.clone(),
            expected: any_of(&[&mesh.id("web")]),
        }))
        .with_no_client_auth();
    let refused = Handshake::run(Arc::new(client), store.server_config(&[], ClientAuth::Optional));
    assert_eq!(refused.reasons(), (Some(PeerError::Incompatible), Some(PeerError::Incompatible)));

    let server = ServerConfig::builder_with_provider(provider12.into())
        .with_protocol_versions(&old)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OwnCertificate { store: store.clone(), with_root: false }));
    let refused = Handshake::run(store.client_config(&[], any_of(&[&mesh.id("web")])), Arc::new(server));
    assert_eq!(refused.reasons(), (Some(PeerError::Incompatible), Some(PeerError::Incompatible)));
}

#[test]
fn first_contact_needs_the_pinned_root() {
    let mesh = Mesh::new("shop.example");
    let id = SpiffeId::control_plane(mesh.ca.trust_domain());
    let control = mesh.empty_store();
    control.replace(mesh.identity(&id, HOUR)).unwrap();
    let newcomer = mesh.empty_store();
    let pin = mesh.ca.bundle().fingerprints()[0];
    let good = newcomer.client_config(ALPN, ExpectedPeer::PinnedRoot(pin, id.clone()));
    let with_root = control.server_config_with_root(ALPN, ClientAuth::Optional);

    let done = Handshake::run(good.clone(), with_root.clone());
    done.assert_ok();
    assert!(done.server.peer_certificates().is_none());
    assert_eq!(done.client.peer_certificates().unwrap().len(), 3);
    let bare = Handshake::run(good.clone(), control.server_config(ALPN, ClientAuth::Optional));
    assert_eq!(bare.reasons(), (Some(PeerError::UntrustedRoot), Some(PeerError::RefusedByPeer)));

    let other_pin = Mesh::new("shop.example").ca.bundle().fingerprints()[0];
    let other = newcomer.client_config(ALPN, ExpectedPeer::PinnedRoot(other_pin, id.clone()));
    assert_eq!(Handshake::run(other, with_root).reasons().0, Some(PeerError::UntrustedRoot));

    // A workload of the mesh that poses as the control plane.
    let orders = mesh.store("orders").server_config_with_root(ALPN, ClientAuth::Optional);
    assert_eq!(Handshake::run(good, orders).reasons().0, Some(PeerError::WrongIdentity));
}

#[test]
fn a_stolen_certificate_without_its_key_is_refused() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let stolen = orders.current().unwrap().chain.clone();
    #[derive(Debug)]
    struct Thief(Arc<CertifiedKey>);
    impl ResolvesServerCert for Thief {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }
    }
    let thief = Thief(Arc::new(CertifiedKey::new(stolen, Arc::new(PrivateKey::generate().unwrap()))));
    let mut config = Arc::unwrap_or_clone(orders.server_config(ALPN, ClientAuth::Required));
    config.cert_resolver = Arc::new(thief);
    let refused = Handshake::run(web.client_config(ALPN, any_of(&[&mesh.id("orders")])), Arc::new(config));
    assert_eq!(refused.reasons().0, Some(PeerError::BadSignature));
}
