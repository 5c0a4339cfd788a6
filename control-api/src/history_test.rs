use super::*;
use crate::index::Trust;
use crate::ledger::{Ledger, Outcome};
use crate::store::{EmbeddedStore, MemoryStore};
use crate::validate::parse;
use isthmus_certs::{ManualClock, TrustDomain};
use proptest::prelude::*;
use std::sync::Arc;

fn ledger(store: Arc<dyn Store>, clock: &ManualClock, keep: Keep) -> Ledger {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let trust =
        Trust { trust_domain, roots_der: Vec::new(), revocations: Default::default(), issuing: Default::default() };
    Ledger::open(store, trust, Arc::new(clock.clone())).unwrap().keeping(keep)
}

fn memory() -> Ledger {
    ledger(Arc::new(MemoryStore::new()), &ManualClock::at_ms(1_000), Keep::default())
}

fn site(name: &str, range: u8) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: {{ name: {name} }}\nspec: {{ ranges: [10.{range}.0.0/16] }}\n---\n"
    )
}

fn put(ledger: &Ledger, who: &str, yaml: &str) -> Outcome {
    let (puts, problems) = parse("t.yaml", yaml);
    assert_eq!(problems, []);
    let outcome =
        ledger.propose(&Proposal { puts, author: Author::new(who, "apply"), ..Proposal::default() }, false).unwrap();
    assert_eq!(outcome.problems, []);
    outcome
}

fn remove(ledger: &Ledger, name: &str) -> u64 {
    let deletes = vec![ResourceRef::new("Site", "", name)];
    let outcome = ledger.propose(&Proposal { deletes, ..Proposal::default() }, false).unwrap();
    assert_eq!(outcome.problems, []);
    outcome.revision
}

fn stored(ledger: &Ledger) -> BTreeMap<ResourceRef, Value> {
    ledger.world().resources.values().map(|r| (r.key.clone(), r.json.clone())).collect()
}

fn go_back(ledger: &Ledger, revision: u64, only: Option<&ResourceRef>) -> Result<u64, String> {
    let world = ledger.world();
    let proposal = way_back(&**ledger.store(), &world, revision, only).unwrap()?;
    let outcome = ledger.propose(&proposal, false).unwrap();
    assert_eq!(outcome.problems, []);
    Ok(outcome.revision)
}

