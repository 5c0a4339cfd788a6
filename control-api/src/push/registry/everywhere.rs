//! The proxies of the whole mesh, where several control planes serve it: what is connected here, and what each of the
//! others tells of its own share. What is told is as old as its replica's revision says.

use super::proxies::Entry;
use super::{Progress, Proxy, Registry, Use};
use crate::index::View;
use crate::ledger::Committed;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What the other control planes tell, by their names.
#[derive(Debug, Default)]
pub struct Elsewhere(pub BTreeMap<String, Share>);

/// One control plane's proxies.
#[derive(Debug, Default)]
pub struct Share {
    /// The latest revision whose users it has woken. Of a later one it says nothing yet.
    pub revision: u64,
    pub rows: Vec<Row>,
    /// What its proxies use, by `<namespace>/<name>` of the service.
    pub uses: HashMap<String, Use>,
}

/// One proxy, as its control plane tells the others. It changes when the proxy does, and not with each revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Row {
    pub workload: String,
    pub spiffe_id: String,
    pub build_version: String,
    pub connected: bool,
    pub sent: u64,
    pub acked: u64,
    pub nacked: u64,
    /// As [`Entry::covers`], and whether every later revision is covered too until something is said.
    pub covers: u64,
    pub follows: bool,
    /// The latest revision that concerned it.
    pub concerned: u64,
    pub last_error: String,
    pub last_seen_unix_ms: i64,
    pub serial: String,
    pub not_after_unix_ms: i64,
    pub skew_ms: i64,
    pub unready: Option<String>,
    pub behind_since_unix_ms: Option<i64>,
}

/// A moment by both clocks, so that "since when" is the same number each time it is written.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at: Instant,
    pub unix_ms: i64,
}

impl Moment {
    fn unix_ms(self, at: Instant) -> i64 {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        match at.checked_duration_since(self.at) {
            Some(after) => self.unix_ms.saturating_add(ms(after)),
            None => self.unix_ms.saturating_sub(ms(self.at.duration_since(at))),
        }
    }
}

impl Row {
    fn of(entry: &Entry, moment: Moment) -> Row {
        let proxy = &entry.proxy;
        Row {
            workload: proxy.workload.clone(),
            spiffe_id: proxy.spiffe_id.clone(),
            build_version: proxy.build_version.clone(),
            connected: proxy.connected,
            sent: proxy.sent,
            acked: proxy.acked,
            nacked: proxy.nacked,
            covers: entry.covers,
            follows: proxy.connected && !entry.woken,
            concerned: entry.concerned,
            last_error: proxy.last_error.clone(),
            last_seen_unix_ms: proxy.last_seen_unix_ms,
            serial: proxy.serial.clone(),
            not_after_unix_ms: proxy.not_after_unix_ms,
            // It is measured each minute, and always a little different.
            skew_ms: proxy.skew_ms / 1000 * 1000,
            unready: proxy.unready.clone(),
            behind_since_unix_ms: proxy.behind_since.map(|since| moment.unix_ms(since)),
        }
    }

    /// As it stands at its replica's revision.
    fn proxy(&self, revision: u64, now_ms: i64) -> Proxy {
        let behind = |since: i64| Duration::from_millis(u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0));
        let back = |by: Duration| Instant::now().checked_sub(by).unwrap_or_else(Instant::now);
        let mut proxy = Proxy {
            workload: self.workload.clone(),
            spiffe_id: self.spiffe_id.clone(),
            build_version: self.build_version.clone(),
            connected: self.connected,
            sent: self.sent,
            acked: self.acked,
            nacked: self.nacked,
            last_error: self.last_error.clone(),
            last_seen_unix_ms: self.last_seen_unix_ms,
            serial: self.serial.clone(),
            not_after_unix_ms: self.not_after_unix_ms,
            skew_ms: self.skew_ms,
            unready: self.unready.clone(),
            behind_since: self.behind_since_unix_ms.map(|since| back(behind(since))),
            arrival: super::Arrival::default(),
            copy: None,
        };
        proxy.settle(if self.follows { self.covers.max(revision) } else { self.covers });
        proxy
    }
}

impl Registry {
    /// The proxies of this control plane, for the others.
    pub fn share(&self, moment: Moment) -> Share {
        let proxies = self.proxies();
        let rows = proxies.all.values().map(|entry| Row::of(entry, moment)).collect();
        Share { revision: proxies.revision, rows, uses: Self::uses(&proxies) }
    }

    /// The others have told something.
    pub fn hear(&self, elsewhere: Elsewhere) {
        *self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(elsewhere);
        self.changed();
    }

    pub(super) fn elsewhere(&self) -> Arc<Elsewhere> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every proxy of the mesh, by workload, with the control plane that serves it; none: this one.
    pub fn everywhere(&self, now_ms: i64) -> BTreeMap<String, (Option<String>, Proxy)> {
        let mut all: BTreeMap<String, (Option<String>, Proxy)> = BTreeMap::new();
        all.extend(self.list().into_iter().map(|proxy| (proxy.workload.clone(), (None, proxy))));
        for (replica, share) in &self.elsewhere().0 {
            for row in &share.rows {
                let theirs = || (Some(replica.clone()), row.proxy(share.revision, now_ms));
                match all.get_mut(&row.workload) {
                    // Who came from one to another is told by both for a moment.
                    Some((_, known)) if known.is_fresher_than(row.connected, row.last_seen_unix_ms) => {}
                    Some(known) => *known = theirs(),
                    None => drop(all.insert(row.workload.clone(), theirs())),
                }
            }
        }
        all
    }

    /// Whose apps are not ready by the word of whoever serves them, anywhere.
    pub fn unready_anywhere(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.unready().into_keys().map(|workload| workload.to_string()).collect();
        for share in self.elsewhere().0.values() {
            for row in share.rows.iter().filter(|row| row.connected) {
                match row.unready {
                    Some(_) => drop(all.insert(row.workload.clone())),
                    None => drop(all.remove(&row.workload)),
                }
            }
        }
        all
    }

    /// How far a commit has got with every proxy of the mesh that it concerns, and which control planes have yet to say.
    pub fn progress_everywhere(&self, commit: &Committed, now_ms: i64) -> (Vec<(String, Progress)>, Vec<String>) {
        let mut all: BTreeMap<String, Progress> = self.progress(commit).into_iter().collect();
        let mut silent = Vec::new();
        for (replica, share) in &self.elsewhere().0 {
            if share.revision < commit.revision {
                silent.push(replica.clone());
                continue;
            }
            for row in &share.rows {
                let proxy = row.proxy(share.revision, now_ms);
                let now = proxy.progress(commit.revision);
                // What it uses is not told; that something of this revision or later concerned it is. Who has answered
                // nothing yet is in its first sync, and may hold anything from before.
                let first_sync = row.acked == 0 && row.nacked == 0;
                let concerned = commit.changed.concerns(&row.workload, &View::default())
                    || (row.connected && (first_sync || row.concerned >= commit.revision));
                let theirs_counts = |ours: &Progress| *ours == Progress::Offline && now != Progress::Offline;
                if concerned && all.get(&row.workload).is_none_or(theirs_counts) {
                    all.insert(row.workload.clone(), now);
                }
            }
        }
        (all.into_iter().collect(), silent)
    }
}
