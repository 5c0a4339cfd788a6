//! The Policy service: what was decided, what would be, and break-glass. Beside [`Operators`], for the same callers.

use super::{Operators, documents, operator, resources};
use crate::audit::{Event, What};
use crate::confirm;
use crate::flows::query;
use crate::identity::blocking;
use crate::identity::tokens::unavailable;
use crate::ledger::{Author, Proposal, World};
use crate::operators::Caller;
use crate::validate::{Parsed, Problem, ResourceRef, from_stored, node};
use crate::views::{self, Selection};
use isthmus_proto::admin::v1::policy_server::Policy;
use isthmus_proto::admin::v1::*;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Flows per message, and messages on their way.
const FLOWS: usize = 500;
const MESSAGES: usize = 4;
/// A break-glass that lasts longer than a day is a policy, and belongs into one.
const LONGEST_BYPASS_S: u32 = 86_400;

#[tonic::async_trait]
impl Policy for Operators {
    type ListFlowsStream = ReceiverStream<Result<ListFlowsResponse, Status>>;

    async fn list_flows(&self, request: Request<ListFlowsRequest>) -> Result<Response<Self::ListFlowsStream>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        if !request.service.is_empty() && request.namespace.is_empty() {
            return Err(Status::invalid_argument("a service is named with its namespace"));
        }
        let this = self.clone();
        let (coverage, flows) = blocking(move || {
            let (index, now_ms) = (this.ledger.world().index.clone(), this.ledger.clock().now_ms());
            query::list(&this.flows, &index, &request, now_ms, |workload| caller.sees_workload(workload))
                .map_err(unavailable)
        })
        .await?;
        let (send, answer) = mpsc::channel(MESSAGES);
        // Ends with the flows, or when the reader goes.
        self.tasks.spawn(async move {
            let first = ListFlowsResponse { coverage: Some(coverage), flows: Vec::new() };
            let mut rest = flows.chunks(FLOWS).map(|part| ListFlowsResponse { coverage: None, flows: part.to_vec() });
            let mut next = Some(first);
            while let Some(message) = next {
                if send.send(Ok(message)).await.is_err() {
                    return;
                }
                next = rest.next();
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn find_refusal(
        &self,
        request: Request<FindRefusalRequest>,
    ) -> Result<Response<FindRefusalResponse>, Status> {
        let caller = operator(&request)?;
        let (id, store) = (request.into_inner().id, self.flows.clone());
        let wanted = id.clone();
        let found = blocking(move || store.refusal(&wanted).map_err(unavailable)).await?;
        let found = found.filter(|found| caller.sees_workload(&found.workload));
        let mut found = found.ok_or_else(|| Status::not_found(format!("no proxy has reported a decision {id}")))?;
        let refusal = found.refusal.clone().unwrap_or_default();
        let kind = if refusal.destination.is_empty() { "ServicePolicy" } else { "EgressPolicy" };
        let world = self.ledger.world();
        found.owner = owner_of(&world, kind, &refusal.policy);
        if let Some(refusal) = found.refusal.as_mut().filter(|refusal| !refusal.destination.is_empty()) {
            refusal.would_allow = for_its_workload(&world, &found.workload, &refusal.would_allow);
        }
        Ok(Response::new(found))
    }

    async fn compile_views(
        &self,
        request: Request<CompileViewsRequest>,
    ) -> Result<Response<CompileViewsResponse>, Status> {
        let caller = operator(&request)?;
        let this = self.clone();
        blocking(move || this.views_now(&request.into_inner(), &caller)).await.map(Response::new)
    }

    async fn bypass(&self, request: Request<BypassRequest>) -> Result<Response<BypassResponse>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        caller.may_edit_namespace(&request.namespace, "bypass the policies of a service there")?;
        let this = self.clone();
        blocking(move || this.bypass_now(&request, caller.who.name)).await.map(Response::new)
    }

    async fn list_bypasses(
        &self,
        request: Request<ListBypassesRequest>,
    ) -> Result<Response<ListBypassesResponse>, Status> {
        let caller = operator(&request)?;
        let mut bypasses = views::bypasses(&self.ledger.world().resources, self.ledger.clock().now_ms());
        bypasses.retain(|bypass| caller.sees(&bypass.namespace));
        Ok(Response::new(ListBypassesResponse { bypasses }))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        let caller = operator(&request)?;
        let this = self.clone();
        blocking(move || this.confirm_now(&request.into_inner(), &caller)).await.map(Response::new)
    }
}

fn owner_of(world: &World, kind: &str, policy: &str) -> String {
    let (namespace, name) = policy.split_once('/').unwrap_or_default();
    let found = world.resources.get(&ResourceRef::new(kind, namespace, name));
    found.map(|policy| views::owner(policy)).unwrap_or_default()
}

/// An EgressPolicy of the proxy's own making, narrowed to the workloads that carry the same labels: without, it would be
/// for the whole namespace.
fn for_its_workload(world: &World, workload: &str, yaml: &str) -> String {
    let (namespace, name) = workload.split_once('/').unwrap_or_default();
    let found = world.resources.get(&ResourceRef::new("Workload", namespace, name));
    let labels = found.filter(|found| !found.labels.is_empty()).map(|found| json!(found.labels));
    match labels {
        Some(labels) => yaml.replacen("spec:\n", &format!("spec:\n  workloads: {{ matchLabels: {labels} }}\n"), 1),
        None => yaml.to_owned(),
    }
}

impl Operators {
    fn views_now(&self, request: &CompileViewsRequest, caller: &Caller) -> Result<CompileViewsResponse, Status> {
        let (proposal, mut problems) = documents(&request.documents)?;
        caller.may_change(proposal.puts.iter().map(|parsed| &parsed.resource.key), true)?;
        let (outcome, set, index) = self.ledger.preview(&proposal, request.as_enforced);
        problems.extend(outcome.problems);
        if !problems.is_empty() {
            let problems = problems.into_iter().map(resources::problem).collect();
            return Ok(CompileViewsResponse { revision: outcome.revision, problems, ..Default::default() });
        }
        let world = self.ledger.world();
        let selection = Selection { namespace: &request.namespace, service: &request.service };
        let proposed = |key: &ResourceRef| proposal.puts.iter().find(|parsed| parsed.resource.key == *key);
        let origin = |resource: &crate::validate::resource::Resource| match proposed(&resource.key) {
            Some(parsed) => format!("file:{}", parsed.source),
            None => world.meta.get(&resource.key).map(|meta| meta.origin.clone()).unwrap_or_default(),
        };
        let sees = |namespace: &str| caller.sees(namespace);
        let views = views::of(&set, &index, (selection, &sees), self.ledger.clock().now_ms(), origin);
        Ok(CompileViewsResponse { revision: outcome.revision, ..views })
    }

    fn bypass_now(&self, request: &BypassRequest, operator: String) -> Result<BypassResponse, Status> {
        let BypassRequest { namespace, service, seconds, reason } = request;
        if *seconds > LONGEST_BYPASS_S {
            return Err(Status::invalid_argument("a bypass lasts 24h at most; what shall last is a policy"));
        }
        let name = if service.is_empty() { "all-services" } else { service };
        let key = ResourceRef::new("Bypass", namespace, name);
        let until_unix_ms = self.ledger.clock().now_ms() + i64::from(*seconds) * 1000;
        let author = Author::new(&operator, reason.clone());
        let mut proposal = Proposal { author, ..Proposal::default() };
        let (what, told) = match seconds {
            0 => (What::BypassEnded, reason.clone()),
            _ => (What::Bypassed, format!("for {seconds} s: {reason}")),
        };
        if *seconds == 0 {
            proposal.deletes.push(key.clone());
        } else {
            let resource = from_stored(&bypass_json(&key, service, until_unix_ms, &operator, reason)?);
            let resource = resource.map_err(|problems| refused(&problems))?;
            let node = node::from_json(&resource.json);
            proposal.puts.push(Parsed { resource, source: "isthmus bypass".to_string(), node });
        }
        let checked = self.ledger.propose(&proposal, true).map_err(unavailable)?;
        if !checked.problems.is_empty() {
            return Err(refused(&checked.problems));
        }
        // On record before it opens anything.
        let event = Event { workload: key.qualified(), reason: told, ..Event::default() };
        self.log(what, operator.clone(), event)?;
        let outcome = self.ledger.propose(&proposal, false).map_err(unavailable)?;
        if !outcome.problems.is_empty() {
            return Err(refused(&outcome.problems));
        }
        tracing::warn!(operator, bypass = key.qualified(), seconds, reason, "break-glass");
        Ok(BypassResponse { revision: outcome.revision, until_unix_ms })
    }

    fn confirm_now(&self, request: &ConfirmRequest, caller: &Caller) -> Result<ConfirmResponse, Status> {
        let store = self.ledger.store();
        let present = self.ledger.world().revision;
        let pending = confirm::pending(&**store, present).map_err(unavailable)?;
        let wanted = |revision: u64| request.revision == 0 || request.revision == revision;
        let Some(pending) = pending.filter(|pending| wanted(pending.revision)) else {
            let what = match request.revision {
                0 => "nothing awaits confirmation: it was confirmed, or its time is over and it was taken back",
                _ => {
                    "that revision awaits no confirmation: it was confirmed, or its time is over and it was taken back"
                }
            };
            return Err(Status::failed_precondition(what));
        };
        caller.may_change_found(&pending.keys(), false)?;
        let operator = caller.name();
        tracing::info!(operator, revision = pending.revision, roll_back = request.roll_back, "confirmation");
        let what = if request.roll_back { What::RolledBack } else { What::Confirmed };
        let reason = format!("revision {} of operator {}", pending.revision, pending.operator);
        let revision = pending.revision;
        self.log(what, operator.to_owned(), Event { reason, revision, ..Event::default() })?;
        if request.roll_back {
            let outcome = confirm::roll_back(&self.ledger, &pending, operator).map_err(unavailable)?;
            if !outcome.problems.is_empty() {
                return Err(refused(&outcome.problems));
            }
            let changes = resources::changes(&outcome);
            return Ok(ConfirmResponse { revision: pending.revision, present_revision: outcome.revision, changes });
        }
        match confirm::confirm(&**store, &pending).map_err(unavailable)? {
            true => Ok(ConfirmResponse {
                revision: pending.revision,
                present_revision: pending.revision,
                changes: Vec::new(),
            }),
            false => Err(Status::failed_precondition("its time is over, and it was taken back")),
        }
    }
}

fn bypass_json(
    key: &ResourceRef,
    service: &str,
    until_unix_ms: i64,
    operator: &str,
    reason: &str,
) -> Result<serde_json::Value, Status> {
    let until = jiff::Timestamp::from_millisecond(until_unix_ms)
        .map_err(|error| Status::internal(format!("the clock is beyond what can be written: {error}")))?;
    let mut spec = json!({ "until": until.to_string(), "operator": operator, "reason": reason });
    if !service.is_empty() {
        spec["services"] = json!([service]);
    }
    Ok(json!({
        "apiVersion": crate::validate::GROUP,
        "kind": "Bypass",
        "metadata": { "namespace": key.namespace, "name": key.name },
        "spec": spec,
    }))
}

fn refused(problems: &[Problem]) -> Status {
    Status::failed_precondition(problems.first().map(|problem| problem.reason.clone()).unwrap_or_default())
}
