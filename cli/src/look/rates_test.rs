use super::*;

fn edge(name: &str, ok: u64, failed: u64, fast: u64, slow: u64) -> Edge {
    let requests = vec![0, 0, ok, 0, 0, failed];
    Edge { name: name.into(), port: 80, site: "dc1".into(), requests, buckets: vec![fast, slow, 0], ..Edge::default() }
}

fn batch(workload: &str, edges: Vec<Edge>) -> Batch {
    Batch { workload: workload.into(), edges, bounds_us: vec![1_000, 10_000], ..Batch::default() }
}

#[test]
fn a_rate_is_the_difference_over_the_time_summed_over_proxies() {
    let (mut rates, start) = (Rates::new(Duration::from_secs(60)), Instant::now());
    for (at, ok, failed) in [(0, 100, 0), (10, 290, 10)] {
        for workload in ["shop/web", "shop/batch"] {
            let edges = vec![edge("shop/orders", ok, failed, ok + failed, 0)];
            rates.take(batch(workload, edges), start + Duration::from_secs(at));
        }
    }
    let [row] = &rates.rows(By::Service)[..] else { panic!("one service") };
    assert_eq!((row.name.as_str(), row.requests, row.success), ("shop/orders:80", 40.0, Some(0.95)));
    assert_eq!(row.latency_us, Some([500, 950, 990]));
    let names = |by| rates.rows(by).into_iter().map(|row| row.name).collect::<Vec<_>>();
    assert_eq!(names(By::Edge), ["shop/batch -> shop/orders:80", "shop/web -> shop/orders:80"]);
    assert_eq!(names(By::Site), ["dc1"]);
    assert!(names(By::Caller).is_empty());
}

/// Whoever hangs up gets no answer, which is nobody's failure that we know of, and no success either.
#[test]
fn callers_that_left_are_told_apart() {
    let (mut rates, start) = (Rates::new(Duration::from_secs(60)), Instant::now());
    let counted = |name: &str, left, ok, failed| {
        let requests = vec![left, 0, ok, 0, 0, failed];
        Edge { name: name.into(), requests, buckets: vec![left + ok + failed, 0, 0], ..Edge::default() }
    };
    rates.take(batch("w", vec![]), start);
    rates.take(
        batch("w", vec![counted("busy", 20, 72, 8), counted("hangs", 10, 0, 0)]),
        start + Duration::from_secs(10),
    );
    let seen: Vec<_> = rates.rows(By::Service).into_iter().map(|row| (row.requests, row.success, row.left)).collect();
    assert_eq!(seen, [(10.0, Some(0.9), Some(0.2)), (1.0, None, Some(1.0))]);
}

#[test]
fn one_look_is_no_rate_and_a_restart_is_no_loss() {
    let (mut rates, start) = (Rates::new(Duration::from_secs(60)), Instant::now());
    rates.take(batch("shop/web", vec![edge("shop/orders", 1_000, 0, 1_000, 0)]), start);
    assert!(rates.rows(By::Service).is_empty() && rates.measured() == 0);
    rates.take(batch("shop/web", vec![edge("shop/orders", 30, 0, 0, 30)]), start + Duration::from_secs(10));
    let rows = rates.rows(By::Service);
    assert_eq!((rows[0].requests, rows[0].latency_us), (3.0, Some([5_500, 9_550, 9_910])));
}

#[test]
fn the_window_moves() {
    let (mut rates, start) = (Rates::new(Duration::from_secs(5)), Instant::now());
    for second in 0..60 {
        // Ten a second for half a minute, then none.
        let count = 10 * second.min(30);
        rates.take(batch("w", vec![edge("s", count, 0, count, 0)]), start + Duration::from_secs(second));
        if second == 20 {
            assert_eq!(rates.rows(By::Service)[0].requests, 10.0);
        }
    }
    assert!(rates.rows(By::Service).is_empty());
    assert!(rates.proxies["w"].len() <= 7, "and what is older is forgotten");
}
