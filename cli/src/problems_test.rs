use super::*;

fn problem() -> wire::Problem {
    wire::Problem {
        source: "policies/orders.yaml".into(),
        line: 7,
        column: 14,
        resource: Some(wire::ResourceRef {
            kind: "ServicePolicy".into(),
            namespace: "shop".into(),
            name: "orders".into(),
        }),
        field: "spec.transport".into(),
        reason: "unknown level `Https`; there are MeshOnly, HttpsOnly, Permissive".into(),
    }
}

#[test]
fn a_problem_reads_like_a_compiler_error() {
    assert_eq!(
        Problem(problem()).to_string(),
        "policies/orders.yaml:7:14: ServicePolicy shop/orders: spec.transport: unknown level `Https`; there are \
         MeshOnly, HttpsOnly, Permissive"
    );
}

#[test]
fn an_unknown_place_is_left_out_and_not_shown_as_zero() {
    let at = |line, column| {
        Problem(wire::Problem { line, column, field: String::new(), resource: None, ..problem() }).to_string()
    };
    assert!(at(0, 0).starts_with("policies/orders.yaml: unknown level"));
    assert!(at(0, 5).starts_with("policies/orders.yaml: unknown level"));
    assert!(at(3, 0).starts_with("policies/orders.yaml:3: unknown level"));
}

#[test]
fn a_change_says_what_became_of_the_resource() {
    let site = wire::ResourceRef { kind: "Site".into(), namespace: String::new(), name: "dc1".into() };
    let changes = [wire::Change { resource: Some(site), kind: wire::ChangeKind::Created.into(), ..Default::default() }];
    assert_eq!(changes_text(&changes, false), "Site dc1 created\n");
    assert_eq!(changes_text(&changes, true), "Site dc1 created (dry run)\n");
    assert_eq!(changes_json(&changes)[0]["change"], "created");
}
