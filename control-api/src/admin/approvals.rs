//! Changes that take two operators, from the operators' side: what one asks for is kept, what waits is listed, and another
//! one has it done or says no. Whoever approves needs the rights that the change takes, and is neither its author nor a robot.

use super::overseer::Overseer;
use super::{Operators, resources};
use crate::approval::{self, Approved, Call, Concern, Pending};
use crate::audit::{Event, What};
use crate::identity::tokens::unavailable;
use crate::operators::Caller;
use crate::store::StoreError;
use crate::validate::ResourceRef;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_certs::Clock;
use isthmus_proto::admin::v1 as wire;
use prost::Message;
use tonic::Status;

/// What a call that takes two is, as it is kept.
pub(super) struct Asked<'a, M> {
    pub(super) call: Call,
    pub(super) what: String,
    pub(super) request: &'a M,
    pub(super) keys: Vec<ResourceRef>,
}

impl Operators {
    /// The answer to a change that could not be made: where that is because it takes two, it is kept and named.
    pub(super) fn wait_or_fail<M: Message>(
        &self,
        error: StoreError,
        caller: &Caller,
        approved: Option<&Approved<'_>>,
        asked: Asked<'_, M>,
    ) -> Status {
        let StoreError::TakesTwo { reasons } = error else { return unavailable(error) };
        if approved.is_some() {
            return Status::failed_precondition(format!(
                "by now it would do more than was asked for ({}); let it be asked for again",
                reasons.join("; ")
            ));
        }
        self.wait(caller, asked, reasons)
    }

    /// Keeps it until another operator has said yes.
    pub(super) fn wait<M: Message>(&self, caller: &Caller, asked: Asked<'_, M>, reasons: Vec<String>) -> Status {
        let now_ms = self.ledger.clock().now_ms();
        let within = i64::try_from(self.second.within.as_millis()).unwrap_or(i64::MAX);
        let keys = asked.keys.into_iter().map(|key| (key.kind, key.namespace, key.name));
        let pending = Pending {
            id: format!("{:016x}", rand::random::<u64>()),
            author: caller.name().to_owned(),
            asked_unix_ms: now_ms,
            until_unix_ms: now_ms.saturating_add(within),
            what: asked.what,
            reasons,
            keys: keys.collect(),
            call: asked.call,
            request: STANDARD.encode(asked.request.encode_to_vec()),
        };
        if let Err(status) = self.log_approval(What::ApprovalAsked, caller.name(), &pending, String::new()) {
            return status;
        }
        match approval::keep(&**self.ledger.store(), &pending) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Status::failed_precondition(why),
            Err(error) => return unavailable(error),
        }
        let Pending { id, author, what, reasons, until_unix_ms, .. } = &pending;
        tracing::info!(operator = author, id, what, "waits for a second operator");
        let until = jiff::Timestamp::from_millisecond(*until_unix_ms).unwrap_or_default();
        Status::failed_precondition(format!(
            "this takes a second operator ({}): nothing is changed yet, it waits as {id} until {}; another one with the right \
             role runs `isthmus approve {id}`",
            reasons.join("; "),
            until.strftime("%Y-%m-%dT%H:%M:%SZ")
        ))
    }

    fn log_approval(&self, what: What, operator: &str, pending: &Pending, more: String) -> Result<(), Status> {
        let reason = format!("{more}{}: {}", pending.what, pending.reasons.join("; "));
        let event = Event { proof: format!("approval {}", pending.id), reason, ..Event::default() };
        self.log(what, operator.to_owned(), event)
    }

    fn find_approval(&self, id: &str) -> Result<Pending, Status> {
        let all = approval::all(&**self.ledger.store(), self.ledger.clock().now_ms()).map_err(unavailable)?;
        all.into_iter().find(|pending| pending.id == id).ok_or_else(|| {
            Status::not_found(format!(
                "nothing waits as `{id}`: it was approved or rejected, or its time is over; see `isthmus approve`"
            ))
        })
    }

    pub(super) fn approvals_now(&self, caller: &Caller) -> Result<wire::ListApprovalsResponse, Status> {
        let all = approval::all(&**self.ledger.store(), self.ledger.clock().now_ms()).map_err(unavailable)?;
        let seen = all.into_iter().filter(|pending| may_see(caller, pending));
        Ok(wire::ListApprovalsResponse { approvals: seen.map(told).collect() })
    }

    pub(super) fn reject_now(&self, caller: &Caller, id: &str) -> Result<wire::RejectResponse, Status> {
        let pending = self.find_approval(id)?;
        if pending.author != caller.name() {
            may_do(caller, &pending)?;
        }
        let by = format!("asked for by {}: ", pending.author);
        self.log_approval(What::ApprovalRejected, caller.name(), &pending, by)?;
        match approval::take(&**self.ledger.store(), &pending).map_err(unavailable)? {
            true => Ok(wire::RejectResponse { approval: Some(told(pending)) }),
            false => Err(faster()),
        }
    }
}

