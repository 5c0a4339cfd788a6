//! What is picked from the log.

use isthmus_control::audit::Event;

use super::*;

#[test]
fn the_words_are_those_of_the_log_and_a_slip_is_answered_with_what_was_meant() {
    for word in WORDS {
        assert_eq!(serde_json::to_value(what(word).unwrap()).unwrap(), word);
    }
    assert!(what("bypased").unwrap_err().contains("did you mean `bypassed`?"));
    assert!(what("").unwrap_err().contains("there are approval-asked, approval-rejected"));
}

#[test]
fn a_line_is_shown_if_time_word_and_operator_are_what_was_asked_for() {
    let entry: Entry = serde_json::from_value(json!({
        "seq": 7, "at": "2026-11-22T08:00:00.000Z", "what": "bypassed", "operator": "ann", "workload": "shop/orders",
        "reason": "for 1800 s: incident 4711",
    }))
    .unwrap();
    assert_eq!(
        entry.event,
        Event {
            what: What::Bypassed,
            operator: "ann".into(),
            workload: "shop/orders".into(),
            reason: "for 1800 s: incident 4711".into(),
            ..Event::default()
        }
    );
    let any = || Asked { last: None, what: vec![], by: None };
    let an_hour_later = entry.at.0 + 3_600_000;
    for (asked, expected) in [
        (any(), true),
        (Asked { last: Some(Duration::from_secs(3600)), ..any() }, true),
        (Asked { last: Some(Duration::from_secs(3599)), ..any() }, false),
        (Asked { what: vec![What::Enforced, What::Bypassed], ..any() }, true),
        (Asked { what: vec![What::Enforced], ..any() }, false),
        (Asked { by: Some("ann".into()), ..any() }, true),
        (Asked { by: Some("bob".into()), ..any() }, false),
    ] {
        assert_eq!(asked.holds(&entry, an_hour_later), expected);
    }
    assert_eq!(
        row(&entry),
        ["7", "2026-11-22T08:00:00Z", "bypassed", "ann", "shop/orders", "for 1800 s: incident 4711"]
    );
}
