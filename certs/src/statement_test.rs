use super::*;
use crate::mesh_test::{HOUR, Mesh, NOW_MS, at};

const NOW: u64 = NOW_MS as u64 / 1000;

#[test]
fn a_statement_is_its_signers_of_its_time_and_unchanged() {
    let mesh = Mesh::new("shop.example");
    let (web, orders) = (mesh.id("web"), mesh.id("orders"));
    let signer = mesh.identity(&web, HOUR);
    let signature = sign(&signer, b"said").unwrap();
    let check = |text: &[u8], who, bundle, when| check((&signer.chain, &signature), text, who, bundle, at(when));
    let bundle = mesh.ca.bundle();
    assert_eq!(check(b"said", &web, &bundle, NOW), Ok(()));
    assert_eq!(check(b"sald", &web, &bundle, NOW), Err(PeerError::BadSignature));
    assert_eq!(check(b"said", &orders, &bundle, NOW), Err(PeerError::WrongIdentity));
    assert_eq!(check(b"said", &web, &bundle, NOW + 7200), Err(PeerError::Expired));
    assert_eq!(check(b"said", &web, &Mesh::new("shop.example").ca.bundle(), NOW), Err(PeerError::UntrustedRoot));
    assert_eq!(super::check((&[], &signature), b"said", &web, &bundle, at(NOW)), Err(PeerError::NoCertificate));
}
