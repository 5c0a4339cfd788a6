//! The one writer: a proposal from any source is validated, stored, indexed and published, in this order, in one place.
//!
//! Everything here is synchronous and waits for the disk: call it from a blocking task. A proposal that has begun is
//! never cut off by a caller that goes away, so the store and what is published cannot part.

use crate::audit::AuditLog;
use crate::history;
use crate::index::{Changed, Difference, Given, Index, Tenancy, Trust, Vips, Wanted, allocate};
use crate::store::{Change, Contents, Store, StoreError};
use crate::validate::cross;
use crate::validate::resource::MeshConfig;
use crate::validate::set::Set;
use crate::validate::{Problem, ResourceRef, advice, from_stored};
use crate::views;
use isthmus_certs::Clock;
use rpds::RedBlackTreeMapSync;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

pub mod follow;
mod place;
mod proposal;
mod record;

use place::{place, problem, relevant, unplaced};
use proposal::plan;
pub use proposal::{Author, Proposal, Prune, SET, Writer};

/// How many commits back `WaitInForce` can still tell whom they concerned.
const REMEMBERED: usize = 1024;

/// Everything at one revision. Immutable; readers clone the `Arc`. The next one shares with it what does not change.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub revision: u64,
    /// Counts what was published. Who is away changes without a commit, and so without a revision.
    pub turn: u64,
    pub resources: Set,
    pub meta: RedBlackTreeMapSync<ResourceRef, Meta>,
    pub vips: Vips,
    pub mesh: MeshConfig,
    pub index: Arc<Index>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Of the last change.
    pub revision: u64,
    pub origin: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub revision: u64,
    pub changes: Vec<(ResourceRef, Kind)>,
    /// Of a dry run: what would change, as it is and as it would be, in YAML.
    pub shown: HashMap<ResourceRef, (String, String)>,
    /// Not empty: nothing was changed.
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

/// A commit that `WaitInForce` may ask about.
#[derive(Clone, Debug)]
pub struct Committed {
    pub revision: u64,
    pub turn: u64,
    pub at: Instant,
    pub changed: Arc<Changed>,
    /// The resources that came, changed or went.
    pub touched: Arc<[ResourceRef]>,
}

/// A proposal, checked and not yet stored.
struct Planned {
    outcome: Outcome,
    change: Change,
    /// The world as it would be, with the index of before.
    next: World,
    keys: Vec<ResourceRef>,
    given: Given,
}

type Facts = BTreeMap<String, Option<serde_json::Value>>;

pub struct Ledger {
    store: Arc<dyn Store>,
    keep: history::Keep,
    /// The revision at which it was last looked for what history is to forget.
    forgot: AtomicU64,
    trust: Mutex<Arc<Trust>>,
    read_trust: Mutex<Option<follow::ReadTrust>>,
    clock: Arc<dyn Clock>,
    /// Where each change is written down before it is made. Without one (in tests) none is.
    record: Option<Arc<AuditLog>>,
    writer: Mutex<()>,
    world: watch::Sender<Arc<World>>,
    committed: Mutex<VecDeque<Committed>>,
    /// The store could not write: until a restart, nothing more is promised.
    failed: AtomicBool,
}

impl Ledger {
    /// Reads the store. A stored resource that this build cannot read is an error: skipping it might widen a policy.
    pub fn open(store: Arc<dyn Store>, trust: Trust, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let world = read_world(store.load()?, &trust)?;
        let world = watch::Sender::new(Arc::new(world));
        let (writer, committed) = (Mutex::default(), Mutex::default());
        let (failed, trust) = (AtomicBool::new(false), Mutex::new(Arc::new(trust)));
        let read_trust = Mutex::default();
        let (keep, forgot) = (history::Keep::default(), AtomicU64::new(0));
        Ok(Ledger { store, keep, forgot, trust, read_trust, clock, record: None, writer, world, committed, failed })
    }

    /// How much of the past is kept.
    pub fn keeping(self, keep: history::Keep) -> Self {
        Ledger { keep, ..self }
    }

    /// From now on every change is in this log.
    pub fn recorded_in(self, audit: Arc<AuditLog>) -> Self {
        Ledger { record: Some(audit), ..self }
    }

    pub fn world(&self) -> Arc<World> {
        self.world.borrow().clone()
    }

