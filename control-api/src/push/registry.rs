//! Who is connected, how far each has got, and who uses what: a commit wakes those whom it concerns and nobody else.
//! Written by the stream tasks and by [`super::wake`], read by the admin API.

use crate::index::View;
use crate::ledger::Committed;
use isthmus_certs::PeerIdentity;
use proxies::{Entry, Proxies};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod everywhere;
mod proxies;
mod proxy;
mod seat;
mod uses;

pub use everywhere::{Elsewhere, Moment, Row, Share};
pub use proxy::{Arrival, Progress, Proxy, Refused};
pub use seat::Seat;
pub(super) use uses::read_uses;
pub use uses::{DownBy, Found, Use};

#[derive(Debug)]
pub struct Registry {
    proxies: Mutex<Proxies>,
    /// Counts changes, so that waiting needs no polling.
    changes: watch::Sender<u64>,
    moved: Notify,
    /// Where several control planes serve the mesh.
    elsewhere: Mutex<Arc<Elsewhere>>,
}

impl Default for Registry {
    fn default() -> Self {
        let (proxies, elsewhere) = (Mutex::default(), Mutex::default());
        Registry { proxies, changes: watch::Sender::new(0), moved: Notify::new(), elsewhere }
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
    ) -> Result<Seat<'_>, Box<Refused>> {
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
            unready: None,
            behind_since: Some(Instant::now()),
            // Whoever holds it now is not a copy of itself.
            copy: old.as_ref().and_then(|old| old.proxy.copy.clone()).filter(|c| c.machine.differs(&arrival.machine)),
            arrival,
        };
        let entry = Entry {
            proxy,
            view: View::default(),
            covers: 0,
            concerned: 0,
            // Until it was sent its first view, everything concerns it.
            woken: true,
            probed: Box::default(),
            stream,
            replaced: replaced.clone(),
            wake: wake.clone(),
        };
        proxies.all.insert(workload.clone(), entry);
        proxies.moves.insert(workload.clone(), true);
        self.moved.notify_one();
        if let Some(old) = old {
            proxies.uses(&workload, old.view);
        }
        drop(proxies);
        self.changed();
        Ok(Seat { registry: self, workload, stream, replaced, wake })
    }

    /// Whether a machine may have a certificate of this workload renewed: not while another one uses it.
    pub fn may_renew(&self, workload: &str, arrival: &Arrival, now_ms: i64) -> Result<(), Box<Refused>> {
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
                (entry.woken, entry.concerned) = (true, revision);
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

    /// Whose apps are not ready, and why.
    pub fn unready(&self) -> BTreeMap<Arc<str>, String> {
        self.proxies().unready.clone()
    }

    /// Somebody came or left, or his app is ready or not.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Ends every stream: its proxy connects again, here or elsewhere.
    pub fn let_go(&self) -> usize {
        let proxies = self.proxies();
        let connected = proxies.all.values().filter(|entry| entry.proxy.connected);
        connected.inspect(|entry| entry.replaced.cancel()).count()
    }

    pub fn list(&self) -> Vec<Proxy> {
        let proxies = self.proxies();
        proxies.all.values().map(|entry| entry.now(proxies.revision)).collect()
    }

    pub fn connected(&self) -> usize {
        self.proxies().all.values().filter(|entry| entry.proxy.connected).count()
    }

    /// At any of the control planes.
    pub fn connected_workloads(&self) -> HashSet<String> {
        let all = self.everywhere(0).into_iter();
        all.filter(|(_, (_, proxy))| proxy.connected).map(|(workload, _)| workload).collect()
    }

    /// Wakes at each change of any proxy.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How far a commit has got with every proxy that it concerns.
    pub fn progress(&self, commit: &Committed) -> Vec<(String, Progress)> {
        let proxies = self.proxies();
        let concerned = proxies.all.iter().filter(|(workload, entry)| commit.changed.concerns(workload, &entry.view));
        let progress = |entry: &Entry| entry.now(proxies.revision).progress(commit.revision);
        concerned.map(|(workload, entry)| (workload.to_string(), progress(entry))).collect()
    }
}
