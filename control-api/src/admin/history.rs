//! The Resources service: what was changed, and the way back. Beside [`Operators`], for the same callers; each is told of
//! what it may see, and takes back what it may change.

use super::approvals::Asked;
use super::{Operators, author, on_record, operator, record, resources};
use crate::approval::{self, Approved, Call};
use crate::confirm;
use crate::history::{self, Head};
use crate::identity::blocking;
use crate::identity::tokens::unavailable;
use crate::ledger::{Kind, Outcome, World};
use crate::operators::Caller;
use crate::store::Change as StoreChange;
use crate::validate::ResourceRef;
use isthmus_proto::admin::v1::resources_server::Resources;
use isthmus_proto::admin::v1::*;
use serde_json::Value;
use tonic::{Request, Response, Status};

const REVISIONS: u32 = 50;
const MOST_REVISIONS: u32 = 1000;
/// Changes that are listed of one revision, and with their texts of one answer.
const LISTED: usize = 200;
const MAX_TEXTS: usize = 2 << 20;

#[tonic::async_trait]
impl Resources for Operators {
    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let caller = operator(&request)?;
        let (this, request) = (self.clone(), request.into_inner());
        blocking(move || this.history_now(&caller, &request)).await.map(Response::new)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<ApplyResponse>, Status> {
        let caller = operator(&request)?;
        let (this, request) = (self.clone(), request.into_inner());
        let (by, dry_run) = (caller.clone(), request.dry_run);
        let outcome = blocking(move || this.rollback_now(&by, &request, None)).await?;
        record(caller.name(), "rollback", dry_run, &outcome);
        Ok(Response::new(ApplyResponse {
            revision: outcome.revision,
            changes: resources::changes(&outcome),
            problems: outcome.problems.into_iter().map(resources::problem).collect(),
            warnings: outcome.warnings,
            confirm_until_unix_ms: 0,
        }))
    }
}

impl Operators {
    fn history_now(&self, caller: &Caller, request: &HistoryRequest) -> Result<HistoryResponse, Status> {
        // The world first: see `history::of`.
        let world = self.ledger.world();
        let store = &**self.ledger.store();
        let limit = match request.limit {
            0 => REVISIONS,
            limit => limit.min(MOST_REVISIONS),
        };
        let oldest = history::floor(store, &world).map_err(unavailable)?;
        let revisions = match &request.resource {
            Some(resource) => self.of_one(caller, &world, resources::read_ref(resource.clone()), request)?,
            None => self.of_all(caller, &world, request, limit as usize)?,
        };
        let revisions = revisions.into_iter().take(limit as usize).collect();
        Ok(HistoryResponse { revisions, present: world.revision, oldest: oldest.max(1) })
    }

    fn of_one(
        &self,
        caller: &Caller,
        world: &World,
        key: ResourceRef,
        request: &HistoryRequest,
    ) -> Result<Vec<Revision>, Status> {
        caller.may_see(&key)?;
        let store = &**self.ledger.store();
        let mut room = MAX_TEXTS;
        let mut revisions = Vec::new();
        for (revision, entry) in history::of(store, world, &key).map_err(unavailable)?.into_iter().rev() {
            if request.revision != 0 && revision != request.revision {
                continue;
            }
            let texts = request.texts.then_some((entry.before.as_ref(), entry.after.as_ref()));
            let change = told(&key, entry.kind, texts, &mut room);
            let head = history::head(store, revision).map_err(unavailable)?;
            revisions.push(headed(revision, head, vec![change], 0));
        }
        if revisions.is_empty() && !world.resources.contains_key(&key) {
            return Err(Status::not_found(format!("there is no {key}, and no history of it")));
        }
        Ok(revisions)
    }

