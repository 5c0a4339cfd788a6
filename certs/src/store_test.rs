use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::mesh_test::{HOUR, Mesh};

#[test]
fn replacing_counts_and_tells() {
    let mesh = Mesh::new("shop.example");
    let store = mesh.empty_store();
    assert!(store.current().is_none() && store.bundle().is_empty() && store.generation() == 0);
    let seen = Arc::new(AtomicU64::new(0));
    let sink = seen.clone();
    let subscription = store.subscribe(move |generation| sink.store(generation, Ordering::SeqCst));

    assert_eq!(store.replace(mesh.identity(&mesh.id("web"), HOUR)).unwrap(), 1);
    let first = store.current().unwrap();
    assert_eq!((first.generation, store.generation(), seen.load(Ordering::SeqCst)), (1, 1, 1));
    assert_eq!(store.bundle(), mesh.ca.bundle());

    assert_eq!(store.replace(mesh.identity(&mesh.id("web"), HOUR)).unwrap(), 2);
    assert_ne!(store.current().unwrap().serial, first.serial);
    assert_eq!(store.set_bundle(TrustBundle::empty()), 3);
    assert_eq!((store.current().unwrap().generation, seen.load(Ordering::SeqCst)), (2, 3));

    drop(subscription);
    store.set_bundle(mesh.ca.bundle());
    assert_eq!((store.generation(), seen.load(Ordering::SeqCst)), (4, 3));
}

#[test]
fn a_store_never_becomes_somebody_else() {
    let mesh = Mesh::new("shop.example");
    let store = mesh.store("web");
    let refused = store.replace(mesh.identity(&mesh.id("admin"), HOUR)).unwrap_err();
    assert!(matches!(refused, IdentityError::OtherIdentity { .. }), "{refused}");
    let other = Mesh::new("other.example");
    let refused = store.replace(other.identity(&other.id("web"), HOUR)).unwrap_err();
    assert!(matches!(refused, IdentityError::Certificate(PeerError::WrongTrustDomain)), "{refused}");
    assert_eq!((store.current().unwrap().id.clone(), store.generation()), (mesh.id("web"), 1));
}

#[test]
fn a_hook_that_panics_does_not_break_the_store() {
    let mesh = Mesh::new("shop.example");
    let store = mesh.store("web");
    let subscription = store.subscribe(|_| panic!("on purpose"));
    let replace = || store.set_bundle(mesh.ca.bundle());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(replace)).is_err());
    drop(subscription);
    assert_eq!(store.set_bundle(mesh.ca.bundle()), 3);
}

#[test]
fn debug_shows_no_key() {
    let shown = format!("{:?}", Mesh::new("shop.example").store("web"));
    assert!(shown.contains("[redacted]") && shown.contains("generation: 1"));
}
