use super::*;
use proptest::prelude::*;

#[test]
fn only_what_differs_is_said_with_its_place() {
    let before = json!({ "spec": { "allow": [{ "from": "web" }, { "from": "batch" }], "mode": "Audit", "old": 1 } });
    let after = json!({ "spec": { "allow": [{ "from": "web" }, { "from": "cron" }], "mode": "Audit", "new": [1] } });
    let found = changed("ServicePolicy shop/orders", Some(&before), Some(&after)).unwrap();
    assert_eq!(found.how, "updated");
    let said: Vec<_> = found.fields.iter().map(|f| (f.path.as_str(), f.from.clone(), f.to.clone())).collect();
    assert_eq!(
        said,
        [
            ("spec.allow[1].from", json!("batch"), json!("cron")),
            ("spec.old", json!(1), Value::Null),
            ("spec.new", Value::Null, json!([1])),
        ]
    );
    assert_eq!(changed("x", Some(&before), Some(&before)), None);
    let whole = changed("x", None, Some(&before)).unwrap();
    assert_eq!((whole.how.as_str(), &whole.fields[0].to), ("created", &before));
    assert_eq!(changed("x", Some(&before), None).unwrap().how, "deleted");
}

#[test]
fn a_value_too_large_for_a_line_is_named_by_its_hash() {
    let large = json!("x".repeat(100_000));
    let found = changed("x", None, Some(&large)).unwrap();
    assert_eq!(found.fields[0].to["bytes"], 100_002);
    assert_eq!(found.fields[0].to["sha256"].as_str().unwrap().len(), 64);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), "[a-z]{0,3000}".prop_map(Value::from)];
    leaf.prop_recursive(3, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// No change of a resource passes unsaid, no line grows too long, and nothing is lost in packing.
    #[test]
    fn every_difference_is_on_some_line(pairs in proptest::collection::vec((value(), value()), 1..6)) {
        let changes: Vec<_> = pairs.iter().enumerate().filter_map(|(i, (a, b))| changed(&format!("K n/{i}"), Some(a), Some(b))).collect();
        // A field that is absent and one that is null say the same in YAML.
        let differ = pairs.iter().filter(|(a, b)| strip(a) != strip(b)).count();
        prop_assert_eq!(changes.len(), differ);
        let fields: usize = changes.iter().map(|change| change.fields.len()).sum();
        let lines = lines(changes);
        prop_assert_eq!(lines.iter().flatten().map(|change| change.fields.len()).sum::<usize>(), fields);
        for line in &lines {
            prop_assert!(serde_json::to_string(line).unwrap().len() < 48 << 10);
        }
    }
}

fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), strip(v)));
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
        other => other.clone(),
    }
}
