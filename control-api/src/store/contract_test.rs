//! What every store holds, run against each of them.

use super::*;
use isthmus_world::apps::Etcd;
use serde_json::json;
use std::sync::Arc;

fn each_store(check: impl Fn(&dyn Store)) {
    each_pair(|store, _| check(store));
}

/// With two ends of each store: of one that is not shared they are the same.
fn each_pair(check: impl Fn(&dyn Store, &dyn Store)) {
    let memory = MemoryStore::new();
    check(&memory, &memory);
    let dir = tempfile::tempdir().unwrap();
    let embedded = EmbeddedStore::open(&dir.path().join("store.redb")).unwrap();
    check(&embedded, &embedded);
    let codec = || Codec::encrypted(Wrap::cheap("correct horse battery"));
    let encrypted = EmbeddedStore::open_with(&dir.path().join("encrypted.redb"), codec()).unwrap();
    check(&encrypted, &encrypted);
    if isthmus_world::find::or_skip(&["etcd"], "the contract of stores, for etcd").is_some() {
        let etcd = Etcd::start(1).unwrap();
        check(&open_etcd(&etcd, "", Codec::default()), &open_etcd(&etcd, "", Codec::default()));
        check(&open_etcd(&etcd, "/sealed/", codec()), &open_etcd(&etcd, "/sealed/", codec()));
    }
}

fn open_etcd(etcd: &Etcd, prefix: &str, codec: Codec) -> EtcdStore {
    let options = EtcdOptions { endpoints: etcd.endpoints(), prefix: prefix.to_string(), ..EtcdOptions::default() };
    EtcdStore::open(options, codec).unwrap()
}

fn put(name: &str, value: u32) -> Put {
    Put { key: ResourceRef::new("Site", "", name), json: json!({ "n": value }), origin: "api".to_string() }
}

fn token(id: &str, state: TokenState) -> TokenRecord {
    TokenRecord {
        id: id.to_string(),
        secret_sha256: [7; 32],
        workload: "shop/web".to_string(),
        spiffe_id: "spiffe://a/ns/shop/sa/web".to_string(),
        created_unix_ms: 1,
        expires_unix_ms: 2,
        state,
    }
}

#[test]
fn a_commit_is_one_step_with_one_revision() {
    each_store(|store| {
        let change = Change { puts: vec![put("a", 1), put("b", 2)], ..Change::default() };
        assert_eq!(store.commit(0, &change).unwrap(), 1);
        let change =
            Change { puts: vec![put("c", 3)], deletes: vec![ResourceRef::new("Site", "", "a")], ..Change::default() };
        assert_eq!(store.commit(1, &change).unwrap(), 2);
        let contents = store.load().unwrap();
        let names: Vec<_> = contents.resources.iter().map(|(k, r)| (k.name.as_str(), r.revision)).collect();
        assert_eq!((contents.revision, names), (2, vec![("b", 1), ("c", 2)]));
    });
}

#[test]
fn a_change_computed_from_another_revision_changes_nothing() {
    each_store(|store| {
        let change = Change { puts: vec![put("a", 1)], ..Change::default() };
        store.commit(0, &change).unwrap();
        let before = store.load().unwrap();
        for stale in [0, 2, 99] {
            let refused = store.commit(stale, &Change { puts: vec![put("z", 9)], ..Change::default() });
            assert!(matches!(refused, Err(StoreError::Conflict { now: 1, .. })), "{refused:?}");
        }
        assert_eq!(store.load().unwrap(), before);
    });
}

#[test]
fn vips_are_kept_until_given_back() {
    each_store(|store| {
        let key = ResourceRef::new("Service", "shop", "orders");
        let vips = vec!["10.96.0.1".parse().unwrap()];
        let given = |vips| Change { vips: [(key.clone(), vips)].into(), ..Change::default() };
        store.commit(0, &given(vips.clone())).unwrap();
        assert_eq!(store.load().unwrap().vips.get(&key), Some(&vips));
        store.commit(1, &given(Vec::new())).unwrap();
        assert_eq!(store.load().unwrap().vips.get(&key), None);
    });
}

