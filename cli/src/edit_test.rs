use super::*;

fn policy() -> wire::ResourceRef {
    wire::ResourceRef { kind: "ServicePolicy".into(), namespace: "shop".into(), name: "orders".into() }
}

fn names_another_than(yaml: &str) -> bool {
    names_another(&wire::Document { source: "t".into(), yaml: yaml.into() }, &policy()).is_some()
}

#[test]
fn an_edit_stays_with_what_it_was_opened_for() {
    let mine = "kind: ServicePolicy\nmetadata: { namespace: shop, name: orders }\n";
    assert!(!names_another_than(mine));
    assert!(names_another_than(&mine.replace("orders", "web")));
    assert!(names_another_than(&mine.replace("ServicePolicy", "TrafficPolicy")));
    assert!(names_another_than(&format!("{mine}---\n{mine}")));
    assert!(!names_another_than("kind: [\n"), "the control plane tells what is wrong with it");
}

#[test]
fn the_version_is_found_where_it_is_written() {
    assert_eq!(version_line("metadata:\n  name: a\n  resourceVersion: '7'\n"), "  resourceVersion: '7'");
    assert_eq!(version_line("metadata: {}\n"), "");
}
