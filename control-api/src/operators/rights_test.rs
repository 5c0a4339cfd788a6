use super::rights::{Rights, Role};
use super::{Scope, Who};
use crate::ledger::World;
use crate::validate::{ResourceRef, parse};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn world(yaml: &str) -> World {
    let (parsed, problems) = parse("t.yaml", yaml);
    assert!(problems.is_empty(), "{problems:?}");
    let mut world = World::default();
    parsed.into_iter().for_each(|parsed| drop(world.resources.insert(Arc::new(parsed.resource))));
    world
}

fn who(name: &str, groups: &[&str]) -> Who {
    Who { name: name.to_string(), groups: groups.iter().map(|group| group.to_string()).collect(), robot: None }
}

const ROLES: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: shop-team }
spec: { role: policy-editor, namespaces: [shop, pay], operators: [bob], groups: [g-shop] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: auditors }
spec: { role: viewer, groups: [g-audit] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: platform }
spec: { role: admin, groups: [g-platform] }
"#;

#[test]
fn rights_are_the_sum_of_the_roles_that_name_somebody_and_nothing_by_default() {
    let world = world(ROLES);
    let policy = |namespace: &str| ResourceRef::new("ServicePolicy", namespace, "x");
    let nobody = Rights::of(&world, &who("mallory", &["g-shopping"]));
    assert!(!nobody.any() && !nobody.sees("shop") && !nobody.sees("") && !nobody.changes(&policy("shop")));

    for editor in [who("bob", &[]), who("x", &["g-shop"])] {
        let rights = Rights::of(&world, &editor);
        assert!(rights.changes(&policy("shop")) && rights.changes(&policy("pay")) && rights.sees("pay"));
        assert!(!rights.changes(&policy("hr")) && !rights.sees("hr") && !rights.sees_all() && !rights.admin);
        for (kind, namespace) in [("Workload", "shop"), ("MeshConfig", ""), ("OperatorRole", ""), ("Site", "")] {
            assert!(!rights.changes(&ResourceRef::new(kind, namespace, "x")), "{kind}");
        }
        assert!(rights.sees_resource(&ResourceRef::new("Site", "", "dc1")));
        assert!(!rights.sees_resource(&ResourceRef::new("OperatorRole", "", "platform")));
    }
    let auditor = Rights::of(&world, &who("eve", &["g-audit"]));
    assert!(auditor.sees_all() && auditor.sees("hr") && !auditor.changes(&policy("shop")) && !auditor.edits("shop"));
    let both = Rights::of(&world, &who("bob", &["g-audit"]));
    assert!(both.sees("hr") && both.changes(&policy("shop")) && !both.changes(&policy("hr")));
    let admin = Rights::of(&world, &who("ada", &["g-platform"]));
    assert!(admin.admin && admin.changes(&ResourceRef::new("MeshConfig", "", "mesh")));
    assert!(Rights::of(&World::default(), &who("admin", &[])).admin, "the first operator needs no role");
}

#[test]
fn a_role_of_a_tenant_reaches_its_namespaces_as_they_are_and_nothing_without_it() {
    let role = "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: OperatorRole\nmetadata: { name: r }\nspec: { role: policy-editor, tenants: [red], operators: [bob] }\n";
    let tenant = "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Tenant\nmetadata: { name: red }\nspec: { namespaces: [shop, pay] }\n";
    let rights = Rights::of(&world(&format!("{role}{tenant}")), &who("bob", &[]));
    assert!(rights.edits("shop") && rights.sees("pay") && !rights.sees("hr") && !rights.sees_all());
    let without = Rights::of(&world(role), &who("bob", &[]));
    assert!(!without.any() && !without.sees("shop") && !without.sees_all());
}

#[test]
fn a_robot_has_the_rights_of_its_token_and_no_others() {
    let scope = Scope { role: Role::Viewer, namespaces: vec!["shop".to_string()] };
    let robot = Who { robot: Some(scope), ..who("admin", &["g-platform"]) };
    let rights = Rights::of(&world(ROLES), &robot);
    assert!(rights.sees("shop") && !rights.sees("pay") && !rights.admin && !rights.edits("shop"));
}

#[test]
fn a_role_that_is_not_clear_is_refused() {
    for (spec, says) in [
        ("{ role: policy-editor, operators: [bob] }", "name them under `namespaces`"),
        ("{ role: admin, namespaces: [shop], operators: [bob] }", "admin of the whole mesh"),
        ("{ role: viewer }", "names nobody"),
        ("{ role: viewer, operators: [] }", "empty list"),
        ("{ role: root, operators: [bob] }", "root"),
        ("{ role: viewer, namespace: shop, operators: [bob] }", "did you mean `namespaces`"),
        ("{ role: viewer, namespaces: [], operators: [bob] }", "empty list"),
    ] {
        let yaml = format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: OperatorRole\nmetadata: {{ name: x }}\nspec: {spec}\n"
        );
        let (parsed, problems) = parse("t.yaml", &yaml);
        assert!(parsed.is_empty(), "{spec}");
        let said = problems.iter().map(ToString::to_string).collect::<String>();
        assert!(said.contains(says), "{spec}: {said}");
    }
}

proptest! {
    /// Whatever roles there are: what may be changed may be seen, and nothing comes from a role that names somebody else.
    #[test]
    fn nothing_comes_from_nowhere(
        given in proptest::collection::vec((0..3u8, proptest::collection::btree_set("[ab]", 0..3), "[xy]", "[gh]"), 0..5),
        name in "[xyz]", group in "[ghi]", namespace in "[abc]",
    ) {
        let mut text = String::new();
        let mut expected = BTreeSet::new();
        for (i, (role, namespaces, operator, role_group)) in given.iter().enumerate() {
            let role = ["viewer", "policy-editor", "admin"][usize::from(*role)];
            if (role == "policy-editor") == namespaces.is_empty() && role != "viewer" {
                continue;
            }
            let listed = match (role, namespaces.len()) {
                ("admin", _) | (_, 0) => String::new(),
                _ => format!("namespaces: [{}], ", namespaces.iter().cloned().collect::<Vec<_>>().join(", ")),
            };
            text.push_str(&format!("---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: OperatorRole\nmetadata: {{ name: r{i} }}\nspec: {{ role: {role}, {listed}operators: [{operator}], groups: [{role_group}] }}\n"));
            if *operator == name || *role_group == group {
                expected.insert((role, if role == "admin" { BTreeSet::new() } else { namespaces.clone() }));
            }
        }
        let world = if text.is_empty() { World::default() } else { world(&text) };
        let rights = Rights::of(&world, &who(&name, &[&group]));
        let reaches = |namespaces: &BTreeSet<String>| namespaces.is_empty() || namespaces.contains(&namespace);
        let sees = expected.iter().any(|(_, namespaces)| reaches(namespaces));
        let edits = expected.iter().any(|(role, namespaces)| *role != "viewer" && reaches(namespaces));
        prop_assert_eq!(rights.sees(&namespace), sees);
        prop_assert_eq!(rights.edits(&namespace), edits);
        prop_assert_eq!(rights.admin, expected.iter().any(|(role, _)| *role == "admin"));
    }
}