#[test]
fn a_token_changes_only_from_what_was_seen() {
    each_store(|store| {
        let unused = token("t", TokenState::Unused);
        let used = token("t", TokenState::Used { key_sha256: [1; 32], at_unix_ms: 5 });
        let other = token("t", TokenState::Used { key_sha256: [2; 32], at_unix_ms: 5 });
        assert!(store.swap_token("t", None, Some(&unused)).unwrap());
        assert!(!store.swap_token("t", None, Some(&unused)).unwrap(), "an id is never given twice");
        assert!(store.swap_token("t", Some(&unused), Some(&used)).unwrap());
        assert!(!store.swap_token("t", Some(&unused), Some(&other)).unwrap(), "the second to use it loses");
        assert_eq!(store.token("t").unwrap(), Some(used.clone()));
        assert_eq!(store.tokens().unwrap(), vec![used.clone()]);
        assert!(store.swap_token("t", Some(&used), None).unwrap());
        assert_eq!(store.token("t").unwrap(), None);
    });
}

#[test]
fn a_fact_changes_only_from_what_was_seen() {
    each_store(|store| {
        let (first, second) = (json!({ "n": 1 }), json!({ "n": 2 }));
        assert!(store.swap_fact("revoked/a", None, Some(&first)).unwrap());
        assert!(!store.swap_fact("revoked/a", None, Some(&second)).unwrap());
        assert!(store.swap_fact("revoked/b", None, Some(&second)).unwrap());
        assert!(store.swap_fact("revokee", None, Some(&second)).unwrap());
        let names: Vec<_> = store.facts("revoked/").unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["revoked/a", "revoked/b"]);
        assert!(store.swap_fact("revoked/a", Some(&first), Some(&second)).unwrap());
        assert_eq!(store.fact("revoked/a").unwrap(), Some(second.clone()));
        assert!(store.swap_fact("revoked/a", Some(&second), None).unwrap());
        assert_eq!(store.fact("revoked/a").unwrap(), None);
    });
}

#[test]
fn facts_of_a_change_come_and_go_with_it() {
    each_store(|store| {
        let facts = |n: u32, gone: &str| -> BTreeMap<String, Option<Value>> {
            [("past/a".to_string(), Some(json!({ "n": n }))), (gone.to_string(), None)].into()
        };
        store.swap_fact("past/b", None, Some(&json!({}))).unwrap();
        store.commit(0, &Change { puts: vec![put("a", 1)], facts: facts(1, "past/b"), ..Change::default() }).unwrap();
        assert_eq!(store.facts("past/").unwrap(), [("past/a".to_string(), json!({ "n": 1 }))]);
        let stale = Change { facts: facts(2, "past/c"), ..Change::default() };
        assert!(matches!(store.commit(0, &stale), Err(StoreError::Conflict { .. })));
        assert_eq!(store.fact("past/a").unwrap(), Some(json!({ "n": 1 })), "what was refused wrote no fact either");
        let gone = [("past/a".to_string(), None)].into();
        store.commit(1, &Change { facts: gone, ..Change::default() }).unwrap();
        assert_eq!(store.fact("past/a").unwrap(), None);
    });
}

const SOON: Duration = Duration::from_secs(10);

fn commits(store: &dyn Store, after: u64) -> Vec<Arc<Commit>> {
    match store.since(after, SOON).unwrap() {
        Since::Commits(commits) => commits,
        Since::Resync => panic!("resync"),
    }
}

#[test]
fn everybody_learns_of_a_commit_as_a_whole_and_in_order() {
    each_pair(|one, other| {
        assert_eq!(other.since(0, Duration::ZERO).unwrap(), Since::Commits(Vec::new()));
        let key = ResourceRef::new("Service", "shop", "orders");
        let change = Change {
            puts: vec![put("a", 1), put("b", 2)],
            vips: [(key.clone(), vec!["10.96.0.1".parse().unwrap()])].into(),
            facts: [("past/1".to_string(), Some(json!(1)))].into(),
            trust: true,
            ..Change::default()
        };
        one.commit(0, &change).unwrap();
        assert!(one.swap_fact("between", None, Some(&json!(1))).unwrap());
        let second = Change { deletes: vec![ResourceRef::new("Site", "", "a")], ..Change::default() };
        other.commit(1, &second).unwrap();
        let seen = commits(other, 0);
        assert_eq!(*seen[0], Commit::of(1, &change));
        let seen = if seen.len() > 1 { seen } else { [seen, commits(other, 1)].concat() };
        assert_eq!(*seen[1], Commit::of(2, &second));
        assert_eq!(commits(one, 1), seen[1..]);
    });
}

