//! Two control planes on one store come to the same.

use super::*;
use crate::index::Trust;
use crate::ledger::{Outcome, Proposal};
use crate::store::{MemoryStore, Store};
use crate::validate;
use isthmus_certs::{ManualClock, TrustDomain};

const SITE: &str = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: { name: NAME }\n\
                    spec: { ranges: [10.N.0.0/16] }\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: NAME, namespace: shop }\n\
                       spec: { selector: { app: x }, ports: [{ port: 80 }] }\n";
const MESH: &str = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: mesh }\n\
                    spec: { trustDomain: shop.example, vipRanges: [100.64.0.0/16] }\n";

fn ledger(store: &Arc<MemoryStore>) -> Ledger {
    let trust = Trust {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        roots_der: Vec::new(),
        revocations: Default::default(),
        issuing: Default::default(),
    };
    Ledger::open(store.clone(), trust, Arc::new(ManualClock::at_ms(0))).unwrap()
}

fn apply(ledger: &Ledger, text: &str) -> Result<Outcome, StoreError> {
    let (puts, problems) = validate::parse("t", text);
    assert!(problems.is_empty(), "{problems:?}");
    let outcome = ledger.propose(&Proposal { puts, ..Proposal::default() }, false)?;
    assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
    Ok(outcome)
}

fn site(n: u8) -> String {
    SITE.replace("NAME", &format!("s{n}")).replace('N', &n.to_string())
}

fn same(one: &Ledger, other: &Ledger) {
    let (a, b) = (one.world(), other.world());
    assert_eq!((a.revision, &a.meta, &a.mesh), (b.revision, &b.meta, &b.mesh));
    let all = |world: &World| world.resources.values().map(|resource| resource.json.clone()).collect::<Vec<_>>();
    assert_eq!((all(&a), a.vips.given()), (all(&b), b.vips.given()));
    let services: Vec<_> = a.resources.of_kind("Service", None).map(|service| service.key.clone()).collect();
    assert_eq!(a.vips.given().len(), services.len(), "each has an address");
    services.iter().for_each(|key| assert_eq!(a.index.service(key), b.index.service(key)));
}

#[test]
fn what_one_commits_is_in_force_at_the_other() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ledger(&store), ledger(&store));
    apply(&one, MESH).unwrap();
    apply(&one, &site(1)).unwrap();
    apply(&one, &SERVICE.replace("NAME", "orders")).unwrap();
    other.catch_up(Duration::ZERO).unwrap();
    same(&one, &other);
    let deletes = vec![ResourceRef::new("Site", "", "s1"), ResourceRef::new("Service", "shop", "orders")];
    other.propose(&Proposal { deletes, ..Proposal::default() }, false).unwrap();
    one.catch_up(Duration::ZERO).unwrap();
    same(&one, &other);
    same(&one, &ledger(&store));
}

#[test]
fn who_missed_too_much_reads_everything_and_comes_to_the_same() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ledger(&store), ledger(&store));
    apply(&other, MESH).unwrap();
    apply(&other, &SERVICE.replace("NAME", "gone")).unwrap();
    one.catch_up(Duration::ZERO).unwrap();
    one.propose(&Proposal { deletes: vec![ResourceRef::new("Service", "shop", "gone")], ..Proposal::default() }, false)
        .unwrap();
    for n in 0..=255 {
        apply(&one, &site(n)).unwrap();
    }
    apply(&one, &SERVICE.replace("NAME", "late")).unwrap();
    assert_eq!(store.since(other.world().revision, Duration::ZERO).unwrap(), Since::Resync);
    other.catch_up(Duration::ZERO).unwrap();
    same(&one, &other);
}

#[test]
fn roots_and_revocations_are_read_again_where_another_one_changed_them() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (ledger(&store), ledger(&store));
    other.read_trust_by(Box::new(|trust| Ok(Trust { roots_der: vec![vec![7]], ..trust.clone() })));
    apply(&one, &site(1)).unwrap();
    other.catch_up(Duration::ZERO).unwrap();
    assert!(other.trust().roots_der.is_empty());
    one.retrust(|trust| trust.roots_der = vec![vec![7]]).unwrap();
    other.catch_up(Duration::ZERO).unwrap();
    assert_eq!(other.trust().roots_der, [[7]]);
    assert_eq!(other.world().revision, 2);
}
