//! Changes that take two operators.

use super::*;

/// What a refused command says, and the id of what waits.
fn waits(refused: &Output) -> (String, String) {
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let id = said.split("`isthmus approve ").nth(1).unwrap_or_else(|| panic!("{said}")).split('`').next().unwrap();
    assert!(said.contains("takes a second operator"), "{said}");
    (said.clone(), id.to_owned())
}

#[test]
fn what_takes_two_waits_until_another_operator_with_the_right_role_says_yes() {
    let world = World::start_with("operators: { secondApprover: { of: [ca, denyRemoval, permissive] } }\n");
    let roles = world.path("roles.yaml");
    let role = |name: &str, spec: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: OperatorRole\nmetadata: {{ name: {name} }}\nspec: {spec}\n---\n"
        )
    };
    let all = role("admins", "{ role: admin, operators: [carol] }")
        + &role("hr", "{ role: policy-editor, namespaces: [hr], operators: [dave] }");
    fs::write(&roles, all).unwrap();
    world.admin(&["apply", "-f", &roles]);
    let (bob, carol, dave) = (world.person("bob"), world.person("carol"), world.person("dave"));
    let path = world.path("policy.yaml");
    let apply = |spec: &str, more: &[&str]| {
        let head =
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: { namespace: shop, name: orders }\n";
        fs::write(&path, format!("{head}spec: {spec}\n")).unwrap();
        bob.isthmus(&[&["apply", "-f", path.as_str()][..], more].concat(), &[])
    };
    let denying = "{ services: [orders], deny: [{ from: { serviceAccounts: [batch] } }], allow: [{ from: { serviceAccounts: [web] } }] }";
    let open = "{ services: [orders], allow: [{ from: { serviceAccounts: [web] } }] }";
    ok(&apply(denying, &[]), &["apply: more denials take one"]);

    let dry = apply(open, &["--dry-run"]);
    assert!(text(&dry.stderr).contains("warning: takes a second operator"), "{}", text(&dry.stderr));
    let (said, id) = waits(&apply(open, &[]));
    assert!(said.contains("ServicePolicy shop/orders: spec.deny[0] goes"), "{said}");
    let stored = || world.admin(&["get", "policy", "orders", "-n", "shop", "-o", "yaml"]);
    assert!(stored().contains("batch"), "nothing is changed yet");
    let own = bob.isthmus(&["approve", &id], &[]);
    assert!(text(&own.stderr).contains("operator bob has asked for it"), "{}", text(&own.stderr));
    let foreign = dave.isthmus(&["approve", &id], &[]);
    assert!(text(&foreign.stderr).contains("operator dave may not"), "{}", text(&foreign.stderr));
    assert!(!text(&dave.isthmus(&["approve"], &[]).stdout).contains(&id), "nor does he see it");
    let list = ok(&carol.isthmus(&["approve"], &[]), &["approve"]);
    assert!(list.contains(&id) && list.contains("bob") && list.contains("spec.deny[0] goes"), "{list}");
    let shown = ok(&carol.isthmus(&["approve", &id, "--show"], &[]), &["approve --show"]);
    assert!(shown.lines().any(|line| line.starts_with("- ") && line.contains("batch")), "{shown}");
    assert!(stored().contains("batch"), "to look changes nothing");
    let done = ok(&carol.isthmus(&["approve", &id], &[]), &["approve"]);
    assert!(done.contains("apply of bob is done: revision "), "{done}");
    assert!(!stored().contains("batch"));
    let again = carol.isthmus(&["approve", &id], &[]);
    assert_eq!((again.status.code(), text(&again.stderr).contains("nothing waits as")), (Some(1), true));
    let history = world.admin(&["history", "--json"]);
    assert!(history.contains("apply, approved by carol"), "{history}");

    // A robot is nobody's second, whatever its role. Whoever may approve may also say no.
    let (_, id) = waits(&apply("{ services: [orders], transport: Permissive }", &[]));
    let robot = world.admin(&["robot", "create", "second", "--role", "admin", "--json"]);
    let robot: Value = serde_json::from_str(&robot).unwrap();
    let job = Machine::new();
    ok(&job.isthmus(&["login"], &[("ISTHMUS_OPERATOR_TOKEN", robot["token"].as_str().unwrap())]), &["login"]);
    let refused = text(&job.isthmus(&["approve", &id], &[]).stderr);
    assert!(refused.contains("a robot does not approve"), "{refused}");
    assert!(world.admin(&["approve", &id, "--reject"]).contains("apply of bob is not done"));
    assert!(!stored().contains("Permissive"));

    // A step of the CA.
    let operator = world.path("state/operator.yaml");
    let first =
        || Command::new(ISTHMUS).args(["ca", "rotate", "start"]).env("ISTHMUS_OPERATOR", &operator).output().unwrap();
    let (said, id) = waits(&first());
    assert!(said.contains("CA: ca rotate start"), "{said}");
    let phase = || -> Value { serde_json::from_str(&world.admin(&["ca", "rotate", "status", "--json"])).unwrap() };
    assert_eq!(phase()["phase"], "settled");
    ok(&carol.isthmus(&["approve", &id], &[]), &["approve"]);
    assert_eq!(phase()["phase"], "distributing");

    let lines: Vec<Value> = serde_json::from_str(&world.admin(&["audit", "export", "--json"])).unwrap();
    let by = |what: &str| -> Vec<&str> {
        lines.iter().filter(|line| line["what"] == what).map(|line| line["operator"].as_str().unwrap()).collect()
    };
    assert_eq!(by("approval-asked"), ["bob", "bob", "admin"]);
    assert_eq!((by("approved"), by("approval-rejected")), (vec!["carol", "carol"], vec!["admin"]));
    let rotated = lines.iter().find(|line| line["what"] == "authority").unwrap();
    assert_eq!(rotated["operator"], "admin, approved by carol");
    let verified = world.admin(&["audit", "verify", "--json"]);
    assert!(verified.contains("\"ok\":true"), "{verified}");
}
