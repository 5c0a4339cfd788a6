use isthmus_proto::traces::v1::Attribute;
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn span(workload: &str, id: u8, parent: u8, name: &str, from_ms: u64, to_ms: u64) -> KeptSpan {
    let span = Span {
        trace_id: vec![0xab; 16],
        span_id: vec![id; 8],
        parent_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: name.into(),
        start_unix_ns: from_ms * MS,
        end_unix_ns: to_ms * MS,
        ..Span::default()
    };
    let site = if workload == "shop/web" { "azure" } else { "dc1" };
    KeptSpan { workload: workload.into(), site: site.into(), span: Some(span) }
}

fn told(of: &mut KeptSpan, name: &str, value: &str) {
    of.span.as_mut().unwrap().attributes.push(Attribute { name: name.into(), value: value.into() });
}

fn names<'a>(of: &'a Waterfall<'_>) -> Vec<(usize, &'a str, u64, u64)> {
    of.rows.iter().map(|row| (row.depth, row.span.name.as_str(), row.start_us / 1_000, row.length_us / 1_000)).collect()
}

#[test]
fn a_request_is_shown_hop_by_hop() {
    let mut spans = [
        span("shop/orders", 3, 2, "inbound", 1_004, 1_006),
        span("shop/web", 1, 9, "outbound", 1_000, 1_010),
        span("shop/web", 2, 1, "link", 1_001, 1_009),
    ];
    // The link's span tells the same of its try alone.
    told(&mut spans[2], "isthmus.time.link_us", "6000");
    for (part, us) in [("app", "1500"), ("link", "6000"), ("inbound", "500"), ("outbound", "1900"), ("connect", "100")]
    {
        told(&mut spans[1], &format!("isthmus.time.{part}_us"), us);
    }
    told(&mut spans[1], "http.request.method", "GET");
    told(&mut spans[1], "url.path", "/orders/7");
    told(&mut spans[1], "http.response.status_code", "200");
    let waterfall = Waterfall::of(&spans);
    assert_eq!(names(&waterfall), [(0, "outbound", 0, 10), (1, "link", 1, 8), (2, "inbound", 4, 2)]);
    assert!(waterfall.rows.iter().all(|row| row.moved_us == 0));
    let text = waterfall.in_words(0, 100);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("trace {}  3 spans, 2 proxies, 10.0 ms", "ab".repeat(16)));
    assert!(lines[2].starts_with("GET /orders/7 200  shop/web (azure)"), "{text}");
    assert!(lines[4].contains("inbound") && lines[4].contains("shop/orders (dc1)"), "{text}");
    assert_eq!(lines[6], "where the time went: app 1.5 ms, link 6.0 ms, sidecars 2.4 ms, connection 100 µs");
    let bar = |line: &str| line.chars().filter(|c| *c == '█').count();
    assert!(bar(lines[2]) > bar(lines[3]) && bar(lines[3]) > bar(lines[4]) && bar(lines[4]) > 0, "{text}");
    assert!(!text.contains("note:"), "{text}");
}

/// Ten seconds apart, either way: the callee's spans are in the middle of the caller's, and so is what is below them.
#[test]
fn clocks_that_differ_change_nothing_but_a_note() {
    for off in [-10_000_i64, 10_000] {
        let at = |ms: i64| u64::try_from(20_000 + ms).unwrap();
        let spans = [
            span("shop/web", 1, 0, "outbound", at(0), at(10)),
            span("shop/web", 2, 1, "link", at(1), at(9)),
            span("shop/orders", 3, 2, "inbound", at(off + 4), at(off + 6)),
            span("shop/orders", 4, 3, "outbound", at(off + 5), at(off + 6)),
        ];
        let waterfall = Waterfall::of(&spans);
        let expected = [(0, "outbound", 0, 10), (1, "link", 1, 8), (2, "inbound", 4, 2), (3, "outbound", 5, 1)];
        assert_eq!(names(&waterfall), expected);
        assert_eq!(waterfall.rows[2].moved_us, -off * 1_000);
        assert_eq!(waterfall.length_us, 10_000);
        assert!(waterfall.in_words(0, 100).contains("note: the hosts' clocks differ"));
    }
}

#[test]
fn what_failed_says_why_and_what_is_hidden_is_counted() {
    let mut refused = span("shop/web", 1, 0, "outbound", 0, 4);
    refused.span.as_mut().unwrap().failed = true;
    refused.span.as_mut().unwrap().error = "not-allowed".into();
    let spans = [refused];
    let text = Waterfall::of(&spans).in_words(2, 100);
    assert!(text.lines().nth(2).unwrap().ends_with("4.0 ms  not-allowed"), "{text}");
    assert!(text.starts_with(&format!("trace {}  1 span, 1 proxy, 4.0 ms\n", "ab".repeat(16))), "{text}");
    assert!(text.contains("note: 2 more of workloads that you may not see"), "{text}");
    assert_eq!(Waterfall::of(&[]).in_words(0, 100).lines().count(), 2);
}

#[test]
fn spans_that_name_each_other_as_parents_are_shown_once_each() {
    let spans = [span("a/b", 1, 2, "one", 0, 1), span("a/b", 2, 1, "two", 0, 1), span("a/b", 3, 3, "self", 0, 1)];
    let waterfall = Waterfall::of(&spans);
    assert_eq!(waterfall.rows.len(), 3);
}

#[test]
fn a_time_has_three_digits_that_matter() {
    for (us, text) in [
        (0, "0 µs"),
        (999, "999 µs"),
        (1_000, "1.0 ms"),
        (99_900, "99.9 ms"),
        (100_000, "100 ms"),
        (61_000_000, "61.0 s"),
    ] {
        assert_eq!(time(us), text);
    }
}

proptest! {
    /// Whatever proxies told: each span is one row, within the trace, and the page is as wide as it may be.
    #[test]
    fn every_span_is_one_row(told in proptest::collection::vec((0..4u8, 1..12u8, 0..12u8, 0..100_000u64, 0..100_000u64), 0..40)) {
        let spans: Vec<KeptSpan> = told
            .iter()
            .map(|(host, id, parent, from, lasts)| span(&format!("w/{host}"), *id, *parent, "x", *from, from + lasts))
            .collect();
        let waterfall = Waterfall::of(&spans);
        prop_assert_eq!(waterfall.rows.len(), spans.len());
        for row in &waterfall.rows {
            prop_assert!(row.start_us + row.length_us <= waterfall.length_us + 1);
            let bar = waterfall.bar(row, 30);
            prop_assert_eq!(bar.chars().count(), 30);
            prop_assert!(bar.contains('█'));
        }
    }
}
