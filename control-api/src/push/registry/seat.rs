//! A stream's hold on its proxy's entry: what it sent, what was answered, and that it is gone. A stream that was replaced
//! changes nothing any more.

use super::Registry;
use super::proxies::Entry;
use crate::index::View;
use isthmus_certs::skew_in_words;
use isthmus_proto::discovery::v1::Health;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Of a probe's reason, for operators.
const MAX_REASON: usize = 200;
/// Proxies that went away are remembered up to this many; the longest gone are forgotten first.
const REMEMBERED: usize = 20_000;

/// Certificates bear 5 minutes; well before that an operator should know.
const SKEW_WORTH_A_WARNING_MS: u64 = 30_000;
/// Less is the time on the way, and nobody is woken for it.
const SKEW_WORTH_NOTING_MS: u64 = 1_000;

/// A proxy's entry while its stream lives. Dropping it marks the proxy as gone.
#[derive(Debug)]
pub struct Seat<'a> {
    pub(super) registry: &'a Registry,
    pub(super) workload: Arc<str>,
    pub(super) stream: u64,
    /// Cancelled when a newer stream of the same workload takes over.
    pub replaced: CancellationToken,
    /// Told when something was committed that concerns this proxy.
    pub wake: Arc<Notify>,
}

impl Seat<'_> {
    pub(super) fn update(&self, change: impl FnOnce(&mut Entry)) {
        let mut proxies = self.registry.proxies();
        let revision = proxies.revision;
        if let Some(entry) = proxies.all.get_mut(&self.workload).filter(|entry| entry.stream == self.stream) {
            change(entry);
            entry.settle(revision);
        }
        drop(proxies);
        self.registry.changed();
    }

    /// Whether its app can take traffic, by its own word. Who says nothing is ready.
    pub fn health(&self, health: Option<&Health>) {
        let reason =
            health.filter(|health| !health.ready).map(|health| health.reason.chars().take(MAX_REASON).collect());
        let mut proxies = self.registry.proxies();
        let Some(entry) = proxies.all.get_mut(&self.workload).filter(|entry| entry.stream == self.stream) else {
            return;
        };
        entry.proxy.unready.clone_from(&reason);
        let was = match reason {
            Some(reason) => proxies.unready.insert(self.workload.clone(), reason).is_some(),
            None => proxies.unready.remove(&self.workload).is_some(),
        };
        if was != health.is_some_and(|health| !health.ready) {
            self.registry.moved.notify_one();
        }
        drop(proxies);
        self.registry.changed();
    }

    /// What its clock says, minus ours: at its hello, and each time that it says so again.
    pub fn clock(&self, skew_ms: i64) {
        let mut proxies = self.registry.proxies();
        let Some(entry) = proxies.all.get_mut(&self.workload).filter(|entry| entry.stream == self.stream) else {
            return;
        };
        if entry.proxy.skew_ms.abs_diff(skew_ms) < SKEW_WORTH_NOTING_MS {
            return;
        }
        entry.proxy.skew_ms = skew_ms;
        drop(proxies);
        self.registry.changed();
        if skew_ms.unsigned_abs() > SKEW_WORTH_A_WARNING_MS {
            tracing::warn!(workload = &*self.workload, "{}", skew_in_words(skew_ms));
        }
    }

    /// A delta was made of the world at this version and turn. True: look again, since of a commit after it this proxy may not
    /// have been told; it was not known yet what it uses.
    pub fn sent(&self, version: u64, turn: u64, view: impl Into<View>) -> bool {
        self.looked(turn, view.into(), |entry| {
            entry.proxy.sent = version;
            entry.covers = version;
            entry.proxy.behind_since.get_or_insert_with(Instant::now);
        })
    }

    /// A view that did not change needs no push: what holds of the version that was sent holds of this one too.
    pub fn up_to_date(&self, version: u64, turn: u64, view: impl Into<View>) -> bool {
        self.looked(turn, view.into(), |entry| entry.covers = entry.covers.max(version))
    }

    fn looked(&self, turn: u64, view: View, change: impl FnOnce(&mut Entry)) -> bool {
        let mut proxies = self.registry.proxies();
        let (revision, again) = (proxies.revision, proxies.turn > turn);
        if proxies.all.get(&self.workload).is_some_and(|entry| entry.stream == self.stream) {
            proxies.uses(&self.workload, view);
        }
        if let Some(entry) = proxies.all.get_mut(&self.workload).filter(|entry| entry.stream == self.stream) {
            change(entry);
            entry.woken = again;
            entry.settle(revision);
        }
        drop(proxies);
        self.registry.changed();
        again
    }

    pub fn acked(&self, version: u64, now_ms: i64) {
        self.update(|entry| {
            let reached = entry.reached(version);
            let proxy = &mut entry.proxy;
            proxy.acked = proxy.acked.max(reached);
            proxy.last_seen_unix_ms = now_ms;
            if proxy.acked >= proxy.nacked {
                proxy.last_error.clear();
            }
        });
    }

    pub fn nacked(&self, version: u64, reason: String, now_ms: i64) {
        self.update(|entry| {
            let reached = entry.reached(version);
            entry.proxy.nacked = entry.proxy.nacked.max(reached);
            entry.proxy.last_error = reason;
            entry.proxy.last_seen_unix_ms = now_ms;
        });
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.update(|_| ());
        // Settled while connected; what comes after it does not reach this proxy.
        self.update(|entry| entry.proxy.connected = false);
        let mut proxies = self.registry.proxies();
        if proxies.all.get(&self.workload).is_some_and(|entry| entry.stream == self.stream) {
            proxies.moves.insert(self.workload.clone(), false);
            self.registry.moved.notify_one();
        }
        if proxies.all.len() > REMEMBERED {
            let gone = proxies.all.iter().filter(|(_, entry)| !entry.proxy.connected);
            let longest =
                gone.min_by_key(|(_, entry)| entry.proxy.last_seen_unix_ms).map(|(workload, _)| workload.clone());
            if let Some(longest) = longest {
                proxies.leave(&longest);
                proxies.unready.remove(&longest);
            }
        }
    }
}
