use super::*;
use proptest::prelude::*;

fn span(trace: u128, of: u8) -> wire::Span {
    wire::Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: vec![of; 8],
        parent_id: if of == 1 { Vec::new() } else { vec![1; 8] },
        name: "outbound".into(),
        kind: wire::Kind::Client.into(),
        start_unix_ns: 1_000,
        end_unix_ns: 2_000,
        attributes: vec![wire::Attribute { name: "url.path".into(), value: "/orders".into() }],
        ..Default::default()
    }
}

#[test]
fn a_trace_comes_together_from_its_proxies_and_is_found_by_how_its_id_begins() {
    let store = TraceStore::default();
    let (one, other) = (0xabcd_u128 << 112 | 1, 0xabce_u128 << 112 | 2);
    store.take("shop/web", vec![span(one, 1), span(other, 1)], 10);
    store.take("shop/orders", vec![span(one, 2)], 11);
    let trace = store.find("abcd", 12).unwrap();
    let by: Vec<&str> = trace.spans.iter().map(|(workload, _)| &**workload).collect();
    assert_eq!((trace.first_ms, by), (10, vec!["shop/web", "shop/orders"]));
    assert_eq!(store.find(&format!("{one:032X}"), 12).unwrap().spans.len(), 2, "whole, in capitals");
    for (text, refused) in [
        ("abc", Refused::NoId),
        ("", Refused::NoId),
        ("abcg", Refused::NoId),
        ("+bcd", Refused::NoId),
        ("0000000000000000000000000000000000", Refused::NoId),
        ("abcf", Refused::Unknown),
    ] {
        assert_eq!(store.find(text, 12).unwrap_err(), refused, "{text}");
    }
    store.take("shop/web", vec![span(0xabcd_u128 << 112 | 7, 1)], 13);
    assert_eq!(store.find("abcd", 13).unwrap_err(), Refused::Several);
    assert_eq!(store.all(13).len(), 3);
    assert_eq!(store.all(13)[0].0, (0xabcd_u128 << 112 | 7).to_be_bytes(), "the newest first");
}

#[test]
fn what_is_old_goes_and_what_is_too_many_goes_with_the_oldest_first() {
    let store = TraceStore::default();
    store.take("shop/web", vec![span(1 << 100, 1)], 0);
    store.take("shop/web", vec![span(2 << 100, 1)], MOST_AGE_MS);
    assert_eq!(store.all(MOST_AGE_MS).len(), 2);
    assert_eq!(store.all(MOST_AGE_MS + 1).len(), 1);
    for number in 0..MOST_TRACES as u128 + 100 {
        store.take("shop/web", vec![span(number + 10, 1)], MOST_AGE_MS + 2);
    }
    let all = store.all(MOST_AGE_MS + 2);
    assert_eq!((all.len(), store.given_up()), (MOST_TRACES, 0));
    assert_eq!(all[0].0, (MOST_TRACES as u128 + 109).to_be_bytes());
}

/// One that tells without end fills its share, and the traces of others stay.
#[test]
fn bytes_are_bounded_for_all_and_for_each() {
    let store = TraceStore::default();
    store.take("shop/quiet", vec![span(1, 1)], 0);
    let heavy = |trace: u128| {
        let value = "x".repeat(LONGEST_TEXT);
        let attributes = (0..MOST_ATTRIBUTES).map(|n| wire::Attribute { name: n.to_string(), value: value.clone() });
        wire::Span { attributes: attributes.collect(), ..span(trace, 1) }
    };
    for number in 0..4_000 {
        store.take("shop/loud", vec![heavy(number + 10)], 0);
    }
    let (traces, bytes) = store.size();
    assert!(bytes <= MOST_BYTES_OF_ONE + 1_000 && traces < 4_000, "{traces} traces, {bytes} bytes");
    assert!(store.given_up() > 0 && store.find(&format!("{:032x}", 1), 0).is_ok());
    for of in 0..6 {
        let workload = format!("shop/w{of}");
        (0..1_000).for_each(|number| store.take(&workload, vec![heavy((of + 1) << 64 | (number + 10))], 0));
        assert!(store.size().1 <= MOST_BYTES);
    }
    assert!(store.find(&format!("{:032x}", 1), 0).is_err(), "the oldest went first");
    // What went counts for nobody any more.
    let kept = store.lock();
    assert_eq!(kept.of_each.values().sum::<usize>(), kept.bytes);
}

#[test]
fn a_trace_has_so_many_spans_and_no_more() {
    let store = TraceStore::default();
    let spans = |count: usize| (0..count).map(|_| span(7, 2)).collect::<Vec<_>>();
    store.take("shop/web", spans(MOST_SPANS_OF_A_TRACE + 3), 0);
    assert_eq!((store.all(0)[0].1.spans.len(), store.given_up()), (MOST_SPANS_OF_A_TRACE, 3));
}

#[test]
fn what_is_no_span_is_counted_and_not_kept() {
    let store = TraceStore::default();
    let wrong = [
        wire::Span { trace_id: vec![1; 15], ..span(7, 1) },
        wire::Span { trace_id: vec![0; 16], ..span(7, 1) },
        wire::Span { span_id: vec![0; 8], ..span(7, 1) },
        wire::Span { parent_id: vec![1; 4], ..span(7, 1) },
        wire::Span { end_unix_ns: 999, ..span(7, 1) },
        wire::Span { start_unix_ns: u64::MAX, end_unix_ns: u64::MAX, ..span(7, 1) },
    ];
    store.take("shop/web", wrong.to_vec(), 0);
    assert_eq!((store.all(0).len(), store.given_up()), (0, 6));
    let loud = wire::Span { name: "a\u{1b}[2Jb\n".into(), error: "e".repeat(1_000), ..span(7, 1) };
    let (_, read) = read(loud).unwrap();
    assert_eq!((read.name.as_str(), read.error.len()), ("a[2Jb", LONGEST_TEXT));
}

proptest! {
    /// Whatever a proxy says: what is kept can be shown, and the bounds hold.
    #[test]
    fn whatever_is_told_stays_within_bounds(
        trace in proptest::collection::vec(any::<u8>(), 14..18),
        span_id in proptest::collection::vec(any::<u8>(), 6..10),
        name in ".{0,300}",
        start in any::<u64>(),
        end in any::<u64>(),
        count in 0..60usize,
    ) {
        let attributes = (0..count).map(|_| wire::Attribute { name: name.clone(), value: name.clone() }).collect();
        let told = wire::Span {
            trace_id: trace, span_id, name, attributes, start_unix_ns: start, end_unix_ns: end, ..Default::default()
        };
        if let Some((_, kept)) = read(told) {
            prop_assert!(kept.attributes.len() <= MOST_ATTRIBUTES && kept.name.chars().count() <= LONGEST_TEXT);
            prop_assert!(!kept.name.chars().any(char::is_control) && kept.start_unix_ns <= kept.end_unix_ns);
        }
    }
}
