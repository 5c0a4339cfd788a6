use isthmus_proto::admin::v1 as wire;

use super::*;

#[test]
fn an_error_says_what_is_wrong_and_what_to_try() {
    let failure = Failure::new("orders.yaml: no such file", "check the path");
    assert_eq!(failure.text(), "error: orders.yaml: no such file\n  try: check the path\n");
    assert_eq!(failure.json()["advice"], "check the path");
    assert_eq!(failure.json()["ok"], false);
}

#[test]
fn every_problem_is_named_with_its_place_before_the_count() {
    let problem = |line, field: &str, reason: &str| {
        Problem::from(wire::Problem {
            source: "orders.yaml".into(),
            line,
            column: 9,
            field: field.into(),
            reason: reason.into(),
            ..wire::Problem::default()
        })
    };
    let failure = Failure::invalid(vec![problem(7, "spec.mode", "unknown mode"), problem(9, "spec.allow", "empty")]);
    assert_eq!(
        failure.text(),
        "orders.yaml:7:9: spec.mode: unknown mode\norders.yaml:9:9: spec.allow: empty\nerror: 2 problems; nothing was changed\n"
    );
    assert_eq!(failure.json()["problems"][1]["line"], 9);
}

#[test]
fn scripts_can_tell_refused_wrong_usage_and_late_apart() {
    let status = |failure: Failure| failure.json()["status"].as_u64();
    assert_eq!(status(Failure::plain("x")), Some(1));
    assert_eq!(status(Failure::usage("x", "y")), Some(2));
    assert_eq!(status(Failure::timed_out("x", "y")), Some(3));
}
