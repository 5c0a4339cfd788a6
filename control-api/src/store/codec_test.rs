//! A copied store is useless without what wraps its key, and no value can take another's place.

use super::*;
use crate::store::{Change, EmbeddedStore, Put, Store};
use crate::validate::ResourceRef;
use serde_json::json;

const SECRET: &str = "a-value-that-nobody-else-has";

fn filled(codec: Codec, path: &std::path::Path) -> EmbeddedStore {
    let store = EmbeddedStore::open_with(path, codec).unwrap();
    let json = json!({ "n": SECRET });
    let puts = vec![Put { key: ResourceRef::new("Site", "", "a"), json, origin: "api".to_string() }];
    store.commit(0, &Change { puts, ..Change::default() }).unwrap();
    assert!(store.swap_fact("f", None, Some(&json!(SECRET))).unwrap());
    store
}

fn holds(path: &std::path::Path, text: &str) -> bool {
    std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_copied_file_opens_with_its_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy, plain) = (dir.path().join("a"), dir.path().join("copy"), dir.path().join("plain"));
    let right = || Codec::encrypted(Wrap::cheap("correct horse battery"));
    let dump = filled(right(), &path).dump().unwrap();
    drop(filled(Codec::default(), &plain));
    std::fs::copy(&path, &copy).unwrap();
    assert!(!holds(&copy, SECRET) && holds(&plain, SECRET));
    let refused = |path, codec| EmbeddedStore::open_with(path, codec).unwrap_err().to_string();
    assert!(refused(&copy, Codec::default()).contains("store.encryption"));
    assert!(refused(&copy, Codec::encrypted(Wrap::cheap("something else"))).contains("locked"));
    assert!(refused(&plain, right()).contains("isthmus store migrate"));
    assert_eq!(EmbeddedStore::open_with(&copy, right()).unwrap().dump().unwrap(), dump);
}

#[test]
fn a_key_that_is_wrapped_anew_opens_with_the_new_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let (former, new) = (Wrap::cheap("correct horse battery"), Wrap::cheap("another good one"));
    let dump = filled(Codec::encrypted(former.clone()), &path).dump().unwrap();
    assert!(EmbeddedStore::rewrap(&path, &new, &former).is_err(), "with the wrong former one");
    EmbeddedStore::rewrap(&path, &former, &new).unwrap();
    assert!(EmbeddedStore::open_with(&path, Codec::encrypted(former)).is_err());
    assert_eq!(EmbeddedStore::open_with(&path, Codec::encrypted(new)).unwrap().dump().unwrap(), dump);
}

#[test]
fn a_value_is_good_at_its_place_and_unchanged_alone() {
    let codec = Codec::encrypted(Wrap::cheap("correct horse battery"));
    codec.unlock(None, true).unwrap().unwrap();
    let bytes = codec.write("t/one", &json!({ "state": "Used" })).unwrap();
    assert_eq!(codec.read::<serde_json::Value>("t/one", &bytes).unwrap(), json!({ "state": "Used" }));
    assert!(codec.read::<serde_json::Value>("t/two", &bytes).is_err(), "moved to another name");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(codec.read::<serde_json::Value>("t/one", &changed).is_err(), "byte {at}");
    }
    assert!(codec.read::<serde_json::Value>("t/one", b"{}").is_err(), "a plain value was put in");
    assert_ne!(codec.write("t/one", &json!(1)).unwrap(), codec.write("t/one", &json!(1)).unwrap());
}
