use super::*;
use crate::identity::register::Register;
use isthmus_certs::{PeerIdentity, Serial, SpiffeId};
use rustls::pki_types::UnixTime;
use std::time::Duration;

const OLD: &str = "0ld";

fn seen(carried_by: u64) -> Seen {
    Seen { now_ms: 0, carried_by, holdings: Vec::new(), proxies: BTreeMap::new(), tokens: Vec::new() }
}

fn holding(workload: &str, root: &str) -> Holding {
    let register = Register::default();
    let event = Event {
        what: What::Enrolled,
        who: format!("spiffe://shop.example/ns/{}", workload.replace('/', "/sa/")),
        workload: workload.to_string(),
        serial: "a1".to_string(),
        root: root.to_string(),
        not_after_unix_s: 86_400,
        ..Event::default()
    };
    register.note(0, &event);
    register.live(0).remove(0)
}

fn peer() -> PeerIdentity {
    let at = UnixTime::since_unix_epoch(Duration::ZERO);
    let id = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").unwrap();
    PeerIdentity { id, serial: Serial::from_bytes(&[1]).unwrap(), not_before: at, not_after: at }
}

#[test]
fn whoever_has_not_acknowledged_the_new_root_is_named() {
    let registry = Registry::default();
    let peer = peer();
    let seats: Vec<_> = ["shop/web", "shop/db", "shop/jobs"].map(|name| registry.arrive(name, "test", &peer, 0)).into();
    for seat in &seats {
        seat.sent(7, 7, crate::index::View::default());
    }
    seats[0].acked(7, 1);
    seats[1].acked(6, 1);
    let mut seen = seen(7);
    seen.holdings = ["shop/web", "shop/db", "shop/jobs", "shop/gone"].map(|name| holding(name, OLD)).into();
    seen.proxies = registry.list().into_iter().map(|proxy| (proxy.workload.clone(), proxy)).collect();
    let named = without_the_new_root(&seen);
    assert_eq!(
        named,
        [
            "shop/db: connected, has not acknowledged it yet, certificate until 1970-01-02T00:00:00Z",
            "shop/gone: offline since this control plane started, certificate until 1970-01-02T00:00:00Z",
            "shop/jobs: connected, has not acknowledged it yet, certificate until 1970-01-02T00:00:00Z",
        ]
    );
    seats[1].nacked(7, "mesh: unknown feature".to_string(), 1);
    drop(seats);
    seen.proxies = registry.list().into_iter().map(|proxy| (proxy.workload.clone(), proxy)).collect();
    let named = without_the_new_root(&seen);
    assert!(named[0].starts_with("shop/db: refused the push: mesh: unknown feature"), "{named:?}");
    assert!(named[2].starts_with("shop/jobs: offline, last seen 1970-01-01T00:00:00Z"), "{named:?}");
}

#[test]
fn whoever_hangs_on_the_old_root_is_named_and_the_control_plane_is_not() {
    let mut seen = seen(7);
    seen.holdings = vec![holding("shop/web", OLD), holding("shop/db", "new")];
    let mut control = holding("x/y", OLD);
    control.who = "spiffe://shop.example/ns/isthmus-system/sa/control".to_string();
    control.workload = String::new();
    seen.holdings.push(control);
    let token = |id: &str, state| TokenRecord {
        id: id.to_string(),
        secret_sha256: [0; 32],
        workload: "shop/new".to_string(),
        spiffe_id: String::new(),
        created_unix_ms: 0,
        expires_unix_ms: 60_000,
        state,
    };
    seen.tokens = vec![token("7f", TokenState::Unused), token("8f", TokenState::Revoked)];
    assert_eq!(
        on_the_old_root(&seen, OLD),
        [
            "join token 7f for shop/new: names the old root, good until 1970-01-01T00:01:00Z",
            "shop/web: certificate of the old root until 1970-01-02T00:00:00Z",
        ]
    );
    seen.now_ms = 60_000;
    seen.holdings.remove(0);
    assert_eq!(on_the_old_root(&seen, OLD), Vec::<String>::new());
}
