//! The Admin service, for operators and pipelines. Served on a port where TLS admits operators alone.

mod approvals;
mod certificates;
mod gather;
mod history;
mod live;
pub(crate) mod on_record;
mod overseer;
mod policy;
mod resources;
mod services;
mod standing;
mod tokens;
mod traces;
mod wait;
mod watch;

pub use overseer::Overseer;

use crate::approval::{self, Approved, Call, SecondApprover};
use crate::audit::{Event, What};
use crate::confirm;
use crate::flows::store::FlowStore;
use crate::identity::blocking;
use crate::identity::issuer::Issuer;
use crate::ledger::{Author, Kind, Ledger, Outcome, Proposal, World, Writer};
use crate::live::Looks;
use crate::operators::Caller;
use crate::push::registry::Registry;
use crate::serve::Peer;
use crate::store::Change;
use crate::traces::store::TraceStore;
use crate::validate::{self, Problem};
use approvals::Asked;
use isthmus_proto::admin::v1::admin_server::Admin;
use isthmus_proto::admin::v1::*;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

/// Documents of one apply, together. 100,000 small resources are about 40 MiB.
pub const MAX_APPLY: usize = 64 << 20;
/// Large applies at once.
pub const APPLYING_AT_ONCE: usize = 2;

/// The service that is registered with tonic.
#[derive(Clone)]
pub struct Operators {
    pub ledger: Arc<Ledger>,
    pub registry: Arc<Registry>,
    /// `host:port` for join tokens.
    pub advertise: String,
    pub issuer: Arc<Issuer>,
    pub flows: Arc<FlowStore>,
    pub looks: Arc<Looks>,
    pub traces: Arc<TraceStore>,
    /// Large applies at once: each holds its documents.
    pub applying: Arc<Semaphore>,
    /// What takes two operators.
    pub second: Arc<SecondApprover>,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Admin for Operators {
    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;
    type WaitInForceStream = ReceiverStream<Result<InForce, Status>>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let caller = operator(&request)?;
        self.apply_as(caller, request.into_inner()).await
    }

