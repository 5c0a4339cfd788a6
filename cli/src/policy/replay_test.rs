//! What is replayed of files in Audit.

use super::*;

const POLICY: &str =
    "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: { namespace: shop, name: p }\n";

fn document(spec: &str) -> wire::Document {
    wire::Document { source: "p.yaml".into(), yaml: format!("{POLICY}spec: {spec}\n") }
}

#[test]
fn policies_and_rules_in_audit_are_replayed_as_if_they_were_not_and_nothing_else_is_touched() {
    let spec = |of: &wire::Document| serde_json::from_str::<Value>(&of.yaml).unwrap()["spec"].clone();
    let of = out_of_audit(&document(
        "{ services: [orders], mode: Audit, allow: [{ from: { serviceAccounts: [web] }, mode: Audit }, { to: { methods: [GET] } }] }",
    ));
    assert_eq!(of.len(), 1);
    let expected = json!({
        "services": ["orders"],
        "allow": [{ "from": { "serviceAccounts": ["web"] } }, { "to": { "methods": ["GET"] } }],
    });
    assert_eq!(spec(&of[0]), expected);
    let (parsed, problems) = validate::parse("p.yaml", &of[0].yaml);
    assert_eq!((parsed.len(), problems), (1, vec![]), "what is sent can be read");
    let open = out_of_audit(&document("{ services: [orders], transport: MeshOnly }"));
    assert_eq!(spec(&open[0]), json!({ "services": ["orders"], "transport": "MeshOnly" }));
    // Faults are told with their place in the file as it is.
    let faulty = document("{ services: [orders], mode: Adit }");
    assert_eq!(out_of_audit(&faulty), [faulty]);
}