    /// Wakes at each new world; those in between may be skipped.
    pub fn watch(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Whom the mesh trusts, and whom no longer.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes other roots or revocations, under a revision of their own, so that it can be told who has them.
    pub fn retrust(&self, change: impl FnOnce(&mut Trust)) -> Result<u64, StoreError> {
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = Change { trust: true, ..Change::default() };
        let revision = self.as_often_as_needed(|| self.commit(self.world().revision, &nothing))?;
        let world = self.world();
        let mut trust = Trust::clone(&self.trust());
        change(&mut trust);
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
        let next = World { revision, ..World::clone(&world) };
        self.publish(&world, next, &[], &Given::new(), true);
        Ok(revision)
    }

    fn commit(&self, after: u64, change: &Change) -> Result<u64, StoreError> {
        self.store.commit(after, change).inspect_err(|error| {
            self.failed.fetch_or(matches!(error, StoreError::Io(_)), Ordering::Relaxed);
        })
    }

    /// The store has failed; what is published still holds, and nothing new can be written.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The commit of this revision, if it was made by this process and not long ago.
    pub fn committed(&self, revision: u64) -> Option<Committed> {
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        committed.iter().find(|commit| commit.revision == revision).cloned()
    }

    /// All that was published after one turn and up to another; none if not all of it is remembered.
    pub fn committed_after(&self, seen: u64, present: u64) -> Option<Vec<Committed>> {
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let after = committed.iter().filter(|commit| commit.turn > seen && commit.turn <= present);
        let after: Vec<Committed> = after.cloned().collect();
        (after.len() as u64 == present.saturating_sub(seen)).then_some(after)
    }

    /// Workloads that are away, or back. Published as a commit is, but not stored: after a restart it is found out anew.
    pub fn presence(&self, away: &[ResourceRef], back: &[ResourceRef]) {
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let world = self.world();
        let mut next = World::clone(&world);
        away.iter().for_each(|workload| next.resources.presence(workload, true));
        back.iter().for_each(|workload| next.resources.presence(workload, false));
        let keys: Vec<ResourceRef> = away.iter().chain(back).cloned().collect();
        self.publish(&world, next, &keys, &Given::new(), false);
    }

    /// All of a proposal or nothing of it.
    pub fn propose(&self, proposal: &Proposal, dry_run: bool) -> Result<Outcome, StoreError> {
        self.propose_after(proposal, dry_run, |_, _| Ok(()))
    }

    /// The same, with something that is written with it, or that may forbid it.
    pub fn propose_after(
        &self,
        proposal: &Proposal,
        dry_run: bool,
        first: impl Fn(&World, &mut Change) -> Result<(), StoreError>,
    ) -> Result<Outcome, StoreError> {
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.as_often_as_needed(|| self.propose_now(proposal, dry_run, &first))
    }

    fn propose_now(
        &self,
        proposal: &Proposal,
        dry_run: bool,
        first: &impl Fn(&World, &mut Change) -> Result<(), StoreError>,
    ) -> Result<Outcome, StoreError> {
        let world = self.world();
        if let Some(after) = proposal.if_revision.filter(|after| *after != world.revision) {
            return Err(StoreError::Conflict { after, now: world.revision });
        }
        let Planned { mut outcome, mut change, mut next, keys, given } = self.plan(&world, proposal);
        if !outcome.problems.is_empty() || keys.is_empty() || dry_run {
            return Ok(outcome);
        }
        change.vips = given;
        first(&world, &mut change)?;
        record::write_down(self.record.as_deref(), &world, &change, &proposal.author)?;
        let history = self.history_of(&world, &change, &proposal.author)?;
        change.facts.extend(history);
        outcome.revision = self
            .commit(world.revision, &change)
            .inspect_err(|error| record::not_done(self.record.as_deref(), error, &world))?;
        next.revision = outcome.revision;
        for key in &change.deletes {
            next.meta.remove_mut(key);
        }
        for put in change.puts {
            next.meta.insert_mut(put.key, Meta { revision: outcome.revision, origin: put.origin });
        }
        self.publish(&world, next, &keys, &change.vips, false);
        Ok(outcome)
    }

    /// The history of a change, and what of the past goes with it.
    fn history_of(&self, world: &World, change: &Change, author: &Author) -> Result<Facts, StoreError> {
        let now_ms = self.clock.now_ms();
        let mut facts = history::record(&*self.store, world, change, author, now_ms)?;
        if world.revision >= self.forgot.load(Ordering::Relaxed) + self.keep.look_every() {
            self.forgot.store(world.revision, Ordering::Relaxed);
            history::forget(&*self.store, self.keep, now_ms, &mut facts)?;
        }
        Ok(facts)
    }

    /// What the mesh would be with a proposal on top of it; `as_enforced`: and nothing in Audit. Nothing is written.
    pub fn preview(&self, proposal: &Proposal, as_enforced: bool) -> (Outcome, Set, Index) {
        let world = self.world();
        let Planned { outcome, mut next, mut keys, given, .. } = self.plan(&world, proposal);
        if as_enforced {
            keys.extend(views::out_of_audit(&mut next.resources));
        }
        let trust = self.trust();
        let wanted = Wanted { set: &next.resources, vips: &next.vips, trust: &trust };
        let difference =
            Difference { before: &world.resources, keys: &keys, vips: &world.vips, given: &given, trust: false };
        let (index, _) = world.index.apply(wanted, difference);
        (outcome, next.resources, index)
    }

    /// What a proposal comes to: everything but writing it down and telling others.
    fn plan(&self, world: &World, proposal: &Proposal) -> Planned {
        let mut outcome = Outcome { revision: world.revision, ..Outcome::default() };
        let mut change = Change::default();
        let mut next = World::clone(world);
        plan(world, proposal, &mut outcome, &mut change, &mut next.resources);
        let keys: Vec<ResourceRef> = change.puts.iter().map(|put| &put.key).chain(&change.deletes).cloned().collect();
        let found = cross::check_changed(&next.resources, &keys, &self.trust().trust_domain);
        let tenancy = Tenancy::of(&next.resources);
        let placed = found.faults.iter().map(|fault| place(fault, proposal, world, (&tenancy, &next.resources)));
        outcome.problems.extend(placed);
        outcome.warnings.extend(relevant(found.warnings, proposal));
        let (domain, now_ms) = (self.trust().trust_domain.to_string(), self.clock.now_ms());
        for put in &proposal.puts {
            let said = advice::of(&next.resources, &put.resource, &domain, now_ms);
            outcome.warnings.extend(said.into_iter().map(|s| problem(put, &s.field, s.reason).to_string()));
        }
        next.mesh = cross::mesh_config(&next.resources);
        let mut allocation = allocate(&next.resources, &next.mesh.vip_ranges, &world.vips, &keys);
        outcome.warnings.append(&mut allocation.full);
        next.vips.settle(&allocation);
        Planned { outcome, change, next, keys, given: allocation.given }
    }

    fn publish(&self, before: &World, mut next: World, keys: &[ResourceRef], given: &Given, trust_changed: bool) {
        let at = Instant::now();
        next.turn = before.turn + 1;
        let trust = self.trust();
        let wanted = Wanted { set: &next.resources, vips: &next.vips, trust: &trust };
        let difference =
            Difference { before: &before.resources, keys, vips: &before.vips, given, trust: trust_changed };
        let (index, changed) = before.index.apply(wanted, difference);
        next.index = Arc::new(index);
        {
            let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
            if committed.len() == REMEMBERED {
                committed.pop_front();
            }
            let (revision, turn) = (next.revision, next.turn);
            committed.push_back(Committed { revision, turn, at, changed: Arc::new(changed), touched: keys.into() });
        }
        self.world.send_replace(Arc::new(next));
    }
}

fn read_world(contents: Contents, trust: &Trust) -> Result<World, StoreError> {
    let mut world = World { revision: contents.revision, ..World::default() };
    for (key, stored) in contents.resources {
        let resource = from_stored(&stored.json).map_err(|problems| StoreError::Damaged {
            what: key.to_string(),
            why: problems.first().map(Problem::to_string).unwrap_or_default(),
        })?;
        world.resources.insert(Arc::new(resource));
        world.meta.insert_mut(key, Meta { revision: stored.revision, origin: stored.origin });
    }
    world.vips.take(&contents.vips);
    world.mesh = cross::mesh_config(&world.resources);
    let wanted = Wanted { set: &world.resources, vips: &world.vips, trust };
    world.index = Arc::new(Index::build(wanted));
    Ok(world)
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("revision", &self.world().revision).finish_non_exhaustive()
    }
}