    fn of_all(
        &self,
        caller: &Caller,
        world: &World,
        request: &HistoryRequest,
        limit: usize,
    ) -> Result<Vec<Revision>, Status> {
        let store = &**self.ledger.store();
        let heads = match request.revision {
            0 => history::heads(store).map_err(unavailable)?,
            revision => history::head(store, revision).map_err(unavailable)?.into_iter().collect(),
        };
        if request.revision != 0 && heads.is_empty() {
            let what =
                format!("revision {} changed no resource, or its history is not kept any more", request.revision);
            return Err(Status::not_found(what));
        }
        let mut room = MAX_TEXTS;
        let mut revisions = Vec::new();
        for head in heads.into_iter().rev() {
            if revisions.len() == limit {
                break;
            }
            let changed = history::changed(store, head.revision, usize::MAX).map_err(unavailable)?;
            let seen: Vec<_> = changed.into_iter().filter(|(key, _)| caller.sees_resource(key)).collect();
            if seen.is_empty() {
                continue;
            }
            let more = u32::try_from(seen.len().saturating_sub(LISTED)).unwrap_or(u32::MAX);
            let mut changes = Vec::new();
            for (key, kind) in seen.iter().take(LISTED) {
                let texts = match request.texts {
                    true => self.texts(world, key, head.revision)?,
                    false => None,
                };
                let texts = texts.as_ref().map(|(before, after)| (before.as_ref(), after.as_ref()));
                changes.push(told(key, *kind, texts, &mut room));
            }
            revisions.push(headed(head.revision, Some(head), changes, more));
        }
        Ok(revisions)
    }

    fn texts(&self, world: &World, key: &ResourceRef, revision: u64) -> Result<Option<Texts>, Status> {
        let all = history::of(&**self.ledger.store(), world, key).map_err(unavailable)?;
        let found = all.into_iter().find(|(at, _)| *at == revision);
        Ok(found.map(|(_, entry)| (entry.before, entry.after)))
    }

    pub(super) fn rollback_now(
        &self,
        caller: &Caller,
        request: &RollbackRequest,
        approved: Option<&Approved<'_>>,
    ) -> Result<Outcome, Status> {
        let world = self.ledger.world();
        let store = &**self.ledger.store();
        let only = request.resource.clone().map(resources::read_ref);
        if let Some(key) = only.as_ref().filter(|key| key.kind == "Bypass") {
            return Err(Status::failed_precondition(format!("{key} is opened and ended by `isthmus bypass`")));
        }
        let back = history::way_back(store, &world, request.revision, only.as_ref()).map_err(unavailable)?;
        let mut proposal = back.map_err(Status::failed_precondition)?;
        let what = format!("rollback to {}", request.revision);
        let (by, author) = author(caller, &what, approved);
        proposal.author = author;
        // What was found holds for this world and no other.
        proposal.if_revision = Some(if request.if_revision == 0 { world.revision } else { request.if_revision });
        let puts = proposal.puts.iter().map(|parsed| &parsed.resource.key);
        caller.may_change(puts.chain(&proposal.deletes), request.dry_run)?;
        let first = |world: &World, change: &mut StoreChange| {
            confirm::nobody_waits(store, world.revision)?;
            approval::gate(&self.second.of, world, change, approved)?;
            on_record::write(self.issuer.audit(), world, change, by)
        };
        let proposed = self.ledger.propose_after(&proposal, request.dry_run, first);
        let keys = proposal.puts.iter().map(|parsed| &parsed.resource.key).chain(&proposal.deletes).cloned().collect();
        let asked = Asked { call: Call::Rollback, what, request, keys };
        let mut outcome = proposed.map_err(|error| self.wait_or_fail(error, caller, approved, asked))?;
        outcome.shown = resources::shown(&world, &proposal, &outcome);
        if !outcome.problems.is_empty() {
            outcome.changes.clear();
        }
        Ok(outcome)
    }
}

type Texts = (Option<Value>, Option<Value>);

fn told(key: &ResourceRef, kind: Kind, texts: Option<(Option<&Value>, Option<&Value>)>, room: &mut usize) -> Change {
    let yaml = |json: Option<&Value>| json.and_then(|json| serde_saphyr::to_string(json).ok()).unwrap_or_default();
    let (mut before_yaml, mut after_yaml) = texts.map(|(a, b)| (yaml(a), yaml(b))).unwrap_or_default();
    match room.checked_sub(before_yaml.len() + after_yaml.len()) {
        Some(left) => *room = left,
        None => (before_yaml, after_yaml) = Default::default(),
    }
    Change { resource: Some(resources::write_ref(key)), kind: resources::kind(kind).into(), before_yaml, after_yaml }
}

fn headed(revision: u64, head: Option<Head>, changes: Vec<Change>, more: u32) -> Revision {
    let (at_unix_ms, who, how) = head.map(|head| (head.at_unix_ms, head.who, head.how)).unwrap_or_default();
    Revision { revision, at_unix_ms, who, how, changes, more }
}
