//! When it is told, and to whom. Time is the test's.

use super::*;

fn found(port: u16, ready: bool) -> Probed {
    let reason = if ready { String::new() } else { "refused".to_owned() };
    let service = "shop/ledger".parse().unwrap();
    Probed { service, at: ([10, 9, 0, 1], port).into(), health: Health { ready, reason }, since: Instant::now() }
}

fn knows() -> Vec<String> {
    vec![PROBED.to_owned()]
}

async fn is_due(telling: &mut Telling, told: &mut Told, within: Duration) -> bool {
    tokio::time::timeout(within, telling.due(told)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_told_at_once_and_what_flaps_after_a_pause_and_once() {
    let (tell, mut told) = watch::channel::<Arc<[Probed]>>([found(80, true)].into());
    let mut telling = Telling::new(&knows(), &told);
    assert!(is_due(&mut telling, &mut told, Duration::ZERO).await);
    let said = telling.say(&mut told).endpoints;
    assert_eq!((said.len(), said[0].passes, said[0].port, said[0].ip.as_str()), (1, true, 80, "10.9.0.1"));
    assert!(!is_due(&mut telling, &mut told, PAUSE * 10).await, "nothing has changed");

    tell.send_replace([found(80, false)].into());
    assert!(is_due(&mut telling, &mut told, Duration::ZERO).await, "the last one was long ago");
    telling.say(&mut told);
    for ready in [true, false, true, false] {
        tell.send_replace([found(80, ready)].into());
        assert!(!is_due(&mut telling, &mut told, PAUSE / 8).await, "flaps");
    }
    assert!(is_due(&mut telling, &mut told, PAUSE).await);
    let said = telling.say(&mut told).endpoints;
    assert_eq!((said[0].passes, said[0].reason.as_str(), said[0].service.as_str()), (false, "refused", "shop/ledger"));
    assert!(said[0].for_ms >= 1_000, "{said:?}: since it was found so, not since it is said");
    assert!(!is_due(&mut telling, &mut told, PAUSE * 10).await);
}

#[tokio::test(start_paused = true)]
async fn an_older_control_plane_is_told_nothing_and_an_empty_list_only_after_one_that_was_not() {
    let (tell, mut told) = watch::channel::<Arc<[Probed]>>([found(80, false)].into());
    let mut old = Telling::new(&["rules/v1".to_owned()], &told);
    assert!(!is_due(&mut old, &mut told, PAUSE * 10).await);
    tell.send_replace([].into());
    let mut telling = Telling::new(&knows(), &told);
    told.mark_unchanged();
    assert!(!is_due(&mut telling, &mut told, PAUSE * 10).await, "a new stream knows of nobody");
    tell.send_replace([found(80, true)].into());
    assert!(is_due(&mut telling, &mut told, Duration::ZERO).await);
    telling.say(&mut told);
    tell.send_replace([].into());
    assert!(is_due(&mut telling, &mut told, PAUSE * 2).await, "it is no longer probed");
    assert_eq!(telling.say(&mut told).endpoints, []);
}

#[tokio::test(start_paused = true)]
async fn never_more_than_may_be_probed_and_never_a_long_reason() {
    let mut many: Vec<Probed> = (1..=1_000).map(|port| found(port, false)).collect();
    many[0].health.reason = "x".repeat(10_000);
    let (_tell, mut told) = watch::channel::<Arc<[Probed]>>(many.into());
    let said = Telling::new(&knows(), &told).say(&mut told).endpoints;
    assert_eq!((said.len(), said[0].reason.len()), (MOST, MAX_REASON));
}
