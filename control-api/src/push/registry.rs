//! Who is connected, how far each has got, and who uses what: a commit wakes those whom it concerns and nobody else.
//! Written by the stream tasks and by [`super::wake`], read by the admin API.

use super::copies::{self, Copy, Machine};
use crate::index::Changed;
use crate::ledger::Committed;
use isthmus_certs::PeerIdentity;
use isthmus_proto::model::ResourceKey;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
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
    /// Since when something that concerns it is not in force there.
    pub behind_since: Option<Instant>,
    pub arrival: Arrival,
    /// Another machine that came with the same identity.
    pub copy: Option<Copy>,
}

/// Where a stream comes from.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    pub machine: Machine,
    /// When and with which certificate its line of certificates began; the later one is an operator's word.
    pub enrolment: (i64, String),
}

/// Another machine has this identity in use.
#[derive(Debug)]
pub struct Refused {
    pub holder: Machine,
    pub copy: Copy,
}

#[derive(Debug)]
struct Entry {
    proxy: Proxy,
    /// The keys of its view, to tell whom a change concerns.
    keys: BTreeSet<ResourceKey>,
    /// The latest revision at which the view that was sent was still the right one; at least `sent`.
    covers: u64,
    /// Something that concerns it was committed, and its stream has not looked yet.
    woken: bool,
    stream: u64,
    replaced: CancellationToken,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Proxies {
    all: BTreeMap<Arc<str>, Entry>,
    /// Connected proxies by what they use.
    users: HashMap<ResourceKey, BTreeSet<Arc<str>>>,
    /// The latest revision whose users were woken, and the turn that it was published in.
    revision: u64,
    turn: u64,
    /// Who came (true) or left, until [`super::lease`] takes it; the last counts.
    moves: BTreeMap<Arc<str>, bool>,
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
    proxies: Mutex<Proxies>,
    /// Counts changes, so that waiting needs no polling.
    changes: watch::Sender<u64>,
    moved: Notify,
}

/// A proxy's entry while its stream lives. Dropping it marks the proxy as gone.
#[derive(Debug)]
pub struct Seat<'a> {
    registry: &'a Registry,
    workload: Arc<str>,
    stream: u64,
    /// Cancelled when a newer stream of the same workload takes over.
    pub replaced: CancellationToken,
    /// Told when something was committed that concerns this proxy.
    pub wake: Arc<Notify>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry { proxies: Mutex::default(), changes: watch::Sender::new(0), moved: Notify::new() }
    }
}