#[test]
fn who_is_too_far_behind_is_told_to_read_everything() {
    each_pair(|one, other| {
        for n in 0..300 {
            one.commit(n, &Change { puts: vec![put("a", 1)], ..Change::default() }).unwrap();
        }
        while other.since(299, SOON).unwrap() == Since::Commits(Vec::new()) {}
        assert_eq!(other.since(0, SOON).unwrap(), Since::Resync);
        assert_eq!(commits(other, 299).len(), 1);
    });
}

#[test]
fn a_commit_of_any_size_is_one_step() {
    each_pair(|one, other| {
        let site = |n: u32| Put { json: json!({ "n": n, "ballast": "x".repeat(900) }), ..put(&format!("s{n}"), n) };
        one.commit(0, &Change { puts: (0..100).map(site).collect(), ..Change::default() }).unwrap();
        let puts = (50..3000).map(site).collect();
        let deletes = (0..50).map(|n| ResourceRef::new("Site", "", &format!("s{n}"))).collect();
        let facts = [("past/2".to_string(), Some(json!(2)))].into();
        let change = Change { puts, deletes, facts, ..Change::default() };
        assert!(matches!(one.commit(0, &change), Err(StoreError::Conflict { now: 1, .. })));
        assert_eq!(one.commit(1, &change).unwrap(), 2);
        let contents = other.load().unwrap();
        assert_eq!((contents.revision, contents.resources.len()), (2, 2950));
        assert_eq!(other.fact("past/2").unwrap(), Some(json!(2)));
        match other.since(1, SOON).unwrap() {
            Since::Commits(commits) => assert_eq!(*commits[0], Commit::of(2, &change)),
            Since::Resync => {}
        }
        assert_eq!(other.commit(2, &Change { puts: vec![put("s0", 0)], ..Change::default() }).unwrap(), 3);
        assert_eq!(one.load().unwrap().resources.len(), 2951);
    });
}

#[test]
fn of_two_who_write_at_once_each_writes_on_what_it_has_seen() {
    each_pair(|one, other| {
        let write = |store: &dyn Store, name: &str| {
            for n in 0..20 {
                loop {
                    let after = store.load().unwrap().revision;
                    match store.commit(after, &Change { puts: vec![put(name, n)], ..Change::default() }) {
                        Ok(revision) => break assert_eq!(revision, after + 1),
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| write(one, "a"));
            scope.spawn(|| write(other, "b"));
        });
        let contents = one.load().unwrap();
        let last: Vec<_> = contents.resources.values().map(|stored| stored.json["n"].clone()).collect();
        assert_eq!((contents.revision, last), (40, vec![json!(19), json!(19)]));
    });
}

/// Something of everything.
fn filled(store: &dyn Store) {
    let key = ResourceRef::new("Service", "shop", "orders");
    let change = Change {
        puts: (0..150).map(|n| put(&format!("s{n}"), n)).collect(),
        vips: [(key, vec!["10.96.0.1".parse().unwrap()])].into(),
        facts: [("past/1".to_string(), Some(json!(1)))].into(),
        ..Change::default()
    };
    store.commit(0, &change).unwrap();
    store.commit(1, &Change { puts: vec![put("s1", 7)], ..Change::default() }).unwrap();
    store.swap_token("t", None, Some(&token("t", TokenState::Unused))).unwrap();
    store.swap_fact("revoked/a", None, Some(&json!({ "epoch": 3 }))).unwrap();
}

#[test]
fn what_one_store_held_another_takes_over_whole_and_never_twice() {
    each_store(|from| {
        filled(from);
        let dump = from.dump().unwrap();
        assert_eq!((dump.revision, dump.resources.len(), dump.tokens.len(), dump.facts.len()), (2, 150, 1, 2));
        each_pair(|to, other| {
            to.fill(&dump).unwrap();
            assert_eq!(to.dump().unwrap(), dump);
            assert_eq!(other.load().unwrap(), from.load().unwrap());
            assert!(matches!(to.fill(&dump), Err(StoreError::NotEmpty { revision: 2 })));
            assert_eq!(other.commit(2, &Change::default()).unwrap(), 3);
            assert_eq!(commits(to, 2).len(), 1);
        });
    });
}

#[test]
fn an_embedded_store_holds_what_it_held_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let before = {
        let store = EmbeddedStore::open(&path).unwrap();
        store.commit(0, &Change { puts: vec![put("a", 1)], ..Change::default() }).unwrap();
        store.load().unwrap()
    };
    assert_eq!(EmbeddedStore::open(&path).unwrap().load().unwrap(), before);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
