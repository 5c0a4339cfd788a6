//! Paths and their templates.

use proptest::prelude::*;

use super::*;

fn template(path: &str) -> String {
    let mut templates = Templates::default();
    let id = templates.of(path);
    templates.text(id)
}

#[test]
fn what_looks_like_an_id_is_not_kept() {
    for (path, expected) in [
        ("/", "/"),
        ("/orders", "/orders"),
        ("/orders/", "/orders/"),
        ("/orders/17", "/orders/{id}"),
        ("/orders/17/items/3?x=1", "/orders/{id}/items/{id}"),
        ("/v1/orders", "/v1/orders"),
        ("/v12/orders", "/v12/orders"),
        ("/s3/buckets", "/s3/buckets"),
        ("/u/7f1c2d3e-0af7-4919-9cd4-3dd8448eb211", "/u/{id}"),
        ("/c/0af7651916cd43dd", "/c/{id}"),
        ("/m/ann@example.org", "/m/{id}"),
        ("/d/2026-11-22", "/d/{id}"),
        ("/shop.Orders/Get", "/shop.Orders/Get"),
        ("/files/{id}/*", "/files/{id}/{id}"),
        ("/n/J%C3%BCrgen", "/n/{id}"),
        ("/a//b", "unclear"),
        ("/a/../b", "unclear"),
        ("/a/%2e%2e/b", "unclear"),
        ("/a%2fb", "unclear"),
        ("/a%zz", "unclear"),
        ("/a/%c0%ae%c0%ae/b", "unclear"),
        ("/caf%e9", "unclear"),
        ("/a/..;x/b", "unclear"),
        ("/a/;x", "unclear"),
        ("/a/%3bx", "unclear"),
        ("/a/b;x=1", "/a/{id}"),
        ("*", "unclear"),
        ("/1/2/3/4/5/6/7/8/9/10/11/12/13", "other"),
    ] {
        assert_eq!(template(path), expected, "{path}");
    }
}

#[test]
fn ever_new_names_at_one_place_become_an_id_and_the_first_ones_stay() {
    let mut templates = Templates::default();
    let name = |n: usize| {
        format!(
            "/users/{}",
            "abcdefghijklmnopqrstuvwxyz".chars().cycle().skip(n % 26).take(3 + n / 26).collect::<String>()
        )
    };
    let texts: Vec<String> = (0..200)
        .map(|n| {
            let id = templates.of(&name(n));
            templates.text(id)
        })
        .collect();
    assert_eq!(texts[0], name(0));
    assert_eq!(texts.last().unwrap(), "/users/{id}");
    let id = templates.of(&name(0));
    assert_eq!(templates.text(id), name(0));
    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
    assert_eq!(distinct.len(), usize::from(MOST_SIBLINGS) + 1);
}

#[test]
fn a_hostile_tree_of_paths_ends_in_other() {
    let mut templates = Templates::default();
    let letters = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap());
    for n in 0..200_000 {
        templates.of(&format!("/{}x/{}y/{}z/{}w", letters(n), letters(n / 26), letters(n / 676), letters(n / 17_576)));
    }
    assert!(templates.nodes.len() <= MOST_NODES);
    let id = templates.of("/never/seen/before");
    assert_eq!(templates.text(id), OTHER);
}

proptest! {
    #[test]
    fn any_target_has_a_template_that_is_stable(targets in proptest::collection::vec(".{0,40}|/[a-z0-9/%.{}*?;@]{0,30}", 1..40)) {
        let mut templates = Templates::default();
        let first: Vec<_> = targets.iter().map(|target| templates.of(target)).collect();
        let again: Vec<_> = targets.iter().map(|target| templates.of(target)).collect();
        prop_assert_eq!(&first, &again);
        for id in first {
            let text = templates.text(id);
            prop_assert!(text.starts_with('/') || text == OTHER || text == UNCLEAR, "{}", text);
            prop_assert!(!text.contains('?'));
        }
    }
}