#[test]
fn each_revision_tells_who_changed_what_from_what_to_what() {
    let ledger = memory();
    put(&ledger, "ann", &(site("a", 1) + &site("b", 2)));
    put(&ledger, "ben", &(site("a", 3) + &site("b", 2)));
    remove(&ledger, "a");
    let store = &**ledger.store();
    let heads = heads(store).unwrap();
    let told: Vec<_> = heads.iter().map(|h| (h.revision, h.who.as_str(), h.count, h.at_unix_ms)).collect();
    assert_eq!(told, [(1, "ann", 2, 1000), (2, "ben", 1, 1000), (3, "control plane", 1, 1000)]);
    assert_eq!(changed(store, 2, 10).unwrap(), [(ResourceRef::new("Site", "", "a"), Kind::Updated)]);
    let of_a = of(store, &ledger.world(), &ResourceRef::new("Site", "", "a")).unwrap();
    let range =
        |json: &Option<Value>| json.as_ref().map(|json| json["spec"]["ranges"][0].as_str().unwrap().to_string());
    let told: Vec<_> = of_a.iter().map(|(at, e)| (*at, e.kind, range(&e.before), range(&e.after))).collect();
    let (one, three) = (Some("10.1.0.0/16".to_string()), Some("10.3.0.0/16".to_string()));
    let expected = [
        (1, Kind::Created, None, one.clone()),
        (2, Kind::Updated, one, three.clone()),
        (3, Kind::Deleted, three, None),
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_changes_nothing_is_no_revision() {
    let ledger = memory();
    put(&ledger, "ann", &site("a", 1));
    put(&ledger, "ann", &site("a", 1));
    assert_eq!((ledger.world().revision, heads(&**ledger.store()).unwrap().len()), (1, 1));
}

#[test]
fn one_goes_back_to_an_earlier_revision_by_a_new_one() {
    let ledger = memory();
    put(&ledger, "ann", &(site("a", 1) + &site("b", 2)));
    let then = stored(&ledger);
    put(&ledger, "ann", &(site("a", 9) + &site("c", 3)));
    remove(&ledger, "b");
    assert_eq!(go_back(&ledger, 1, None), Ok(4));
    assert_eq!(stored(&ledger), then);
    assert_eq!(go_back(&ledger, 3, None), Ok(5), "and forward again, as that is a revision like any other");
    assert_eq!(stored(&ledger).len(), 2);
    let b = ResourceRef::new("Site", "", "b");
    assert_eq!(go_back(&ledger, 1, Some(&b)), Ok(6), "one alone");
    assert_eq!(stored(&ledger).len(), 3);
}

#[test]
fn what_is_not_kept_and_what_never_was_is_refused_in_words() {
    let clock = ManualClock::at_ms(1_000);
    let keep = Keep { revisions: 3, ..Keep::default() };
    let ledger = ledger(Arc::new(MemoryStore::new()), &clock, keep);
    for n in 1..=10 {
        put(&ledger, "ann", &site("a", n));
    }
    let store = &**ledger.store();
    let kept: Vec<u64> = heads(store).unwrap().iter().map(|head| head.revision).collect();
    assert_eq!(kept, [8, 9, 10]);
    let names = store.facts("").unwrap();
    assert_eq!(names.len(), 3 * 3 + 1, "nothing of a forgotten revision is left: {names:?}");
    assert_eq!(
        go_back(&ledger, 6, None),
        Err("revision 6 is not kept any more; one can go back to 7 or later".to_string())
    );
    assert!(go_back(&ledger, 11, None).unwrap_err().contains("the present one is 10"));
    assert!(go_back(&ledger, 9, Some(&ResourceRef::new("Site", "", "z"))).unwrap_err().contains("there is no Site z"));
    go_back(&ledger, 7, None).unwrap();
    assert_eq!(stored(&ledger).into_values().next().unwrap()["spec"]["ranges"][0], "10.7.0.0/16");
}

#[test]
fn what_is_too_old_goes_with_the_next_change() {
    let clock = ManualClock::at_ms(1_000);
    let keep = Keep { revisions: 16, age: Duration::from_secs(10) };
    let ledger = ledger(Arc::new(MemoryStore::new()), &clock, keep);
    put(&ledger, "ann", &site("a", 1));
    clock.advance(Duration::from_secs(11));
    put(&ledger, "ann", &site("a", 2));
    let kept: Vec<u64> = heads(&**ledger.store()).unwrap().iter().map(|head| head.revision).collect();
    assert_eq!(kept, [2]);
}

#[test]
fn history_is_on_disk_with_what_it_tells_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let clock = ManualClock::at_ms(1_000);
    {
        let ledger = ledger(Arc::new(EmbeddedStore::open(&path).unwrap()), &clock, Keep::default());
        put(&ledger, "ann", &site("a", 1));
        put(&ledger, "ann", &site("a", 2));
    }
    let ledger = ledger(Arc::new(EmbeddedStore::open(&path).unwrap()), &clock, Keep::default());
    assert_eq!(go_back(&ledger, 1, None), Ok(3));
    assert_eq!(heads(&**ledger.store()).unwrap().len(), 3);
}

#[test]
fn a_store_from_before_there_was_history_begins_with_what_it_holds() {
    let store = Arc::new(MemoryStore::new());
    let clock = ManualClock::at_ms(1_000);
    let key = ResourceRef::new("Site", "", "a");
    let json = parse("t", &site("a", 1)).0.remove(0).resource.json;
    let old = crate::store::Put { key, json, origin: "api".to_string() };
    store.commit(0, &Change { puts: vec![old], ..Change::default() }).unwrap();
    let ledger = ledger(store, &clock, Keep::default());
    put(&ledger, "ann", &site("a", 2));
    assert_eq!(go_back(&ledger, 1, None), Ok(3));
    assert_eq!(stored(&ledger).into_values().next().unwrap()["spec"]["ranges"][0], "10.1.0.0/16");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever was done, each revision that is kept can be had again, exactly.
    #[test]
    fn every_kept_revision_can_be_had_again(steps in prop::collection::vec((0u8..4, 0u8..6), 1..14), keep in 2usize..20) {
        let keep = Keep { revisions: keep, ..Keep::default() };
        let ledger = ledger(Arc::new(MemoryStore::new()), &ManualClock::at_ms(1), keep);
        let mut was = vec![(0, BTreeMap::new())];
        for (name, what) in steps {
            let name = format!("s{name}");
            let there = ledger.world().resources.contains_key(&ResourceRef::new("Site", "", &name));
            match (what, there) {
                (0, true) => drop(remove(&ledger, &name)),
                (0, false) => {}
                // Ranges must not overlap between sites.
                (n, _) => drop(put(&ledger, "x", &site(&name, (name.as_bytes()[1] - b'0') * 8 + n))),
            }
            was.push((ledger.world().revision, stored(&ledger)));
        }
        let floor = floor(&**ledger.store(), &ledger.world()).unwrap().max(1);
        for (revision, then) in was.into_iter().rev() {
            let back = go_back(&ledger, revision, None);
            prop_assert_eq!(back.is_ok(), revision >= floor, "{} {:?}", revision, back);
            if back.is_ok() {
                prop_assert_eq!(stored(&ledger), then);
            }
            // Going back is a change, and makes the oldest go.
            if history_moved(&ledger, floor) { break }
        }
    }
}

fn history_moved(ledger: &Ledger, floor: u64) -> bool {
    super::floor(&**ledger.store(), &ledger.world()).unwrap().max(1) != floor
}
