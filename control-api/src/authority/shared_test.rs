//! Two control planes on one store have one CA, and one rotation.

use super::*;
use crate::authority::Authorities;
use crate::store::MemoryStore;
use isthmus_certs::vault::PlainVault;
use isthmus_certs::{ManualClock, TrustDomain};
use std::sync::Arc;

fn authorities(dir: &Path) -> Authorities {
    let domain = TrustDomain::parse("shop.example").unwrap();
    Authorities::load(dir, &domain, Arc::new(PlainVault), Arc::new(ManualClock::at_ms(1_800_000_000_000))).unwrap()
}

#[test]
fn the_second_takes_the_ca_of_the_first_and_follows_its_rotation() {
    let store = MemoryStore::new();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(!fetch(&store, one.path()).unwrap());
    let first = authorities(one.path());
    assert!(offer(&store, one.path()).unwrap());

    // At the same moment the second has made one of its own, in vain.
    let vain = authorities(other.path()).bundle();
    assert!(!offer(&store, other.path()).unwrap());
    put_aside(other.path()).unwrap();
    assert!(fetch(&store, other.path()).unwrap());
    let second = authorities(other.path());
    assert_eq!(second.bundle(), first.bundle());
    assert_ne!(second.bundle(), vain);

    first.start().unwrap();
    publish(&store, one.path()).unwrap();
    fetch(&store, other.path()).unwrap();
    second.reload().unwrap();
    assert_eq!((second.bundle(), second.bundle().roots().len()), (first.bundle(), 2));
    first.exchange().unwrap();
    publish(&store, one.path()).unwrap();
    fetch(&store, other.path()).unwrap();
    second.reload().unwrap();
    assert_eq!(second.active().root(), first.active().root());
    assert_eq!(authorities(other.path()).bundle(), first.bundle(), "after a restart as well");
}
