//! Which paths a recorded one may have been.

use super::*;

fn conditions(paths: &[&str]) -> Conditions {
    Conditions { paths: Some(paths.iter().map(|path| path.parse().unwrap()).collect()), ..Default::default() }
}

fn of(recorded: &str, rules: &[&str]) -> Vec<String> {
    instances(recorded, &[&conditions(rules)])
}

#[test]
fn only_what_rules_can_tell_apart_is_tried() {
    assert_eq!(of("/health", &["/orders/{id}", "/orders/7"]), ["/health"], "it is known");
    assert_eq!(of("/orders/{id}", &["/orders/{id}"]), [format!("/orders/{SOME_ID}")]);
    assert_eq!(of("/orders/{id}", &["/orders/7", "/items/8"]).len(), 3);
    assert_eq!(of("/orders/{id}", &["/orders/7"])[1], "/orders/7");
    assert_eq!(of("/orders/{id}", &["/orders/1*"])[1], format!("/orders/1{SOME_ID}"));
    assert_eq!(of("/orders/{id}/items", &["/orders/7/admin"])[1], "/orders/7/items");
    assert_eq!(of("other", &["/a", "/b/*"]), [format!("/{SOME_ID}"), "/a".to_owned(), format!("/b/{SOME_ID}")]);
    let unclear = of("unclear", &["/a"]);
    assert_eq!(unclear, [format!("/{SOME_ID}"), "/a".to_owned(), UNCLEAR_PATH.to_owned()]);
    assert_eq!(isthmus_proxy::state::policy::path::normalise(UNCLEAR_PATH), None, "no rule can say what it is");
}
