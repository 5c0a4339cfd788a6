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
        (ALL, fate(400, Some(Reason::AmbiguousFraming), fast), Some("denied")),
        (ALL, fate(431, Some(Reason::HeadersTooLarge), fast), Some("denied")),
        (ALL, fate(400, None, fast), None),
        (ALL, fate(400, Some(Reason::CallerGone), fast), None),
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
fn both_ends_of_a_connection_know_the_same_trace_and_each_stream_its_own() {
    let (one, other) = ([1; 24], [2; 24]);
    assert_eq!(KeptTrace::of(one, 7), KeptTrace::of(one, 7));
    assert_eq!(KeptTrace::of(one, 0), None, "a stream that waits for its turn");
    let all = [one, other].into_iter().flat_map(|common| (1..20_000).step_by(2).map(move |id| (common, id)));
    let ids: Vec<KeptTrace> = all.map(|(common, id)| KeptTrace::of(common, id).unwrap()).collect();
    let traces: std::collections::HashSet<[u8; 16]> = ids.iter().map(|kept| kept.trace_id.0).collect();
    let spans: std::collections::HashSet<[u8; 8]> = ids.iter().map(|kept| kept.span_id.0).collect();
    assert_eq!((traces.len(), spans.len()), (ids.len(), ids.len()));
    // The part that W3C's random flag is about.
    let ones: u32 = traces.iter().flat_map(|id| &id[9..]).map(|byte| byte.count_ones()).sum();
    let share = f64::from(ones) / (traces.len() as f64 * 56.0);
    assert!((0.49..0.51).contains(&share), "{share}");
}

#[test]
fn what_is_slow_has_shown_before_the_end() {
    for (keep, at_end) in [
        (Keep { errors: true, ..Keep::default() }, true),
        (Keep { denied: true, ..Keep::default() }, true),
        (Keep { slower_than: Some(Duration::from_secs(1)), ..Keep::default() }, false),
    ] {
        let rules = Rules::default();
        rules.set(keep);
        assert_eq!(rules.any_at_end(), at_end, "{keep:?}");
    }
}
