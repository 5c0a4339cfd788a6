use super::*;

const ALL: Keep = Keep { errors: true, denied: true, slower_than: Some(Duration::from_millis(100)) };

#[test]
fn what_is_kept_and_why() {
    let fast = Some(Duration::from_millis(99));
    let slow = Some(Duration::from_millis(100));
    let fate = |status, reason, took| Fate { status, reason, took, failed: false };
    for (keep, fate, why) in [
        (ALL, fate(200, None, fast), None),
        (ALL, fate(404, None, fast), None),
        (ALL, fate(500, None, fast), Some("error")),
        (ALL, fate(403, None, fast), None),
        (ALL, fate(403, Some(Reason::NotAllowed), fast), Some("denied")),
        (ALL, fate(200, Some(Reason::NotAllowed), fast), Some("denied")),
        (ALL, fate(504, Some(Reason::Timeout), fast), Some("error")),
        (ALL, fate(0, Some(Reason::AppUnreachable), None), Some("error")),
        (ALL, fate(200, None, slow), Some("slow")),
        (ALL, Fate { failed: true, ..Fate::default() }, Some("error")),
        (Keep { errors: false, ..ALL }, fate(500, None, fast), None),
        (Keep { denied: false, ..ALL }, fate(403, Some(Reason::NotAllowed), fast), None),
        (Keep { slower_than: None, ..ALL }, fate(200, None, slow), None),
        (Keep::default(), fate(500, Some(Reason::Timeout), slow), None),
    ] {
        let rules = Rules::default();
        rules.set(keep);
        assert_eq!(rules.why(fate), why, "{keep:?} {fate:?}");
        assert_eq!(rules.any(), keep != Keep::default());
    }
}

#[test]
fn a_kept_trace_is_read_as_it_was_written_and_nothing_else_is() {
    let good = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    assert_eq!(KeptTrace::parse(good.as_bytes()).unwrap().to_string(), good);
    for bad in [
        "",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "4bf92f3577b34da6a3ce929d0e0e4736-",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b",
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b70",
        "4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7",
        "4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00000000000000000000000000000000-00f067aa0ba902b7",
        "4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000",
    ] {
        assert_eq!(KeptTrace::parse(bad.as_bytes()), None, "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_are_read_as_two_traces(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        if let Some(kept) = KeptTrace::parse(&bytes) {
            proptest::prop_assert_eq!(kept.to_string().into_bytes(), bytes);
        }
    }
}
