use super::*;

fn about_text(what: Option<&str>, name: Option<&str>) -> String {
    match about(what, name, None) {
        Ok((revision, resource)) => format!("{revision} {}", resource.as_ref().map(resource_name).unwrap_or_default()),
        Err(failure) => failure.text(),
    }
}

#[test]
fn a_number_is_a_revision_and_a_word_is_a_kind() {
    assert_eq!(about_text(None, None), "0 ");
    assert_eq!(about_text(Some("812"), None), "812 ");
    assert_eq!(about_text(Some("policy"), Some("shop/orders")), "0 ServicePolicy shop/orders");
    assert_eq!(about_text(Some("policy/shop/orders"), None), "0 ServicePolicy shop/orders");
    assert_eq!(about_text(Some("site/dc1"), None), "0 Site dc1");
    assert!(about_text(Some("0"), None).contains("no revision 0"));
    assert!(about_text(Some("policy"), None).contains("which one?"));
}

#[test]
fn a_line_names_the_first_changes_and_counts_the_rest() {
    let change = |name: &str| wire::Change {
        resource: Some(wire::ResourceRef { kind: "Site".into(), name: name.into(), ..Default::default() }),
        kind: wire::ChangeKind::Updated.into(),
        ..Default::default()
    };
    let changes = ["a", "b", "c", "d"].map(change).to_vec();
    let line = changes_in_a_line(&wire::Revision { changes, more: 6, ..Default::default() });
    assert_eq!(line, "Site a updated, Site b updated, Site c updated, and 7 more");
}
