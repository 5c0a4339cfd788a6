//! Who is asked when, and who fails. Time is the test's, and so are the answers.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::super::How;
use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

fn at(n: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, n).into()
}

fn probe(n: u16) -> Probe {
    let timeout = Duration::from_secs(2);
    Probe { how: How::Tcp(at(n)), interval: INTERVAL, timeout, failures: 2, successes: 2 }
}

/// What is outside, and what was seen of those who ask.
#[derive(Default)]
struct Outside {
    down: Mutex<BTreeSet<u16>>,
    times: Mutex<HashMap<u16, Vec<Instant>>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    takes: Mutex<Duration>,
}

type Told = watch::Receiver<BTreeMap<u16, Found>>;

fn begin(outside: &Arc<Outside>, names: impl Iterator<Item = u16>) -> (watch::Sender<Wanted<u16>>, Told) {
    let (want, wanted) = watch::channel(names.map(|n| (n, probe(n))).collect());
    let (tell, told) = watch::channel(BTreeMap::new());
    let outside = outside.clone();
    let question = move |probe: Probe| {
        let outside = outside.clone();
        async move {
            let How::Tcp(at) = probe.how else { return Ok(()) };
            let now = outside.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            outside.most_under_way.fetch_max(now, Ordering::SeqCst);
            outside.times.lock().unwrap().entry(at.port()).or_default().push(Instant::now());
            let takes = *outside.takes.lock().unwrap();
            tokio::time::sleep(takes).await;
            outside.under_way.fetch_sub(1, Ordering::SeqCst);
            match outside.down.lock().unwrap().contains(&at.port()) {
                true => Err("refused".to_owned()),
                false => Ok(()),
            }
        }
    };
    tokio::spawn(async move {
        keep_asking(wanted, question, |found: &BTreeMap<u16, Found>| {
            tell.send_replace(found.clone());
        })
        .await;
    });
    (want, told)
}

fn failing(told: &Told) -> Vec<u16> {
    told.borrow().iter().filter(|(_, found)| !found.health.ready).map(|(n, _)| *n).collect()
}

/// Until this is what is told.
async fn until_failing(told: &mut Told, expected: &[u16]) {
    while failing(told) != expected {
        told.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_fails_often_enough_is_told_and_so_is_who_returns() {
    let outside = Arc::new(Outside::default());
    let (_want, mut told) = begin(&outside, 1..=3);
    tokio::time::sleep(INTERVAL * 2).await;
    assert!(failing(&told).is_empty(), "all are well");
    assert_eq!(told.borrow_and_update().len(), 3, "and that is told of each");
    let asked = |n: u16| outside.times.lock().unwrap()[&n].len();
    let before = asked(2);
    outside.down.lock().unwrap().insert(2);
    told.changed().await.unwrap();
    assert_eq!(failing(&told), [2]);
    assert!(asked(2) >= before + 2, "two in a row");
    let down = told.borrow()[&2].clone();
    assert_eq!((down.health.reason.as_str(), down.since), ("refused", Instant::now()));
    outside.down.lock().unwrap().clear();
    let before = asked(2);
    told.changed().await.unwrap();
    assert_eq!((failing(&told), asked(2)), (vec![], before + 2));
}

#[tokio::test(start_paused = true)]
async fn who_is_down_from_the_start_is_known_after_one_question() {
    let outside = Arc::new(Outside::default());
    outside.down.lock().unwrap().insert(1);
    let (_want, mut told) = begin(&outside, 1..=1);
    assert!(failing(&told).is_empty(), "not asked yet, and used");
    let start = Instant::now();
    told.changed().await.unwrap();
    assert_eq!(failing(&told), [1]);
    assert!(start.elapsed() <= INTERVAL);
}

#[tokio::test(start_paused = true)]
async fn questions_are_spread_and_few_at_a_time_and_not_about_everybody() {
    let outside = Arc::new(Outside::default());
    *outside.takes.lock().unwrap() = Duration::from_secs(1);
    let (_want, _told) = begin(&outside, 1..=300);
    tokio::time::sleep(INTERVAL * 40).await;
    let times = outside.times.lock().unwrap();
    assert_eq!(times.len(), MOST);
    assert_eq!(outside.most_under_way.load(Ordering::SeqCst), AT_ONCE);
    // 256 questions of one second each, 16 at once, take 16 s a round: everybody has his turn in each.
    let fewest = times.values().map(Vec::len).min().unwrap();
    assert!(fewest >= 20, "{fewest}");
}

#[tokio::test(start_paused = true)]
async fn a_moment_of_its_own_each_time() {
    let outside = Arc::new(Outside::default());
    let (_want, _told) = begin(&outside, 1..=20);
    tokio::time::sleep(INTERVAL * 20).await;
    let times = outside.times.lock().unwrap();
    let firsts: BTreeSet<Instant> = times.values().map(|times| times[0]).collect();
    assert!(firsts.len() > 10, "they begin together: {firsts:?}");
    let gaps: Vec<Duration> = times.values().flat_map(|times| times.windows(2).map(|two| two[1] - two[0])).collect();
    assert!(gaps.iter().all(|gap| (INTERVAL.mul_f64(0.89)..INTERVAL.mul_f64(1.11)).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().collect::<BTreeSet<_>>().len() > gaps.len() / 2, "in step");
}

#[tokio::test(start_paused = true)]
async fn who_is_no_longer_wanted_fails_no_longer_and_who_stays_is_not_asked_anew() {
    let outside = Arc::new(Outside::default());
    outside.down.lock().unwrap().extend([1, 2]);
    let (want, mut told) = begin(&outside, 1..=2);
    until_failing(&mut told, &[1, 2]).await;
    want.send_replace([(2, probe(2)), (3, probe(3))].into());
    told.changed().await.unwrap();
    assert_eq!(failing(&told), [2]);
    // Asked in another way, it has to be found out anew.
    want.send_replace([(2, Probe { failures: 1, ..probe(2) })].into());
    told.changed().await.unwrap();
    assert!(failing(&told).is_empty() && !told.borrow().contains_key(&2), "nothing is known of it");
    until_failing(&mut told, &[2]).await;
    drop(want);
}
