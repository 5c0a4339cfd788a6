//! The last commits, for whoever follows them. Bounded: who is further behind reads everything anew.

use super::{Change, StoredResource};
use crate::validate::ResourceRef;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A follower is woken at once, so these are seconds of a busy mesh.
const COMMITS: usize = 256;
const RESOURCES: usize = 4096;

/// One commit, as those who did not make it see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    pub revision: u64,
    /// None: it is gone.
    pub resources: BTreeMap<ResourceRef, Option<StoredResource>>,
    pub vips: BTreeMap<ResourceRef, Vec<IpAddr>>,
    pub facts: BTreeMap<String, Option<Value>>,
    pub trust: bool,
}

/// What there is after a revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Since {
    /// In order, without a gap; empty: nothing new.
    Commits(Vec<Arc<Commit>>),
    /// More than is remembered: read everything anew.
    Resync,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    held: Mutex<Held>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    /// Everything after this revision is in `commits`.
    floor: u64,
    latest: u64,
    commits: VecDeque<Arc<Commit>>,
    resources: usize,
}

impl Commit {
    pub(super) fn of(revision: u64, change: &Change) -> Commit {
        let deletes = change.deletes.iter().map(|key| (key.clone(), None));
        let puts = change.puts.iter().map(|put| {
            let stored = StoredResource { json: put.json.clone(), revision, origin: put.origin.clone() };
            (put.key.clone(), Some(stored))
        });
        Commit {
            revision,
            resources: deletes.chain(puts).collect(),
            vips: change.vips.clone(),
            facts: change.facts.clone(),
            trust: change.trust,
        }
    }
}

impl Recent {
    /// Begins at a revision: nothing before it is known.
    pub(super) fn at(revision: u64) -> Recent {
        let recent = Recent::default();
        recent.begin_again(revision);
        recent
    }

    /// Whoever was behind `revision` has to read everything anew.
    pub(super) fn begin_again(&self, revision: u64) {
        *self.held() = Held { floor: revision, latest: revision, ..Held::default() };
        self.moved.notify_all();
    }

    pub(super) fn latest(&self) -> u64 {
        self.held().latest
    }

    pub(super) fn push(&self, commit: Commit) {
        let mut held = self.held();
        if commit.revision != held.latest + 1 {
            let (floor, latest) = (commit.revision, commit.revision);
            *held = Held { floor, latest, ..Held::default() };
        } else {
            held.latest = commit.revision;
            held.resources += commit.resources.len();
            held.commits.push_back(Arc::new(commit));
            while held.commits.len() > COMMITS || held.resources > RESOURCES {
                let Some(oldest) = held.commits.pop_front() else { break };
                held.resources -= oldest.resources.len();
                held.floor = oldest.revision;
            }
        }
        drop(held);
        self.moved.notify_all();
    }

    pub(super) fn since(&self, after: u64, within: Duration) -> Since {
        let until = Instant::now() + within;
        let mut held = self.held();
        loop {
            if after < held.floor {
                return Since::Resync;
            }
            let commits: Vec<_> = held.commits.iter().filter(|commit| commit.revision > after).cloned().collect();
            let left = until.saturating_duration_since(Instant::now());
            if !commits.is_empty() || left.is_zero() {
                return Since::Commits(commits);
            }
            held = self.moved.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
