use super::*;
use crate::store::MemoryStore;
use serde_json::json;

fn less(before: Value, after: Value) -> Vec<String> {
    denies_less(Some(&json!({ "spec": before })), (!after.is_null()).then(|| json!({ "spec": after })).as_ref())
}

#[test]
fn a_deny_that_goes_moves_or_is_only_recorded_is_less_and_everything_else_is_not() {
    let both = json!({ "services": ["a"], "deny": [{ "to": { "ports": [1] } }, {}], "allow": [{}] });
    let with = |field: &str, value: Value| {
        let mut spec = both.clone();
        spec[field] = value;
        spec
    };
    assert_eq!(less(both.clone(), both.clone()), [""; 0]);
    assert_eq!(less(both.clone(), with("allow", json!([]))), [""; 0]);
    assert_eq!(less(both.clone(), with("deny", json!([{}, { "to": { "ports": [1] } }, { "from": {} }]))), [""; 0]);
    assert_eq!(less(both.clone(), with("deny", json!([{}]))), ["spec.deny[0] goes"]);
    assert_eq!(less(both.clone(), Value::Null), ["spec.deny[0] goes", "spec.deny[1] goes"]);
    assert_eq!(less(both.clone(), with("services", json!(["b"]))), ["spec.services of its deny rules changes"]);
    assert_eq!(less(both.clone(), with("mode", json!("Audit"))), ["its deny rules are only recorded"]);
    assert_eq!(less(with("mode", json!("Audit")), both.clone()), [""; 0], "and back is more");
    assert_eq!(less(json!({ "default": "Deny" }), json!({})), ["spec.default is Deny no longer"]);
    let mesh = |action: &str| json!({ "defaults": { "action": action } });
    assert_eq!(less(mesh("Deny"), mesh("Allow")), ["spec.defaults.action is Deny no longer"]);
    assert_eq!(less(mesh("Allow"), mesh("Deny")), [""; 0]);
}

#[test]
fn permissive_is_found_wherever_it_is_said() {
    let spec = json!({ "spec": { "transport": "Permissive", "allow": [{ "hosts": ["Permissive.example"] }, { "transport": "Permissive" }] } });
    let found: Vec<String> = permissive(&spec).into_iter().collect();
    assert_eq!(found, ["spec.allow[1].transport", "spec.transport"]);
    assert!(permissive(&json!(null)).is_empty());
}

fn role(name: &str) -> (ResourceRef, Value) {
    (ResourceRef::new("OperatorRole", "", name), json!({ "spec": { "role": "admin", "operators": ["ann"] } }))
}

#[test]
fn only_what_is_asked_for_takes_two_and_a_yes_is_to_what_was_asked() {
    let (world, (key, json)) = (World::default(), role("r"));
    let (policy, open) =
        (ResourceRef::new("ServicePolicy", "shop", "p"), json!({ "spec": { "transport": "Permissive" } }));
    let changes = || [(&key, Some(&json)), (&policy, Some(&open))].into_iter();
    let of = |concerns: &[Concern]| reasons(&concerns.iter().copied().collect(), &world, changes());
    assert_eq!(of(&[]), [""; 0]);
    assert_eq!(of(&[Concern::Ca, Concern::DenyRemoval]), [""; 0], "nothing was denied before");
    assert_eq!(of(&[Concern::Roles]), ["OperatorRole r: who may do what"]);
    assert_eq!(of(&[Concern::Permissive]), ["ServicePolicy shop/p: spec.transport becomes Permissive"]);

    let put = |(key, json): (ResourceRef, Value)| crate::store::Put { key, json, origin: "api".to_string() };
    let change = Change { puts: vec![put(role("r")), put(role("s"))], ..Change::default() };
    let of: BTreeSet<Concern> = [Concern::Roles].into();
    let asked = ["OperatorRole r: who may do what".to_string()];
    let approved = Approved { author: "ann", by: "bob", reasons: &asked };
    let refused = gate(&of, &world, &change, Some(&approved)).unwrap_err();
    assert_eq!(refused.to_string(), "this takes a second operator: OperatorRole s: who may do what");
    let both = ["OperatorRole r: who may do what".to_string(), "OperatorRole s: who may do what".to_string()];
    gate(&of, &world, &change, Some(&Approved { reasons: &both, ..approved })).unwrap();
    assert_eq!(approved.in_words("apply"), "apply, approved by bob");
}

fn pending(id: &str, until_unix_ms: i64) -> Pending {
    Pending {
        id: id.to_string(),
        author: "ann".to_string(),
        asked_unix_ms: 5,
        until_unix_ms,
        what: "apply".to_string(),
        reasons: vec!["ServicePolicy shop/orders: spec.deny[0] goes".to_string()],
        keys: vec![("ServicePolicy".to_string(), "shop".to_string(), "orders".to_string())],
        call: Call::Apply,
        request: "00ff".to_string(),
    }
}

#[test]
fn what_waits_is_taken_once_and_not_after_its_time() {
    let store = MemoryStore::default();
    let (short, long) = (pending("a", 10), pending("b", 20));
    keep(&store, &short).unwrap().unwrap();
    keep(&store, &long).unwrap().unwrap();
    assert_eq!(all(&store, 9).unwrap(), [short.clone(), long.clone()]);
    assert_eq!(all(&store, 10).unwrap(), std::slice::from_ref(&long));
    assert!(take(&store, &long).unwrap());
    assert!(!take(&store, &long).unwrap(), "of two at once one is first");
    put_back(&store, &long).unwrap();
    assert_eq!(sweep(&store, 10).unwrap(), 1);
    assert_eq!(all(&store, 0).unwrap(), [long]);
}

#[test]
fn neither_too_many_wait_nor_too_large_ones() {
    let store = MemoryStore::default();
    let large = Pending { request: "0".repeat(MOST_BYTES + 1), ..pending("large", 10) };
    assert!(keep(&store, &large).unwrap().unwrap_err().contains("split it"));
    for number in 0..MOST {
        keep(&store, &pending(&number.to_string(), 10)).unwrap().unwrap();
    }
    assert!(keep(&store, &pending("one more", 10)).unwrap().unwrap_err().contains("isthmus approve"));
}
