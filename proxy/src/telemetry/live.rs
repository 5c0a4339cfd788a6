//! What passes now, for whoever looks at it through the control plane. While nobody does, a request costs one load. A
//! looker who is slow, or asks for much, loses what does not fit: it is counted, and no request waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use isthmus_proto::live::v1 as wire;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

/// A request or connection that has ended.
pub use isthmus_proto::live::v1::Passed;

/// What waits to be told to one looker: a second of the most that one may ask for.
const WAITING: usize = 1_000;
const MOST_PER_SECOND: u32 = 1_000;
const USUAL_PER_SECOND: u32 = 100;
/// Of a path or host. No query, and no header: they hold secrets.
const LONGEST: usize = 256;
/// Lookers at once.
const MOST_LOOKERS: usize = 8;

/// Everybody who looks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    looked_at: AtomicBool,
    lookers: ArcSwap<Vec<Arc<Looker>>>,
    /// Held while the list is changed.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Looker {
    filter: Filter,
    told: mpsc::Sender<Passed>,
    dropped: AtomicU64,
    /// The second that counts, and what was told in it.
    budget: Mutex<(Instant, u32)>,
}

/// All that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    direction: Option<&'static str>,
    method: String,
    path: String,
    status: Option<(u32, u32)>,
    reason: String,
    peer: String,
    port: u32,
    most_per_second: u32,
}

/// One who looks, until this is dropped.
#[derive(Debug)]
pub struct Looking {
    live: Live,
    looker: Arc<Looker>,
    passed: mpsc::Receiver<Passed>,
}

/// A path or host as it is told.
pub fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Live {
    /// Whether anybody does. What has to be kept of a request for them is kept only then.
    pub fn looks(&self) -> bool {
        self.0.looked_at.load(Relaxed)
    }

    /// Tells all whom it concerns.
    pub fn passed(&self, passed: &Passed) {
        for looker in self.0.lookers.load().iter().filter(|looker| looker.filter.takes(passed)) {
            if !looker.may_be_told() || looker.told.try_send(passed.clone()).is_err() {
                looker.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// From now on this filter's matches are told. Nothing where too many look already.
    pub fn look(&self, filter: Filter) -> Option<Looking> {
        let (told, passed) = mpsc::channel(WAITING);
        let budget = Mutex::new((Instant::now(), 0));
        let looker = Arc::new(Looker { filter, told, dropped: AtomicU64::new(0), budget });
        self.change(|lookers| (lookers.len() < MOST_LOOKERS).then(|| lookers.push(looker.clone())))?;
        Some(Looking { live: self.clone(), looker, passed })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<Looker>>) -> T) -> T {
        let _one_at_a_time = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lookers = Vec::clone(&self.0.lookers.load());
        let done = change(&mut lookers);
        self.0.looked_at.store(!lookers.is_empty(), Relaxed);
        self.0.lookers.store(Arc::new(lookers));
        done
    }
}

impl Looker {
    fn may_be_told(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, told) = &mut *budget;
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *told) = (Instant::now(), 0);
        }
        *told += 1;
        *told <= self.filter.most_per_second
    }
}

impl Looking {
    /// The next ones, at least one and at most `most`.
    pub async fn next(&mut self, most: usize) -> Vec<Passed> {
        let mut next = Vec::new();
        self.passed.recv_many(&mut next, most).await;
        next
    }

    /// What else there is now.
    pub fn rest(&mut self, most: usize) -> impl Iterator<Item = Passed> {
        std::iter::from_fn(|| self.passed.try_recv().ok()).take(most)
    }

    /// How many matched and were not told.
    pub fn dropped(&self) -> u64 {
        self.looker.dropped.load(Relaxed)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.live.change(|lookers| lookers.retain(|looker| !Arc::ptr_eq(looker, &self.looker)));
    }
}

impl Filter {
    /// As an operator asked for it, within bounds.
    pub fn read(asked: wire::Filter) -> Filter {
        let direction = ["inbound", "outbound"].into_iter().find(|word| *word == asked.direction);
        let status = (asked.status_to > 0).then_some((asked.status_from, asked.status_to));
        let most_per_second = match asked.most_per_second {
            0 => USUAL_PER_SECOND,
            wished => wished.min(MOST_PER_SECOND),
        };
        let wire::Filter { method, path, reason, peer, port, .. } = asked;
        Filter { direction, method, path, status, reason, peer, port, most_per_second }
    }

    fn takes(&self, passed: &Passed) -> bool {
        self.direction.is_none_or(|direction| direction == passed.direction)
            && (self.method.is_empty() || self.method.eq_ignore_ascii_case(&passed.method))
            && passed.path.starts_with(&self.path)
            && self.status.is_none_or(|(from, to)| (from..=to).contains(&passed.status))
            && match self.reason.as_str() {
                "" => true,
                "*" => !passed.reason.is_empty(),
                word => word == passed.reason,
            }
            && (passed.caller.ends_with(&self.peer) || passed.callee.ends_with(&self.peer))
            && (self.port == 0 || self.port == passed.port)
    }
}

#[cfg(test)]
#[path = "live_test.rs"]
mod live_test;
