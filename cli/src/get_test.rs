use super::*;

fn named(kind: &str, name: &str, namespace: Option<&str>) -> Result<String, String> {
    let found = reference(kinds::parse(kind).unwrap(), name, namespace);
    found.map(|r| resource_name(&r)).map_err(|failure| failure.text())
}

#[test]
fn a_namespace_comes_with_the_name_or_with_n() {
    assert_eq!(named("workload", "shop/orders", None), Ok("Workload shop/orders".into()));
    assert_eq!(named("workload", "orders", Some("shop")), Ok("Workload shop/orders".into()));
    assert_eq!(named("workload", "shop/orders", Some("shop")), Ok("Workload shop/orders".into()));
    assert_eq!(named("site", "dc1", None), Ok("Site dc1".into()));
}

#[test]
fn a_missing_a_doubled_and_a_needless_namespace_are_wrong_usage() {
    assert!(named("workload", "orders", None).unwrap_err().contains("NAMESPACE/orders"));
    assert!(named("workload", "shop/orders", Some("bank")).unwrap_err().contains("two different"));
    assert!(named("site", "shop/dc1", None).unwrap_err().contains("has no namespace"));
}
