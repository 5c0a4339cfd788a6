//! Writing: a commit and a swap are one transaction each. The answer to a transaction may be lost, and then it is found out
//! whether it was carried out before it is tried again or refused.

use super::client::Failure;
use super::wire::{self, Compare, RequestOp, TxnRequest};
use super::{Inner, large, number};
use crate::store::recent::Commit;
use crate::store::{Change, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A transaction whose answer was lost is looked into, and tried again, this often.
const TRIES: usize = 4;

impl Inner {
    pub(super) async fn commit(&self, after: u64, change: Change) -> Result<u64, StoreError> {
        let commit = Commit::of(after + 1, &change);
        let operations = self.operations(&commit)?;
        let operations = match large::fits(&operations) {
            true => operations,
            false => large::lay_down(self, &commit).await?,
        };
        let fence = if change.leading { vec![self.fence()?] } else { Vec::new() };
        let done = self.publish(after, operations, fence).await;
        match &done {
            Ok(_) => {}
            // Laid down in vain.
            Err(StoreError::Conflict { .. } | StoreError::NotLeading { .. }) => large::forget(self, after + 1).await,
            Err(_) => {}
        }
        done?;
        self.settle().await;
        Ok(after + 1)
    }

    /// What was laid down beside takes its place. Whoever comes next does it otherwise.
    async fn settle(&self) {
        if let Err(error) = large::settle(self).await {
            tracing::debug!(%error, "a large commit settles later");
        }
    }

    /// The one step that makes a commit valid.
    pub(super) async fn publish(
        &self,
        after: u64,
        operations: Vec<RequestOp>,
        fence: Vec<Compare>,
    ) -> Result<u64, StoreError> {
        let (revision, commit, pending) = (self.key("revision"), self.key("commit"), self.key("pending"));
        let mark = format!("{} {:016x}", after + 1, rand::random::<u64>());
        let unchanged = match after {
            0 => wire::last_changed_in(revision.as_str(), 0),
            after => wire::value_is(revision.as_str(), after.to_string()),
        };
        let mut compare = vec![unchanged, wire::last_changed_in(pending, 0)];
        compare.extend(fence.iter().cloned());
        let mut success = operations;
        success.push(wire::put(commit.as_str(), mark.as_str()));
        success.push(wire::put(revision.as_str(), (after + 1).to_string()));
        let request = TxnRequest { compare, success, failure: Vec::new() };
        let mut lost: Option<Failure> = None;
        for _ in 0..TRIES {
            let refused = match self.client.txn(request.clone()).await {
                Ok(answer) if answer.succeeded => return Ok(after + 1),
                Ok(_) => None,
                Err(Failure::Refused(status)) => return Err(Failure::Refused(status).into()),
                Err(failed) => Some(failed),
            };
            let (_, last) = self.get(&commit).await.map_err(|error| match (&lost, &refused, error) {
                (None, None | Some(Failure::Unreachable(_)), error) => error,
                (_, _, error) => StoreError::Unknown(error.to_string()),
            })?;
            if last.is_some_and(|last| last.value == mark.as_bytes()) {
                return Ok(after + 1);
            }
            let now = self.get(&revision).await?.1.as_ref().map_or(Ok(0), number)?;
            match (now == after, refused) {
                // It could have been made, and another one since.
                (false, _) if lost.as_ref().is_some_and(|lost| matches!(lost, Failure::Unknown(_))) => {
                    return Err(StoreError::Unknown("others have written since".to_string()));
                }
                (false, Some(Failure::Unknown(why))) => return Err(StoreError::Unknown(why)),
                (false, _) => return Err(StoreError::Conflict { after, now }),
                (true, Some(failed)) => lost = Some(failed),
                (true, None) if !fence.is_empty() && !self.still_leads().await? => return Err(self.not_leading()),
                // A large commit of somebody who is gone waits to be settled.
                (true, None) => large::settle(self).await?,
            }
        }
        match lost {
            Some(failed) => Err(failed.into()),
            None => Err(StoreError::Conflict { after, now: after }),
        }
    }

    /// Compare and set of one value.
    pub(super) async fn swap<T>(
        &self,
        group: &'static str,
        name: String,
        (seen, new): (Option<T>, Option<T>),
        leading: bool,
    ) -> Result<bool, StoreError>
    where
        T: PartialEq + Serialize + DeserializeOwned + Send + Sync,
    {
        let key = self.key(&format!("{group}{name}"));
        let mut unknown = None;
        for _ in 0..TRIES {
            let found = self.read::<T>(group, &name).await?;
            let (at, found) = found.map_or((0, None), |(at, found)| (at, Some(found)));
            if unknown.is_some() && found == new {
                return Ok(true);
            }
            if found != seen {
                return Ok(false);
            }
            let mut compare = vec![wire::last_changed_in(key.as_str(), at)];
            if leading {
                compare.push(self.fence()?);
            }
            let success = vec![self.operation(group, &name, new.as_ref())?];
            match self.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await {
                Ok(answer) if answer.succeeded => return Ok(true),
                Ok(_) if leading && !self.still_leads().await? => return Err(self.not_leading()),
                Ok(_) => {}
                Err(Failure::Refused(status)) => return Err(Failure::Refused(status).into()),
                Err(failed) => unknown = Some(failed),
            }
        }
        match unknown {
            Some(failed) => Err(failed.into()),
            None => Ok(false),
        }
    }
}
