//! What every store holds, run against each of them.

use super::*;
use serde_json::json;

fn each_store(check: impl Fn(&dyn Store)) {
    check(&MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    check(&EmbeddedStore::open(&dir.path().join("store.redb")).unwrap());
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