impl Registry {
    fn proxies(&self) -> MutexGuard<'_, Proxies> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A stream has said hello. An older one of the same workload is ended: a proxy that reconnects after a cut comes
    /// before its old stream is noticed to be dead.
    #[cfg(test)]
    pub fn arrive(&self, workload: &str, build: &str, peer: &PeerIdentity, now_ms: i64) -> Seat<'_> {
        self.arrive_from(workload, build, peer, now_ms, Arrival::default()).unwrap()
    }

    /// As [`arrive`](Self::arrive), unless another machine has the identity in use and was not replaced by an enrolment.
    pub fn arrive_from(
        &self,
        workload: &str,
        build: &str,
        peer: &PeerIdentity,
        now_ms: i64,
        arrival: Arrival,
    ) -> Result<Seat<'_>, Refused> {
        let (replaced, wake) = (CancellationToken::new(), Arc::new(Notify::new()));
        let workload: Arc<str> = workload.into();
        let mut proxies = self.proxies();
        if let Some(refused) = proxies.all.get_mut(&workload).and_then(|held| held.proxy.refuse(&arrival, now_ms)) {
            drop(proxies);
            self.changed();
            return Err(refused);
        }
        let old = proxies.leave(&workload);
        let stream = old.as_ref().map_or(1, |old| old.stream + 1);
        if let Some(old) = &old {
            old.replaced.cancel();
        }
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
            behind_since: Some(Instant::now()),
            // Whoever holds it now is not a copy of itself.
            copy: old.as_ref().and_then(|old| old.proxy.copy.clone()).filter(|c| c.machine.differs(&arrival.machine)),
            arrival,
        };
        let entry = Entry {
            proxy,
            keys: BTreeSet::new(),
            covers: 0,
            // Until it was sent its first view, everything concerns it.
            woken: true,
            stream,
            replaced: replaced.clone(),
            wake: wake.clone(),
        };
        proxies.all.insert(workload.clone(), entry);
        proxies.moves.insert(workload.clone(), true);
        self.moved.notify_one();
        if let Some(old) = old {
            proxies.uses(&workload, old.keys);
        }
        drop(proxies);
        self.changed();
        Ok(Seat { registry: self, workload, stream, replaced, wake })
    }

    /// Whether a machine may have a certificate of this workload renewed: not while another one uses it.
    pub fn may_renew(&self, workload: &str, arrival: &Arrival, now_ms: i64) -> Result<(), Refused> {
        let mut proxies = self.proxies();
        match proxies.all.get_mut(workload).and_then(|held| held.proxy.refuse(arrival, now_ms)) {
            Some(refused) if refused.copy.certain => Err(refused),
            _ => Ok(()),
        }
    }

    /// These commits are published: whom they concern is woken. `None`: too many to know; everybody is.
    pub fn publish(&self, revision: u64, turn: u64, commits: Option<&[Committed]>) -> usize {
        let mut proxies = self.proxies();
        let proxies = &mut *proxies;
        let before = std::mem::replace(&mut proxies.revision, revision);
        proxies.turn = turn;
        let concerned = match commits {
            Some(commits) => proxies.concerned(commits),
            None => proxies.all.keys().cloned().collect(),
        };
        let mut woken = 0;
        for workload in &concerned {
            if let Some(entry) = proxies.all.get_mut(workload).filter(|entry| entry.proxy.connected) {
                // What was sent was the right view until now, unless something waits to be looked at already.
                entry.covers = entry.covers_now(before);
                entry.woken = true;
                entry.proxy.behind_since.get_or_insert_with(Instant::now);
                entry.wake.notify_one();
                woken += 1;
            }
        }
        self.changed();
        woken
    }

    /// Who came and who left since this was last asked.
    pub fn take_moves(&self) -> BTreeMap<Arc<str>, bool> {
        std::mem::take(&mut self.proxies().moves)
    }

    /// Somebody came or left.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    pub fn list(&self) -> Vec<Proxy> {
        let proxies = self.proxies();
        proxies.all.values().map(|entry| entry.now(proxies.revision)).collect()
    }

    pub fn connected(&self) -> usize {
        self.proxies().all.values().filter(|entry| entry.proxy.connected).count()
    }

    /// Connected proxies that use it.
    pub fn users(&self, key: &ResourceKey) -> usize {
        let proxies = self.proxies();
        let users = proxies.users.get(key).into_iter().flatten();
        users.filter(|workload| proxies.all.get(*workload).is_some_and(|entry| entry.proxy.connected)).count()
    }

    pub fn connected_workloads(&self) -> HashSet<String> {
        self.list().into_iter().filter(|proxy| proxy.connected).map(|proxy| proxy.workload).collect()
    }

    /// Wakes at each change of any proxy.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How far a commit has got with every proxy that it concerns.
    pub fn progress(&self, commit: &Committed) -> Vec<(String, Progress)> {
        let proxies = self.proxies();
        let concerned = proxies.all.iter().filter(|(workload, entry)| commit.changed.concerns(workload, &entry.keys));
        let progress = |entry: &Entry| entry.now(proxies.revision).progress(commit.revision);
        concerned.map(|(workload, entry)| (workload.to_string(), progress(entry))).collect()
    }
}

impl Proxies {
    fn concerned(&self, commits: &[Committed]) -> BTreeSet<Arc<str>> {
        let mut concerned = BTreeSet::new();
        for Changed { mesh, inbound, keys } in commits.iter().map(|commit| &*commit.changed) {
            if *mesh {
                return self.all.keys().cloned().collect();
            }
            let own = inbound.iter().filter_map(|workload| self.all.get_key_value(workload.as_str()));
            concerned.extend(own.map(|(workload, _)| workload.clone()));
            concerned.extend(keys.iter().filter_map(|key| self.users.get(key)).flatten().cloned());
        }
        concerned
    }

    /// From now on the proxy uses these keys and no others.
    fn uses(&mut self, workload: &Arc<str>, keys: BTreeSet<ResourceKey>) {
        let Some(entry) = self.all.get_mut(workload) else { return };
        let old = std::mem::replace(&mut entry.keys, keys);
        for key in entry.keys.difference(&old) {
            self.users.entry(key.clone()).or_default().insert(workload.clone());
        }
        let gone: Vec<ResourceKey> = old.difference(&entry.keys).cloned().collect();
        gone.iter().for_each(|key| self.unuse(workload, key));
    }

