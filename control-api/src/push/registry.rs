//! Who is connected, and how far each has got. Written by the stream tasks, read by the admin API.

use crate::ledger::Committed;
use isthmus_certs::PeerIdentity;
use isthmus_proto::model::ResourceKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Proxies that went away are remembered up to this many; the longest gone are forgotten first.
const REMEMBERED: usize = 20_000;

/// What is known of one workload's proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub workload: String,
    pub spiffe_id: String,
    pub build_version: String,
    pub connected: bool,
    pub sent: u64,
    /// Acknowledged: in force there.
    pub acked: u64,
    /// Refused: the proxy keeps its last good view.
    pub nacked: u64,
    pub last_error: String,
    pub last_seen_unix_ms: i64,
    pub serial: String,
    pub not_after_unix_ms: i64,
    /// Its clock minus ours, when it last said hello. The time on the way counts as if it were ahead of us.
    pub skew_ms: i64,
    /// The keys of its view, to tell whom a change concerns.
    keys: BTreeSet<ResourceKey>,
    /// The latest revision at which the view that was sent was still the right one; at least `sent`.
    covers: u64,
    stream: u64,
    replaced: CancellationToken,
}

/// How far a revision has got with one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Acknowledged,
    Waiting,
    Refused(String),
    Offline,
}

#[derive(Debug)]
pub struct Registry {
    proxies: Mutex<BTreeMap<String, Proxy>>,
    /// Counts changes, so that waiting needs no polling.
    changes: watch::Sender<u64>,
}

/// A proxy's entry while its stream lives. Dropping it marks the proxy as gone.
#[derive(Debug)]
pub struct Seat<'a> {
    registry: &'a Registry,
    workload: String,
    stream: u64,
    /// Cancelled when a newer stream of the same workload takes over.
    pub replaced: CancellationToken,
}

impl Default for Registry {
    fn default() -> Self {
        Registry { proxies: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Registry {
    fn proxies(&self) -> MutexGuard<'_, BTreeMap<String, Proxy>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A stream has said hello. An older one of the same workload is ended: a proxy that reconnects after a cut comes
    /// before its old stream is noticed to be dead.
    pub fn arrive(&self, workload: &str, build: &str, peer: &PeerIdentity, now_ms: i64) -> Seat<'_> {
        let replaced = CancellationToken::new();
        let mut proxies = self.proxies();
        let old = proxies.remove(workload);
        let stream = old.as_ref().map_or(1, |old| old.stream + 1);
        let proxy = Proxy {
            workload: workload.to_string(),
            spiffe_id: peer.id.to_string(),
            build_version: build.chars().take(64).collect(),
            connected: true,
            sent: 0,
            acked: 0,
            nacked: 0,
            last_error: String::new(),
            last_seen_unix_ms: now_ms,
            serial: peer.serial.to_string(),
            not_after_unix_ms: i64::try_from(peer.not_after.as_secs()).unwrap_or(0).saturating_mul(1000),
            skew_ms: 0,
            keys: old.as_ref().map(|old| old.keys.clone()).unwrap_or_default(),
            covers: 0,
            stream,
            replaced: replaced.clone(),
        };
        if let Some(old) = old {
            old.replaced.cancel();
        }
        proxies.insert(workload.to_string(), proxy);
        drop(proxies);
        self.changed();
        Seat { registry: self, workload: workload.to_string(), stream, replaced }
    }

    pub fn list(&self) -> Vec<Proxy> {
        self.proxies().values().cloned().collect()
    }

    pub fn connected(&self) -> usize {
        self.proxies().values().filter(|proxy| proxy.connected).count()
    }

    /// Wakes at each change of any proxy.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How far a commit has got with every proxy that it concerns.
    pub fn progress(&self, commit: &Committed) -> Vec<(String, Progress)> {
        let proxies = self.proxies();
        let concerned = proxies.values().filter(|p| commit.changed.concerns(&p.workload, p.keys.iter()));
        concerned.map(|proxy| (proxy.workload.clone(), proxy.progress(commit.revision))).collect()
    }
}

impl Proxy {
    /// What an answer to this version speaks of; a version that was never sent speaks of nothing more.
    fn reached(&self, version: u64) -> u64 {
        if version >= self.sent { self.covers } else { version }
    }

    fn progress(&self, revision: u64) -> Progress {
        if self.nacked >= revision && self.acked < self.nacked {
            Progress::Refused(self.last_error.clone())
        } else if self.acked >= revision {
            Progress::Acknowledged
        } else if self.connected {
            Progress::Waiting
        } else {
            Progress::Offline
        }
    }
}

impl Seat<'_> {
    fn update(&self, change: impl FnOnce(&mut Proxy)) {
        let mut proxies = self.registry.proxies();
        if let Some(proxy) = proxies.get_mut(&self.workload).filter(|proxy| proxy.stream == self.stream) {
            change(proxy);
        }
        drop(proxies);
        self.registry.changed();
    }

    /// What its clock says, minus ours.
    pub fn clock(&self, skew_ms: i64) {
        self.update(|proxy| proxy.skew_ms = skew_ms);
    }

    pub fn sent(&self, version: u64, keys: BTreeSet<ResourceKey>) {
        self.update(|proxy| {
            proxy.sent = version;
            proxy.covers = version;
            proxy.keys = keys;
        });
    }

    /// A view that did not change needs no push: what holds of the version that was sent holds of this one too.
    pub fn up_to_date(&self, version: u64) {
        self.update(|proxy| {
            proxy.covers = proxy.covers.max(version);
            if proxy.acked >= proxy.sent {
                proxy.acked = proxy.covers;
            } else if proxy.nacked >= proxy.sent {
                proxy.nacked = proxy.covers;
            }
        });
    }

    pub fn acked(&self, version: u64, now_ms: i64) {
        self.update(|proxy| {
            proxy.acked = proxy.acked.max(proxy.reached(version));
            proxy.last_seen_unix_ms = now_ms;
            if proxy.acked >= proxy.nacked {
                proxy.last_error.clear();
            }
        });
    }

    pub fn nacked(&self, version: u64, reason: String, now_ms: i64) {
        self.update(|proxy| {
            proxy.nacked = proxy.nacked.max(proxy.reached(version));
            proxy.last_error = reason;
            proxy.last_seen_unix_ms = now_ms;
        });
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.update(|proxy| proxy.connected = false);
        let mut proxies = self.registry.proxies();
        if proxies.len() > REMEMBERED {
            let gone = proxies.values().filter(|proxy| !proxy.connected);
            let longest = gone.min_by_key(|proxy| proxy.last_seen_unix_ms).map(|proxy| proxy.workload.clone());
            longest.map(|workload| proxies.remove(&workload));
        }
    }
}