    async fn apply_stream(&self, request: Request<Streaming<ApplyPart>>) -> Result<Response<ApplyResponse>, Status> {
        let caller = operator(&request)?;
        let _only_a_few = self.applying.try_acquire().map_err(|_| {
            Status::resource_exhausted("other large applies are under way; try again when they are done")
        })?;
        let whole = gather::all(request.into_inner()).await?;
        self.apply_as(caller, whole).await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let caller = operator(&request)?;
        let (this, by, request) = (self.clone(), caller.clone(), request.into_inner());
        let dry_run = request.dry_run;
        let outcome = blocking(move || this.delete_now(&request, &by, None)).await?;
        record(caller.name(), "delete", dry_run, &outcome);
        Ok(Response::new(DeleteResponse {
            revision: outcome.revision,
            changes: resources::changes(&outcome),
            problems: outcome.problems.into_iter().map(resources::problem).collect(),
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let caller = operator(&request)?;
        let GetRequest { resource, status } = request.into_inner();
        let key = resources::read_ref(resource.unwrap_or_default());
        caller.may_see(&key)?;
        let this = self.clone();
        blocking(move || standing::get(&this, &key, status)).await.map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let caller = operator(&request)?;
        let (this, request) = (self.clone(), request.into_inner());
        blocking(move || standing::list(&this, &caller, &request)).await.map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = operator(&request)?;
        Ok(Response::new(watch::start(self, caller.who.clone(), request.into_inner())))
    }

    async fn wait_in_force(
        &self,
        request: Request<WaitInForceRequest>,
    ) -> Result<Response<Self::WaitInForceStream>, Status> {
        let caller = operator(&request)?;
        wait::start(self, caller, request.into_inner().revision).map(Response::new)
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let operator = operator(&request)?.who.name;
        let request = request.into_inner();
        let this = self.clone();
        let by = operator.clone();
        let created = blocking(move || {
            let created = tokens::create(&this, &request)?;
            let (who, workload) = (created.spiffe_id.clone(), request.workload);
            this.log(What::TokenCreated, by, Event { who, workload, proof: token(&created.id), ..Event::default() })?;
            Ok(created)
        })
        .await?;
        tracing::info!(operator, token = created.id, id = created.spiffe_id, "join token created");
        Ok(Response::new(created))
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        let caller = operator(&request)?;
        let this = self.clone();
        blocking(move || tokens::list(&this, &caller)).await.map(Response::new)
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        let operator = operator(&request)?.who.name;
        let id = request.into_inner().id;
        tracing::info!(operator, token = id, "join token revoked");
        let this = self.clone();
        let revoked = blocking(move || {
            let done = tokens::revoke(&this, &id)?;
            this.log(What::TokenRevoked, operator, Event { proof: token(&id), ..Event::default() })?;
            Ok(done)
        });
        revoked.await.map(Response::new)
    }

    async fn list_proxies(
        &self,
        request: Request<ListProxiesRequest>,
    ) -> Result<Response<ListProxiesResponse>, Status> {
        let caller = operator(&request)?;
        let all = self.registry.everywhere(self.ledger.clock().now_ms()).into_values();
        let seen = all.filter(|(_, proxy)| caller.sees_workload(&proxy.workload));
        let replicas = self.ledger.store().replicas();
        let here = replicas.map(|replicas| replicas.name()).unwrap_or_default();
        let proxies = seen.map(|(replica, proxy)| resources::proxy(proxy, replica.unwrap_or_else(|| here.clone())));
        let proxies = proxies.collect();
        let cut_off = replicas.and_then(|replicas| replicas.cut_off());
        let warnings = cut_off.map(|since| {
            let since = since.as_secs();
            format!("this control plane ({here}) has not reached the store for {since} s: of others it knows what was before")
        });
        let (warnings, build_version) = (warnings.into_iter().collect(), env!("CARGO_PKG_VERSION").to_string());
        Ok(Response::new(ListProxiesResponse { proxies, build_version, warnings }))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let caller = operator(&request)?;
        services::list(self, &caller, &request.into_inner()).map(Response::new)
    }
}

impl Operators {
    async fn apply_as(&self, caller: Caller, request: ApplyRequest) -> Result<Response<ApplyResponse>, Status> {
        let ApplyRequest { dry_run, confirm_seconds, .. } = request;
        if confirm_seconds != 0 && !(10..=86_400).contains(&confirm_seconds) {
            return Err(Status::invalid_argument("the time to confirm is between 10s and 24h"));
        }
        let until = self.confirm_until(&request);
        let (this, by) = (self.clone(), caller.clone());
        let outcome = blocking(move || this.apply_now(&request, until, &by, None)).await?;
        let changed = outcome.changes.iter().any(|(_, kind)| *kind != Kind::Unchanged) && outcome.problems.is_empty();
        record(caller.name(), "apply", dry_run, &outcome);
        Ok(Response::new(ApplyResponse {
            revision: outcome.revision,
            changes: resources::changes(&outcome),
            problems: outcome.problems.into_iter().map(resources::problem).collect(),
            warnings: outcome.warnings,
            confirm_until_unix_ms: until.filter(|_| changed).unwrap_or(0),
        }))
    }

    fn confirm_until(&self, request: &ApplyRequest) -> Option<i64> {
        match (request.confirm_seconds, request.dry_run) {
            (0, _) | (_, true) => None,
            (seconds, false) => Some(self.ledger.clock().now_ms() + i64::from(seconds) * 1000),
        }
    }

    fn delete_now(
        &self,
        request: &DeleteRequest,
        caller: &Caller,
        approved: Option<&Approved<'_>>,
    ) -> Result<Outcome, Status> {
        let deletes: Vec<_> = request.resources.iter().cloned().map(resources::read_ref).collect();
        caller.may_change(&deletes, request.dry_run)?;
        let (by, author) = author(caller, "delete", approved);
        let proposal = Proposal { deletes, author, ..Proposal::default() };
        let first = |world: &World, change: &mut Change| {
            confirm::nobody_waits(&**self.ledger.store(), world.revision)?;
            approval::gate(&self.second.of, world, change, approved)?;
            on_record::write(self.issuer.audit(), world, change, by)
        };
        let proposed = self.ledger.propose_after(&proposal, request.dry_run, first);
        let keys = proposal.deletes.clone();
        let asked = Asked { call: Call::Delete, what: "delete".to_owned(), request, keys };
        let mut outcome = proposed.map_err(|error| self.wait_or_fail(error, caller, approved, asked))?;
        if request.dry_run {
            outcome.shown = resources::shown(&self.ledger.world(), &proposal, &outcome);
        }
        Ok(outcome)
    }

    /// `until`: it is taken back then, unless it is confirmed.
    fn apply_now(
        &self,
        request: &ApplyRequest,
        until: Option<i64>,
        caller: &Caller,
        approved: Option<&Approved<'_>>,
    ) -> Result<Outcome, Status> {
        let ApplyRequest { documents, dry_run, namespace, if_revision, prune, .. } = request;
        let dry_run = *dry_run;
        let (ledger, audit) = (&self.ledger, self.issuer.audit());
        let (mut proposal, mut problems) = documents_in(namespace, documents)?;
        caller.may_change(proposal.puts.iter().map(|parsed| &parsed.resource.key), dry_run)?;
        let (by, author) = author(caller, "apply", approved);
        proposal.author = author;
        proposal.if_revision = Some(*if_revision).filter(|revision| *revision != 0);
        if let (Some(prune), true) = (prune, problems.is_empty()) {
            resources::prune(ledger, &mut proposal, prune)?;
            caller.may_change_found(&proposal.deletes, dry_run)?;
        }
        // With faults in some documents the rest is still checked, so that everything is told at once.
        let first = |world: &World, change: &mut Change| {
            confirm::nobody_waits(&**ledger.store(), world.revision)?;
            approval::gate(&self.second.of, world, change, approved)?;
            on_record::write(audit, world, change, by)?;
            until.map_or(Ok(()), |until| confirm::note(&**ledger.store(), world, change, until, by))
        };
        let proposed = ledger.propose_after(&proposal, dry_run || !problems.is_empty(), first);
        let keys = proposal.puts.iter().map(|parsed| &parsed.resource.key).chain(&proposal.deletes).cloned().collect();
        let asked = Asked { call: Call::Apply, what: "apply".to_owned(), request, keys };
        let mut outcome = proposed.map_err(|error| self.wait_or_fail(error, caller, approved, asked))?;
        if dry_run {
            outcome.shown = resources::shown(&ledger.world(), &proposal, &outcome);
            let reasons = self.would_take_two(&proposal, approved);
            outcome.warnings.extend(reasons.map(|reason| format!("takes a second operator: {reason}")));
        }
        // "There is no Site `a`" is no news where the document of that Site is the faulty one.
        let unread: Vec<String> = problems.iter().map(|problem| format!("`{}`", problem.resource.name)).collect();
        let follows =
            |reason: &str| reason.starts_with("there is no ") && unread.iter().any(|name| reason.contains(name));
        outcome.problems.retain(|problem| !follows(&problem.reason));
        problems.append(&mut outcome.problems);
        problems.sort_by(|a, b| (&a.source, a.line, a.column).cmp(&(&b.source, b.line, b.column)));
        outcome.problems = problems;
        if !outcome.problems.is_empty() {
            outcome.changes.clear();
        }
        Ok(outcome)
    }

    /// Why a proposal would wait for a second operator.
    fn would_take_two(&self, proposal: &Proposal, approved: Option<&Approved<'_>>) -> impl Iterator<Item = String> {
        let puts = proposal.puts.iter().map(|parsed| (&parsed.resource.key, Some(&parsed.resource.json)));
        let all = puts.chain(proposal.deletes.iter().map(|key| (key, None)));
        let reasons = approval::reasons(&self.second.of, &self.ledger.world(), all);
        reasons.into_iter().filter(move |_| approved.is_none())
    }

    /// What an operator did to identities, on record before it is answered.
    fn log(&self, what: What, operator: String, event: Event) -> Result<(), Status> {
        let written = self.issuer.audit().append(Event { what, operator, ..event });
        written.map(drop).map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// Who is named for a change, and how: whoever asked for it, with whoever approved.
fn author<'a>(caller: &'a Caller, how: &str, approved: Option<&Approved<'a>>) -> (&'a str, Author) {
    match approved {
        Some(approved) => (approved.author, Author::new(approved.author, approved.in_words(how))),
        None => (caller.name(), Author::new(caller.name(), how)),
    }
}

fn token(id: &str) -> String {
    format!("join-token {id}")
}

/// Who asks, and with which rights, as [`crate::operators::gate`] found them. Without the gate in front nobody is answered.
fn operator<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("this call needs an operator's certificate"))
}

/// Admits operators to their port, and those who come to sign in: they reach nothing but the Login service.
pub fn admit(peer: &Peer) -> Result<(), String> {
    match &peer.identity {
        Some(identity) if identity.id.operator_name().is_some() => Ok(()),
        Some(identity) => Err(format!("{} is not an operator", identity.id)),
        None => Ok(()),
    }
}

/// Documents as a proposal, and what is wrong with each of them.
fn documents(documents: &[Document]) -> Result<(Proposal, Vec<Problem>), Status> {
    documents_in("", documents)
}

/// The same, with the namespace of documents that name none.
fn documents_in(namespace: &str, documents: &[Document]) -> Result<(Proposal, Vec<Problem>), Status> {
    let size: usize = documents.iter().map(|document| document.yaml.len()).sum();
    if size > MAX_APPLY {
        return Err(Status::invalid_argument(format!("{size} bytes of YAML in one apply; at most {MAX_APPLY}")));
    }
    let mut proposal = Proposal { writer: Writer::Api, ..Proposal::default() };
    let mut problems = Vec::new();
    for document in documents {
        let (parsed, found) = validate::parse_in(namespace, &document.source, &document.yaml);
        problems.extend(parsed.iter().filter_map(validate::by_command_only));
        proposal.puts.extend(parsed);
        problems.extend(found);
    }
    Ok((proposal, problems))
}

fn record(operator: &str, what: &str, dry_run: bool, outcome: &Outcome) {
    let Outcome { revision, changes, problems, .. } = outcome;
    tracing::info!(operator, what, dry_run, revision, changes = changes.len(), problems = problems.len(), "operator");
}
