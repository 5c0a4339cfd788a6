//! apply(diff(old, new)) == new, whatever the two views are, and nothing is sent twice.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A view over a few keys, each absent, denied, or with one of a few bodies.
fn views() -> impl Strategy<Value = View> {
    let body = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    proptest::collection::btree_map(0u8..6, body, 0..6).prop_map(|map| {
        let entry = |(n, body): (u8, Option<u32>)| {
            let key = ResourceKey::Address([10, 0, 0, n].into());
            let resource = |body: u32| {
                let address = wire::Address { ip: body.to_string(), target: None };
                Arc::new(Told::from(wire::Resource {
                    key: Some(key.clone().into()),
                    requires: Vec::new(),
                    body: Some(wire::resource::Body::Address(address)),
                }))
            };
            let resource = body.map(resource);
            (key, resource)
        };
        map.into_iter().map(entry).collect()
    })
}

/// What a proxy holds: only what exists.
fn held(view: &View) -> BTreeMap<ResourceKey, Arc<Told>> {
    view.iter().filter_map(|(key, resource)| Some((key.clone(), resource.cloned()?))).collect()
}

proptest! {
    #[test]
    fn a_diff_applied_to_the_old_view_gives_the_new_one(old in views(), new in views()) {
        let (upserts, removals) = diff(&old, &new);
        let mut proxy = held(&old);
        for key in &removals {
            proxy.remove(key);
        }
        for resource in &upserts {
            let key = ResourceKey::try_from(resource.key.clone().unwrap()).unwrap();
            proxy.insert(key, resource.clone());
        }
        prop_assert_eq!(proxy, held(&new));
        prop_assert!(upserts.iter().all(|r| !held(&old).values().any(|known| known == r)));
    }

    #[test]
    fn a_view_against_itself_sends_nothing(view in views()) {
        prop_assert_eq!(diff(&view, &view.clone()), (Vec::new(), Vec::new()));
    }

    #[test]
    fn every_new_question_gets_an_answer(old in views(), new in views()) {
        let (upserts, removals) = diff(&old, &new);
        let upserts: BTreeSet<_> = upserts.iter().map(|r| ResourceKey::try_from(r.key.clone().unwrap()).unwrap()).collect();
        prop_assert!(new.keys_beyond(&old).eq(new.keys().filter(|key| !old.has(key))));
        for key in new.keys_beyond(&old) {
            prop_assert!(upserts.contains(key) || removals.contains(key));
        }
    }
}
