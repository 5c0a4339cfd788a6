use super::*;

fn answer() -> wire::ApproveResponse {
    let approval = wire::Approval {
        id: "7f3a9c2100aa41de".into(),
        author: "ann".into(),
        what: "apply".into(),
        reasons: vec!["ServicePolicy shop/orders: spec.deny[0] goes".into()],
        ..Default::default()
    };
    let resource = wire::ResourceRef { kind: "ServicePolicy".into(), namespace: "shop".into(), name: "orders".into() };
    let change = wire::Change {
        resource: Some(resource),
        kind: wire::ChangeKind::Updated.into(),
        before_yaml: "deny: [{}]\n".into(),
        after_yaml: "deny: []\n".into(),
    };
    wire::ApproveResponse { approval: Some(approval), revision: 7, changes: vec![change], ..Default::default() }
}

#[test]
fn what_would_be_done_is_shown_with_its_lines_and_how_to_have_it_done() {
    let (answer, approval) = (answer(), answer().approval.unwrap());
    let shown = done_text(&answer, &approval, true);
    assert!(shown.contains("ServicePolicy shop/orders updated (dry run)"), "{shown}");
    assert!(shown.contains("- deny: [{}]\n+ deny: []\n"), "{shown}");
    assert!(shown.ends_with("to have it done: isthmus approve 7f3a9c2100aa41de\n"), "{shown}");
    let done = done_text(&answer, &approval, false);
    assert!(done.ends_with("apply of ann is done: revision 7\n"), "{done}");
    assert_eq!(approval_json(&approval)["reasons"][0], "ServicePolicy shop/orders: spec.deny[0] goes");
}
