//! Who is away when. Time is the test's.

use super::*;

const GRACE: Duration = Duration::from_secs(10);

fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// `dc1/…` is in dc1, and so on; nobody else is anywhere.
fn site(workload: &str) -> Option<String> {
    let (site, _) = workload.split_once('/')?;
    (site != "nowhere").then(|| site.to_string())
}

fn away(workloads: &[&str]) -> Turn {
    Turn { away: names(workloads), back: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_for_the_grace_is_away_and_back_at_once() {
    let start = Instant::now();
    let mut leases = Leases::new(GRACE, std::iter::empty(), start);
    let all = names(&["dc1/a", "dc1/b", "dc1/c"]);
    all.iter().for_each(|workload| leases.comes(workload));
    leases.leaves(&all[0], start);
    assert_eq!(leases.turn(start + GRACE / 2, site), Turn::default());
    assert_eq!(leases.next(), Some(start + GRACE));
    assert_eq!(leases.turn(start + GRACE, site), away(&["dc1/a"]));
    assert_eq!(leases.turn(start + GRACE * 2, site), Turn::default(), "it is told once");
    assert_eq!(leases.next(), None);
    leases.comes(&all[0]);
    assert_eq!(leases.turn(start + GRACE * 3, site), Turn { away: Vec::new(), back: names(&["dc1/a"]) });
}

#[tokio::test(start_paused = true)]
async fn who_reconnects_within_the_grace_was_never_away() {
    let start = Instant::now();
    let mut leases = Leases::new(GRACE, std::iter::empty(), start);
    let one = names(&["dc1/a"]);
    leases.comes(&one[0]);
    leases.leaves(&one[0], start);
    leases.comes(&one[0]);
    assert_eq!(leases.turn(start + GRACE * 2, site), Turn::default());
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_cut_off_is_not_dead() {
    let start = Instant::now();
    let mut leases = Leases::new(GRACE, std::iter::empty(), start);
    let far = names(&["far/a", "far/b", "far/c"]);
    let near = names(&["near/a", "near/b"]);
    far.iter().chain(&near).for_each(|workload| leases.comes(workload));
    far.iter().chain(&near[..1]).for_each(|workload| leases.leaves(workload, start));
    assert_eq!(leases.turn(start + GRACE, site), away(&["near/a"]), "one of near's two is dead, far is cut off");
    // The link is back, and one of them is not: now it counts.
    far[1..].iter().for_each(|workload| leases.comes(workload));
    assert_eq!(leases.turn(start + GRACE * 2, site), away(&["far/a"]));
}

#[tokio::test(start_paused = true)]
async fn who_dies_one_after_the_other_is_away_one_after_the_other() {
    let start = Instant::now();
    let mut leases = Leases::new(GRACE, std::iter::empty(), start);
    let all = names(&["dc1/a", "dc1/b", "dc1/c", "dc1/d"]);
    all.iter().for_each(|workload| leases.comes(workload));
    for (n, workload) in (0u32..).zip(&all[..3]) {
        leases.leaves(workload, start + GRACE * 2 * n);
        assert_eq!(leases.turn(start + GRACE * (2 * n + 1), site).away, std::slice::from_ref(workload));
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_start_everybody_has_time_to_come_back_and_ghosts_go() {
    let start = Instant::now();
    let all = names(&["dc1/a", "dc1/b", "dc1/dead", "nowhere/x"]);
    let mut leases = Leases::new(GRACE, all.iter().cloned(), start + GRACE * 6);
    assert_eq!(leases.turn(start + GRACE * 5, site), Turn::default());
    all[..2].iter().for_each(|workload| leases.comes(workload));
    assert_eq!(leases.turn(start + GRACE * 6, site), away(&["dc1/dead"]));
    assert_eq!(leases.next(), None, "whose Workload is deleted has no lease");
}

#[tokio::test(start_paused = true)]
async fn whose_app_is_not_ready_takes_no_traffic_though_its_stream_lives() {
    let start = Instant::now();
    let mut leases = Leases::new(GRACE, std::iter::empty(), start);
    let all = names(&["dc1/a", "dc1/b", "dc1/c"]);
    all.iter().for_each(|workload| leases.comes(workload));
    let unready = [(all[1].clone(), "GET /ready: 503".to_string())].into();
    assert_eq!(leases.without_traffic(&unready), [all[1].clone()].into());
    leases.leaves(&all[0], start);
    leases.turn(start + GRACE, site);
    assert_eq!(leases.without_traffic(&unready), [all[0].clone(), all[1].clone()].into());
    assert_eq!(leases.without_traffic(&BTreeMap::new()), [all[0].clone()].into());
}
