//! What one of several control planes makes of its own streams and of what the others tell. Time is the test's.

use super::*;

fn shared(grace: Duration) -> Shared {
    Shared {
        leases: Leases::new(grace, std::iter::empty(), Instant::now()),
        here: BTreeMap::new(),
        elsewhere: Workloads::new(),
        unready: Workloads::new(),
        in_force: Workloads::new(),
    }
}

fn set(names: &[&str]) -> Workloads {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn moves(moves: &[(&str, bool)]) -> BTreeMap<Arc<str>, bool> {
    moves.iter().map(|(name, comes)| (Arc::from(*name), *comes)).collect()
}

#[tokio::test(start_paused = true)]
async fn whose_app_is_not_ready_is_told_at_once_and_keeps_the_lease() {
    let mut shared = shared(Duration::from_secs(15));
    let came = moves(&[("dc1/a", true), ("dc1/b", true)]);
    let web = |stream| vec![("dc1/a".to_string(), stream)];
    assert_eq!(shared.with_health(&came, &set(&[])).len(), 2);
    shared.moved(&came, Workloads::new(), Instant::now());
    assert_eq!(shared.with_health(&moves(&[]), &set(&["dc1/a"])), web(Stream::Unready));
    shared.word(&BTreeMap::new());
    assert_eq!(shared.unready, set(&["dc1/a"]));
    assert_eq!(shared.with_health(&moves(&[]), &set(&["dc1/a"])), [], "said once");
    assert_eq!(shared.leases.next(), None, "its stream lives: no grace runs");
    // It goes while it is not ready, and comes back no better: it never takes traffic in between.
    assert_eq!(shared.with_health(&moves(&[("dc1/a", false)]), &set(&["dc1/a"])), web(Stream::Gone));
    shared.word(&BTreeMap::new());
    assert_eq!(shared.unready, set(&["dc1/a"]));
    assert_eq!(shared.with_health(&moves(&[("dc1/a", true)]), &set(&["dc1/a"])), web(Stream::Unready));
    assert_eq!(shared.with_health(&moves(&[]), &set(&[])), web(Stream::Ready));
    shared.word(&BTreeMap::new());
    assert_eq!(shared.unready, set(&[]));
}

#[tokio::test(start_paused = true)]
async fn what_another_one_says_of_its_own_streams_counts_and_what_is_here_counts_more() {
    let mut shared = shared(Duration::from_secs(15));
    let elsewhere = |ready: bool| [(Arc::from("dc1/a"), ready)].into();
    shared.word(&elsewhere(false));
    assert_eq!(shared.unready, set(&["dc1/a"]));
    // It moved here and is ready; the other one's word is from before.
    shared.with_health(&moves(&[("dc1/a", true)]), &set(&[]));
    shared.word(&elsewhere(false));
    assert_eq!(shared.unready, set(&[]));
    // It moved back, and here somebody still thinks that it is not ready.
    shared.with_health(&moves(&[("dc1/a", false)]), &set(&["dc1/a"]));
    shared.word(&elsewhere(true));
    assert_eq!(shared.unready, set(&[]));
}