impl Overseer {
    pub(super) fn approve_now(
        &self,
        caller: &Caller,
        id: &str,
        dry_run: bool,
    ) -> Result<wire::ApproveResponse, Status> {
        let operators = &self.operators;
        let pending = operators.find_approval(id)?;
        if !may_see(caller, &pending) {
            return Err(caller.refuse(&format!("see {}", pending.what), "viewer of all that it changes"));
        }
        let approved = Approved { author: &pending.author, by: caller.name(), reasons: &pending.reasons };
        if dry_run {
            return self.carry_out(caller, &pending, &approved, true);
        }
        if pending.author == caller.name() {
            return Err(Status::permission_denied(format!(
                "operator {} has asked for it; the second one is somebody else",
                pending.author
            )));
        }
        if caller.who.robot.is_some() {
            return Err(Status::permission_denied("a robot does not approve; a person does"));
        }
        may_do(caller, &pending)?;
        let by = format!("asked for by {}: ", pending.author);
        operators.log_approval(What::Approved, caller.name(), &pending, by)?;
        let store = &**operators.ledger.store();
        if !approval::take(store, &pending).map_err(unavailable)? {
            return Err(faster());
        }
        let done = self.carry_out(caller, &pending, &approved, false);
        let is_done = done.as_ref().is_ok_and(|done| {
            done.problems.is_empty() && !done.rotation.as_ref().is_some_and(|rotation| rotation.refused)
        });
        if !is_done {
            approval::put_back(store, &pending).map_err(unavailable)?;
        }
        done
    }

    fn carry_out(
        &self,
        caller: &Caller,
        pending: &Pending,
        approved: &Approved<'_>,
        dry_run: bool,
    ) -> Result<wire::ApproveResponse, Status> {
        let bytes = STANDARD.decode(&pending.request).map_err(|error| damaged(&error))?;
        let (operators, bytes) = (&self.operators, bytes.as_slice());
        let mut answer = wire::ApproveResponse { approval: Some(told(pending.clone())), ..Default::default() };
        let outcome = match pending.call {
            Call::Apply => {
                let request = wire::ApplyRequest::decode(bytes).map_err(|error| damaged(&error))?;
                let request = wire::ApplyRequest { dry_run, ..request };
                let until = operators.confirm_until(&request);
                let outcome = operators.apply_now(&request, until, caller, Some(approved))?;
                answer.confirm_until_unix_ms = until.filter(|_| outcome.problems.is_empty()).unwrap_or(0);
                outcome
            }
            Call::Delete => {
                let request = wire::DeleteRequest::decode(bytes).map_err(|error| damaged(&error))?;
                operators.delete_now(&wire::DeleteRequest { dry_run, ..request }, caller, Some(approved))?
            }
            Call::Rollback => {
                let request = wire::RollbackRequest::decode(bytes).map_err(|error| damaged(&error))?;
                operators.rollback_now(caller, &wire::RollbackRequest { dry_run, ..request }, Some(approved))?
            }
            Call::Rotate | Call::Import => {
                let by = approved.in_words(approved.author);
                let rotation = match pending.call {
                    _ if dry_run => self.rotation.step(wire::RotationStep::Unspecified, false, &by),
                    Call::Import => {
                        let request =
                            wire::ImportIntermediateRequest::decode(bytes).map_err(|error| damaged(&error))?;
                        let chain: Vec<_> = request.chain_der.into_iter().map(Into::into).collect();
                        self.rotation.import(&chain, &by)
                    }
                    _ => {
                        let request = wire::RotateRequest::decode(bytes).map_err(|error| damaged(&error))?;
                        self.rotation.step(request.step(), request.force, &by)
                    }
                };
                answer.rotation = Some(rotation.map_err(Status::failed_precondition)?);
                return Ok(answer);
            }
        };
        answer.revision = outcome.revision;
        answer.changes = resources::changes(&outcome);
        answer.problems = outcome.problems.into_iter().map(resources::problem).collect();
        Ok(answer)
    }

    /// A step of the CA, unless it takes two: then it waits.
    pub(super) fn ca_takes_two<M: Message>(
        &self,
        caller: &Caller,
        call: Call,
        what: &str,
        request: &M,
    ) -> Result<(), Status> {
        if !self.operators.second.of.contains(&Concern::Ca) {
            return Ok(());
        }
        let asked = Asked { call, what: what.to_owned(), request, keys: Vec::new() };
        Err(self.operators.wait(caller, asked, vec![format!("CA: {what}")]))
    }
}

fn may_see(caller: &Caller, pending: &Pending) -> bool {
    match pending.call {
        Call::Rotate | Call::Import => caller.rights.sees_all(),
        Call::Apply | Call::Delete | Call::Rollback => pending.keys().iter().all(|key| caller.sees_resource(key)),
    }
}

fn may_do(caller: &Caller, pending: &Pending) -> Result<(), Status> {
    match pending.call {
        Call::Rotate | Call::Import => caller.must_be_admin("change the CA"),
        Call::Apply | Call::Delete | Call::Rollback => caller.may_change(&pending.keys(), false),
    }
}

fn told(pending: Pending) -> wire::Approval {
    let resources = pending.keys().iter().map(resources::write_ref).collect();
    wire::Approval {
        id: pending.id,
        author: pending.author,
        what: pending.what,
        reasons: pending.reasons,
        asked_unix_ms: pending.asked_unix_ms,
        until_unix_ms: pending.until_unix_ms,
        resources,
    }
}

fn faster() -> Status {
    Status::aborted("somebody else approved or rejected it at the same time; see `isthmus approve`")
}

fn damaged(error: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("what was kept of the request cannot be read: {error}; let it be asked for again"))
}
