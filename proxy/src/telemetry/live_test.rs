use super::*;

fn passed() -> Passed {
    Passed {
        direction: "inbound".into(),
        caller: "spiffe://a/ns/shop/sa/web".into(),
        callee: "shop/orders".into(),
        port: 8080,
        method: "GET".into(),
        path: "/orders/7".into(),
        status: 404,
        ..Passed::default()
    }
}

#[test]
fn a_filter_takes_what_is_all_that_it_says() {
    let takes = |filter: wire::Filter| Filter::read(filter).takes(&passed());
    let any = wire::Filter::default;
    assert!(takes(any()));
    for (filter, expected) in [
        (wire::Filter { direction: "inbound".into(), ..any() }, true),
        (wire::Filter { direction: "outbound".into(), ..any() }, false),
        (wire::Filter { method: "get".into(), path: "/orders".into(), ..any() }, true),
        (wire::Filter { method: "get".into(), path: "/items".into(), ..any() }, false),
        (wire::Filter { status_from: 400, status_to: 499, ..any() }, true),
        (wire::Filter { status_from: 500, status_to: 599, ..any() }, false),
        (wire::Filter { reason: "*".into(), ..any() }, false),
        (wire::Filter { peer: "sa/web".into(), ..any() }, true),
        (wire::Filter { peer: "shop/orders".into(), ..any() }, true),
        (wire::Filter { peer: "sa/batch".into(), ..any() }, false),
        (wire::Filter { port: 8080, ..any() }, true),
        (wire::Filter { port: 80, ..any() }, false),
    ] {
        assert_eq!(takes(filter.clone()), expected, "{filter:?}");
    }
    let refused = Passed { reason: "not-allowed".into(), ..passed() };
    for (word, expected) in [("*", true), ("not-allowed", true), ("denied", false)] {
        assert_eq!(Filter::read(wire::Filter { reason: word.into(), ..any() }).takes(&refused), expected, "{word}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_until_somebody_does_and_after() {
    let live = Live::default();
    assert!(!live.looks());
    let mut looking = live.look(Filter::read(wire::Filter::default())).unwrap();
    assert!(live.looks());
    live.passed(&passed());
    assert_eq!(looking.next(10).await, [passed()]);
    drop(looking);
    assert!(!live.looks());
}

#[tokio::test(start_paused = true)]
async fn what_is_more_than_was_asked_for_is_counted_and_not_told() {
    let live = Live::default();
    let mut looking = live.look(Filter::read(wire::Filter { most_per_second: 5, ..wire::Filter::default() })).unwrap();
    (0..20).for_each(|_| live.passed(&passed()));
    assert_eq!((looking.next(100).await.len(), looking.dropped()), (5, 15));
    tokio::time::advance(Duration::from_secs(1)).await;
    live.passed(&passed());
    assert_eq!((looking.next(100).await.len(), looking.dropped()), (1, 15), "the next second");
}

#[tokio::test(start_paused = true)]
async fn a_looker_who_reads_nothing_costs_a_bounded_amount() {
    let live = Live::default();
    let most_per_second = u32::MAX;
    let looking = live.look(Filter::read(wire::Filter { most_per_second, ..wire::Filter::default() })).unwrap();
    for _ in 0..4 {
        (0..WAITING).for_each(|_| live.passed(&passed()));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!((looking.passed.len(), looking.dropped()), (WAITING, 3 * WAITING as u64));
}

#[test]
fn lookers_are_bounded() {
    let live = Live::default();
    let all: Vec<_> = (0..MOST_LOOKERS).map(|_| live.look(Filter::default()).unwrap()).collect();
    assert!(live.look(Filter::default()).is_none());
    drop(all);
    assert!(live.look(Filter::default()).is_some());
}
