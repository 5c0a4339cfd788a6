use super::*;

#[test]
fn whoever_would_be_cut_off_is_named_and_the_step_fails() {
    let answer = wire::RotateResponse {
        phase: "distributing".into(),
        not_yet: vec!["shop/db: offline, last seen 2026-11-20T08:00:00Z".into()],
        next: "wait until everybody trusts the new root, or abort".into(),
        refused: true,
        ..Default::default()
    };
    let text = state_text(&answer);
    assert!(text.contains("not yet:\n  shop/db: offline, last seen 2026-11-20T08:00:00Z\n"), "{text}");
    assert!(text.ends_with("next: wait until everybody trusts the new root, or abort\n"), "{text}");
    assert!(print_state(&answer, Format::Json).is_err());
    assert_eq!(state_json(&answer)["ok"], false);
}
