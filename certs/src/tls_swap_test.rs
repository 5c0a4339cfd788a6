//! What is replaced while it is in use.

use super::tls_test::{ALPN, any_of, call};
use super::*;
use crate::mesh_test::{HOUR, Handshake, Mesh};
use crate::peer_identity;

#[test]
fn a_new_certificate_is_shown_at_the_next_handshake_and_old_connections_live() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let client = web.client_config(ALPN, any_of(&[&mesh.id("orders")]));
    let server = orders.server_config(ALPN, ClientAuth::Required);
    let serials = |done: &Handshake| {
        let serial = |certs: Option<&[CertificateDer<'_>]>| peer_identity(certs.unwrap()).unwrap().serial;
        (serial(done.server.peer_certificates()), serial(done.client.peer_certificates()))
    };
    let mut first = Handshake::run(client.clone(), server.clone());
    first.assert_ok();
    let old = serials(&first);

    web.replace(mesh.identity(&mesh.id("web"), HOUR)).unwrap();
    orders.replace(mesh.identity(&mesh.id("orders"), HOUR)).unwrap();
    let second = Handshake::run(client, server);
    second.assert_ok();
    let new = serials(&second);
    assert!(old.0 != new.0 && old.1 != new.1);
    assert_eq!(new.0, web.current().unwrap().serial);

    use std::io::{Read as _, Write as _};
    first.client.writer().write_all(b"still here").unwrap();
    let mut wire = Vec::new();
    first.client.write_tls(&mut wire).unwrap();
    first.server.read_tls(&mut &wire[..]).unwrap();
    first.server.process_new_packets().unwrap();
    let mut read = [0; 10];
    first.server.reader().read_exact(&mut read).unwrap();
    assert_eq!(&read, b"still here");
}

#[test]
fn a_root_taken_out_of_the_bundle_is_refused_at_the_next_handshake() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    call(&web, &orders, any_of(&[&mesh.id("orders")])).assert_ok();
    orders.set_bundle(Mesh::new("shop.example").ca.bundle());
    let refused = call(&web, &orders, any_of(&[&mesh.id("orders")]));
    assert_eq!(refused.reasons(), (Some(PeerError::RefusedByPeer), Some(PeerError::UntrustedRoot)));
}

#[test]
fn no_handshake_fails_while_certificates_are_replaced() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.store("web"), mesh.store("orders"));
    let client = web.client_config(ALPN, any_of(&[&mesh.id("orders")]));
    let server = orders.server_config(ALPN, ClientAuth::Required);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        let rotating = threads.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                web.replace(mesh.identity(&mesh.id("web"), HOUR)).unwrap();
                orders.replace(mesh.identity(&mesh.id("orders"), HOUR)).unwrap();
            }
        });
        let mut generations = std::collections::HashSet::new();
        while generations.len() < 20 {
            Handshake::run(client.clone(), server.clone()).assert_ok();
            generations.insert(web.generation());
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        rotating.join().unwrap();
    });
}
