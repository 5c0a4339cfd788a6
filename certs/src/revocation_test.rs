use std::sync::Arc;

use super::*;
use crate::mesh_test::{HOUR, Handshake, Mesh, NOW_MS};
use crate::{ClientAuth, ExpectedPeer, IdentityStore, PeerError, peer_identity};

const NOW: u64 = NOW_MS as u64 / 1000;

fn handshake(client: &Arc<IdentityStore>, server: &Arc<IdentityStore>, expected: &SpiffeId) -> Handshake {
    let client = client.client_config(&[b"h2"], ExpectedPeer::AnyOf(vec![expected.clone()]));
    Handshake::run(client, server.server_config(&[b"h2"], ClientAuth::Required))
}

fn by_serial(serial: Serial, epoch: u64) -> Revocations {
    Revocations { epoch, serials: [serial].into(), ..Revocations::default() }
}

#[test]
fn an_identity_is_out_up_to_its_moment_and_in_after_it() {
    let mesh = Mesh::new("shop.example");
    let web = mesh.id("web");
    let before = peer_identity(&mesh.identity(&web, HOUR).chain).unwrap();
    let revoked = Revocations { epoch: 1, identities: [(web.clone(), NOW)].into(), ..Revocations::default() };
    assert!(revoked.cover(&before), "issued in the very second");
    mesh.clock.advance(std::time::Duration::from_secs(1));
    let after = peer_identity(&mesh.identity(&web, HOUR).chain).unwrap();
    assert!(!revoked.cover(&after));
    let other = peer_identity(&mesh.identity(&mesh.id("orders"), HOUR).chain).unwrap();
    assert!(!revoked.cover(&other));
}

#[test]
fn a_revoked_peer_is_refused_in_the_handshake_on_either_side() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    handshake(&web, &orders, &mesh.id("orders")).assert_ok();
    assert!(orders.revoke(by_serial(web.current().unwrap().serial, 7)));
    let refused = handshake(&web, &orders, &mesh.id("orders"));
    assert_eq!(refused.reasons(), (Some(PeerError::RevokedByPeer), Some(PeerError::Revoked)));
    let refused = handshake(&orders, &web, &mesh.id("web"));
    assert_eq!(refused.reasons().0, Some(PeerError::Revoked));
    // A new certificate of the same identity is another one.
    web.replace(mesh.identity(&mesh.id("web"), HOUR)).unwrap();
    handshake(&web, &orders, &mesh.id("orders")).assert_ok();
}

#[test]
fn revocations_never_roll_back() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let serial = web.current().unwrap().serial;
    assert!(orders.revoke(by_serial(serial, 7)));
    assert!(!orders.revoke(Revocations { epoch: 6, ..Revocations::default() }), "an older control plane");
    assert!(!orders.revoke(Revocations::default()), "one that knows nothing");
    assert_eq!(orders.revocations().epoch, 7);
    assert!(!handshake(&web, &orders, &mesh.id("orders")).ok());
    // The same or a later epoch may leave out what has ended meanwhile.
    assert!(orders.revoke(Revocations { epoch: 7, ..Revocations::default() }));
}

#[test]
fn who_subscribes_is_told() {
    let mesh = Mesh::new("shop.example");
    let orders = mesh.store("orders");
    let (send, told) = std::sync::mpsc::channel();
    let _subscription = orders.subscribe(move |generation| send.send(generation).unwrap());
    orders.revoke(by_serial(orders.current().unwrap().serial, 1));
    assert_eq!(told.try_recv(), Ok(orders.generation()));
}

#[test]
fn a_set_is_known_again_by_its_signature_and_only_unchanged() {
    let (mesh, other) = (Mesh::new("shop.example"), Mesh::new("shop.example"));
    let domain = crate::TrustDomain::parse("shop.example").unwrap();
    let control = mesh.identity(&SpiffeId::control_plane(&domain), HOUR);
    let now = mesh.store("web").now();
    let serial = Serial::from_bytes(&[7, 1]).unwrap();
    let set = Revocations { identities: [(mesh.id("web"), NOW)].into(), ..by_serial(serial, 5) };
    assert_eq!(set.signed_at(&mesh.ca.bundle(), &domain), None, "not signed");
    let signed = set.clone().signed(&control, now);
    assert_eq!(signed.signed_at(&mesh.ca.bundle(), &domain), Some(now));
    assert_eq!(signed.signed_at(&other.ca.bundle(), &domain), None, "of another mesh");
    let by_workload = set.clone().signed(&mesh.identity(&mesh.id("web"), HOUR), now);
    assert_eq!(by_workload.signed_at(&mesh.ca.bundle(), &domain), None, "a workload's word");
    let changes: [fn(&mut Revocations); 6] = [
        |set| set.epoch += 1,
        |set| set.serials.clear(),
        |set| set.serials.extend(Serial::from_bytes(&[8])),
        |set| set.identities.clear(),
        |set| set.identities.values_mut().for_each(|until| *until += 1),
        |set| set.proof.as_mut().unwrap().signed_unix_s -= 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = signed.clone();
        change(&mut changed);
        assert_eq!(changed.signed_at(&mesh.ca.bundle(), &domain), None, "change {number}");
    }
}

#[test]
fn of_two_sets_both_hold_and_what_nobody_signed_has_no_proof() {
    let mesh = Mesh::new("shop.example");
    let domain = crate::TrustDomain::parse("shop.example").unwrap();
    let control = mesh.identity(&SpiffeId::control_plane(&domain), HOUR);
    let serial = |byte| Serial::from_bytes(&[byte]).unwrap();
    let held = Revocations { identities: [(mesh.id("web"), 10)].into(), ..by_serial(serial(1), 9) };
    let held = held.signed(&control, mesh.store("web").now());
    let told = Revocations { identities: [(mesh.id("web"), 5)].into(), ..by_serial(serial(2), 3) };
    let both = held.and(&told);
    assert_eq!((both.epoch, both.serials.len(), both.identities[&mesh.id("web")]), (9, 2, 10));
    assert_eq!(both.proof, None);
    assert_eq!(held.and(&by_serial(serial(1), 3)), held);
}