    fn unuse(&mut self, workload: &Arc<str>, key: &ResourceKey) {
        if let Some(users) = self.users.get_mut(key) {
            users.remove(workload);
            if users.is_empty() {
                self.users.remove(key);
            }
        }
    }

    /// Takes a proxy out, with what it used.
    fn leave(&mut self, workload: &Arc<str>) -> Option<Entry> {
        let entry = self.all.remove(workload)?;
        entry.keys.iter().for_each(|key| self.unuse(workload, key));
        Some(entry)
    }
}

impl Entry {
    /// What an answer to this version speaks of; a version that was never sent speaks of nothing more.
    fn reached(&self, version: u64) -> u64 {
        if version >= self.proxy.sent { self.covers } else { version }
    }

    /// Whom no commit has concerned holds the present revision, though nobody told him so.
    fn covers_now(&self, revision: u64) -> u64 {
        let follows = self.proxy.connected && !self.woken;
        if follows { self.covers.max(revision) } else { self.covers }
    }

    fn now(&self, revision: u64) -> Proxy {
        let mut proxy = self.proxy.clone();
        let covers = self.covers_now(revision);
        if proxy.acked >= proxy.sent && proxy.sent > 0 {
            proxy.acked = proxy.acked.max(covers);
        } else if proxy.nacked >= proxy.sent && proxy.sent > 0 {
            proxy.nacked = proxy.nacked.max(covers);
        }
        proxy
    }

    fn settle(&mut self, revision: u64) {
        self.covers = self.covers_now(revision);
        self.proxy = self.now(revision);
        if self.proxy.acked >= self.proxy.sent && !self.woken {
            self.proxy.behind_since = None;
        }
    }
}

impl Proxy {
    /// Notes the newcomer if it has to be refused.
    fn refuse(&mut self, newcomer: &Arrival, now_ms: i64) -> Option<Refused> {
        let holder = &self.arrival;
        if !self.connected || !newcomer.machine.differs(&holder.machine) || newcomer.enrolment.0 > holder.enrolment.0 {
            return None;
        }
        let copy = copies::note(self.copy.take(), &holder.machine, &newcomer.machine, now_ms);
        self.copy = Some(copy.clone());
        Some(Refused { holder: holder.machine.clone(), copy })
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
    fn update(&self, change: impl FnOnce(&mut Entry)) {
        let mut proxies = self.registry.proxies();
        let revision = proxies.revision;
        if let Some(entry) = proxies.all.get_mut(&self.workload).filter(|entry| entry.stream == self.stream) {
            change(entry);
            entry.settle(revision);
        }
        drop(proxies);
        self.registry.changed();
    }

    /// What its clock says, minus ours.
    pub fn clock(&self, skew_ms: i64) {
        self.update(|entry| entry.proxy.skew_ms = skew_ms);
    }

    /// A delta was made of the world at this version and turn. True: look again, since of a commit after it this proxy may not
    /// have been told; it was not known yet what it uses.
    pub fn sent(&self, version: u64, turn: u64, keys: BTreeSet<ResourceKey>) -> bool {
        self.looked(turn, keys, |entry| {
            entry.proxy.sent = version;
            entry.covers = version;
            entry.proxy.behind_since.get_or_insert_with(Instant::now);
        })
    }

    /// A view that did not change needs no push: what holds of the version that was sent holds of this one too.
    pub fn up_to_date(&self, version: u64, turn: u64, keys: BTreeSet<ResourceKey>) -> bool {
        self.looked(turn, keys, |entry| entry.covers = entry.covers.max(version))
    }

    fn looked(&self, turn: u64, keys: BTreeSet<ResourceKey>, change: impl FnOnce(&mut Entry)) -> bool {
        let mut proxies = self.registry.proxies();
        let (revision, again) = (proxies.revision, proxies.turn > turn);
        if proxies.all.get(&self.workload).is_some_and(|entry| entry.stream == self.stream) {
            proxies.uses(&self.workload, keys);
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
            longest.and_then(|workload| proxies.leave(&workload));
        }
    }
}
