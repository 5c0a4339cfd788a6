//! What other control planes on the same store have committed, taken in as our own commits are: one writer, in order. Who
//! has missed too much reads everything, and takes in the difference.

use super::{Ledger, Meta, World, from_stored};
use crate::index::{Given, Trust};
use crate::store::{Commit, Contents, Since, StoreError, StoredResource};
use crate::validate::cross;
use crate::validate::{Problem, ResourceRef};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// A change that was computed while another control plane committed is computed again, this often.
const TRIES: usize = 8;
/// Until the other's commit is told of here.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at whether the control plane is stopping.
const LOOK: Duration = Duration::from_secs(1);
/// After a commit that could not be taken in.
const AGAIN: Duration = Duration::from_secs(2);

/// Reads roots and revocations from where they are kept.
pub type ReadTrust = Box<dyn Fn(&Trust) -> Result<Trust, StoreError> + Send + Sync>;

/// Runs for as long as the control plane does, where others write too.
pub async fn follow(ledger: Arc<Ledger>) {
    loop {
        let this = ledger.clone();
        let taken = tokio::task::spawn_blocking(move || this.catch_up(LOOK)).await;
        let error = match taken {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(error, "what another control plane has committed is not in force here; trying again");
        tokio::time::sleep(AGAIN).await;
    }
}

impl Ledger {
    /// How roots and revocations of others are read.
    pub fn read_trust_by(&self, read: ReadTrust) {
        *self.read_trust.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    /// Takes in what there is, and waits for it up to `within`.
    pub fn catch_up(&self, within: Duration) -> Result<(), StoreError> {
        if self.store.since(self.world().revision, within)? == Since::Commits(Vec::new()) {
            return Ok(());
        }
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.catch_up_now()
    }

    /// Where other control planes write too, one of them may have been faster: then what it wrote is taken in, and the
    /// change is computed from that.
    pub(super) fn as_often_as_needed<T>(&self, work: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        for _ in 0..TRIES {
            let before = self.world().revision;
            match work() {
                Err(StoreError::Conflict { now, .. }) if self.store.is_shared() && now > before => {
                    self.store.since(before, TOLD_WITHIN)?;
                    self.catch_up_now()?;
                }
                done => return done,
            }
        }
        work()
    }

    /// With the writer's lock held. What the store has by now is looked at again: our own commits are in it, too.
    pub(super) fn catch_up_now(&self) -> Result<(), StoreError> {
        match self.store.since(self.world().revision, Duration::ZERO)? {
            Since::Commits(commits) => commits.iter().try_for_each(|commit| self.take_in(commit)),
            Since::Resync => {
                let difference = difference(&self.world(), self.store.load()?);
                self.take_in(&difference)
            }
        }
    }

    fn take_in(&self, commit: &Commit) -> Result<(), StoreError> {
        let world = self.world();
        if commit.revision <= world.revision {
            return Ok(());
        }
        let mut next = World { revision: commit.revision, ..World::clone(&world) };
        for (key, stored) in &commit.resources {
            let Some(stored) = stored else {
                next.resources.remove(key);
                next.meta.remove_mut(key);
                continue;
            };
            next.resources.insert(Arc::new(read(key, stored)?));
            let meta = Meta { revision: stored.revision, origin: stored.origin.clone() };
            next.meta.insert_mut(key.clone(), meta);
        }
        next.mesh = cross::mesh_config(&next.resources);
        next.vips.take(&commit.vips);
        if commit.trust {
            self.read_trust()?;
        }
        let keys: Vec<ResourceRef> = commit.resources.keys().cloned().collect();
        self.publish(&world, next, &keys, &commit.vips, commit.trust);
        Ok(())
    }

    fn read_trust(&self) -> Result<(), StoreError> {
        let read = self.read_trust.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = read.as_ref() {
            let trust = read(&self.trust())?;
            *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
        }
        Ok(())
    }
}

/// One that this build cannot read is an error: passing over it might widen a policy.
fn read(key: &ResourceRef, stored: &StoredResource) -> Result<crate::validate::resource::Resource, StoreError> {
    from_stored(&stored.json).map_err(|problems| StoreError::Damaged {
        what: key.to_string(),
        why: problems.first().map(Problem::to_string).unwrap_or_default(),
    })
}

/// From what is in force to what is stored, as if it had been one commit.
fn difference(world: &World, contents: Contents) -> Commit {
    let mut resources: BTreeMap<ResourceRef, Option<StoredResource>> = BTreeMap::new();
    for key in world.meta.keys().filter(|key| !contents.resources.contains_key(*key)) {
        resources.insert(key.clone(), None);
    }
    for (key, stored) in contents.resources {
        let meta = Meta { revision: stored.revision, origin: stored.origin.clone() };
        if world.meta.get(&key) != Some(&meta) {
            resources.insert(key, Some(stored));
        }
    }
    let mut vips: Given = world.vips.given().into_keys().map(|service| (service, Vec::new())).collect();
    vips.extend(contents.vips);
    let facts = BTreeMap::new();
    Commit { revision: contents.revision, resources, vips, facts, trust: true }
}

#[cfg(test)]
#[path = "../follow_test.rs"]
mod follow_test;
