//! Whether others, whom no sidecar speaks for, can take traffic: each is asked again and again, a few at a time, each at a
//! moment of its own, so that neither a fleet of proxies nor a long list comes down on one host at once. Whoever was not
//! asked yet does not fail. Beyond [`MOST`] nobody is asked, and that is said.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::judge::Judge;
use super::{Health, Probe, ask};
use crate::tcp::DialOptions;

#[cfg(test)]
#[path = "others_test.rs"]
mod others_test;

/// Whom one proxy asks at most.
pub const MOST: usize = 256;
/// Questions under way.
const AT_ONCE: usize = 16;
/// An interval is longer or shorter by at most this part of it.
const JITTER: f64 = 0.1;

/// Whom to ask, by whatever tells them apart.
pub type Wanted<K> = BTreeMap<K, Probe>;

/// What was found of one of them, and since when.
#[derive(Clone, Debug)]
pub struct Found {
    pub health: Health,
    pub since: Instant,
}

struct Asked {
    probe: Probe,
    judge: Judge,
    next: Instant,
    under_way: bool,
    /// Of two that had the same name, an answer is the later one's.
    life: u64,
}

/// Asks until `stop`, and tells what was found of whom each time that changes. Of whom no answer has come, nothing is.
pub async fn keep_others<K: Ord + Clone + Display + Send + 'static>(
    wanted: watch::Receiver<Wanted<K>>,
    options: DialOptions,
    told: impl FnMut(&BTreeMap<K, Found>),
    stop: CancellationToken,
) {
    let question = move |probe: Probe| async move { ask(&probe, options).await };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_asking(wanted, question, told) => {}
    }
}

async fn keep_asking<K, F>(
    mut wanted: watch::Receiver<Wanted<K>>,
    question: impl Fn(Probe) -> F,
    mut told: impl FnMut(&BTreeMap<K, Found>),
) where
    K: Ord + Clone + Display + Send + 'static,
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut all: BTreeMap<K, Asked> = BTreeMap::new();
    let mut found: BTreeMap<K, Found> = BTreeMap::new();
    let mut asking: JoinSet<(K, u64, Result<(), String>)> = JoinSet::new();
    let mut lives = 0;
    take_over(&wanted.borrow_and_update().clone(), &mut all, &mut lives);
    loop {
        let now = Instant::now();
        let due = all.iter_mut().filter(|(_, asked)| !asked.under_way && asked.next <= now);
        let mut due: Vec<_> = due.collect();
        // Who has waited longest is first, so that nobody is forgotten where there are more questions than time.
        due.sort_by_key(|(_, asked)| asked.next);
        for (key, asked) in due.into_iter().take(AT_ONCE.saturating_sub(asking.len())) {
            asked.under_way = true;
            let (key, life, answer) = (key.clone(), asked.life, question(asked.probe.clone()));
            asking.spawn(async move { (key, life, answer.await) });
        }
        let next = all.values().filter(|asked| !asked.under_way).map(|asked| asked.next).min();
        let has_room = asking.len() < AT_ONCE;
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                take_over(&wanted.borrow_and_update().clone(), &mut all, &mut lives);
                let before = found.len();
                // A probe that was asked in another way has said nothing yet.
                found.retain(|key, _| all.get(key).is_some_and(|asked| asked.judge.has_heard()));
                if found.len() != before {
                    told(&found);
                }
            }
            Some(answered) = asking.join_next() => {
                // A question that panicked counts for nobody; it is asked again with the next list.
                let Ok((key, life, answer)) = answered else { continue };
                let Some(asked) = all.get_mut(&key).filter(|asked| asked.life == life) else { continue };
                (asked.under_way, asked.next) = (false, now + jittered(asked.probe.interval));
                let Some(health) = asked.judge.hear(answer) else { continue };
                match health.ready {
                    true if found.contains_key(&key) => {
                        tracing::info!(endpoint = %key, "passes its health check: it gets traffic");
                    }
                    true => {}
                    false => {
                        tracing::warn!(endpoint = %key, reason = health.reason, "fails its health check: it gets no traffic");
                    }
                }
                found.insert(key, Found { health, since: Instant::now() });
                told(&found);
            }
            () = sleep_until(next.unwrap_or(now)), if next.is_some() && has_room => {}
        }
    }
}

/// Who stays keeps what was heard of him; who is new has a first moment somewhere in his interval.
fn take_over<K: Ord + Clone>(wanted: &Wanted<K>, all: &mut BTreeMap<K, Asked>, lives: &mut u64) {
    if wanted.len() > MOST {
        let left_out = wanted.len() - MOST;
        tracing::warn!(
            left_out,
            "more endpoints outside have a health check than one proxy asks: the rest is used unasked"
        );
    }
    let mut next = BTreeMap::new();
    for (key, probe) in wanted.iter().take(MOST) {
        let known = all.remove(key).filter(|asked| asked.probe == *probe);
        let asked = known.unwrap_or_else(|| {
            *lives += 1;
            Asked {
                judge: Judge::new(probe.failures, probe.successes),
                next: Instant::now() + probe.interval.mul_f64(rand::random::<f64>()),
                probe: probe.clone(),
                under_way: false,
                life: *lives,
            }
        });
        next.insert(key.clone(), asked);
    }
    *all = next;
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * rand::random::<f64>())
}
