//! The Authority service: identities from the operator's side. Beside [`super::Operators`], for the same callers.

use super::{Operators, certificates, operator};
use crate::approval::Call;
use crate::audit::{Event, Head, ReadError, What, segments};
use crate::authority::Own;
use crate::authority::rotation::Rotation;
use crate::identity::attest;
use crate::identity::blocking;
use crate::identity::revocation::{self, RevokeError, Target};
use crate::identity::tokens::unavailable;
use isthmus_certs::{Clock, Serial, SpiffeId};
use isthmus_proto::admin::v1::authority_server::Authority;
use isthmus_proto::admin::v1::*;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Lines per message of an export, and messages on their way: a slow reader holds up the reading, not the memory.
const LINES: usize = 256;
const MESSAGES: usize = 4;
/// Below the size of a gRPC message that every client takes.
const DUMP_PART: usize = 1 << 20;
const STORE_FAILED: &str = "the store failed; see the log, make room, and restart the control plane";

/// The service that is registered with tonic.
#[derive(Clone)]
pub struct Overseer {
    pub operators: Operators,
    pub own: Arc<Own>,
    pub rotation: Arc<Rotation>,
}

type Lines = Result<ExportAuditResponse, Status>;

#[tonic::async_trait]
impl Authority for Overseer {
    type ExportAuditStream = ReceiverStream<Lines>;
    type DumpStoreStream = ReceiverStream<Result<DumpStorePart, Status>>;

    async fn verify_audit(
        &self,
        request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        operator(&request)?;
        let known = match request.into_inner().known_head.as_str() {
            "" => None,
            text => Some(text.parse::<Head>().map_err(Status::invalid_argument)?),
        };
        let audit = self.operators.issuer.audit().clone();
        let failed = self.operators.ledger.has_failed().then(|| STORE_FAILED.to_string());
        let unwritable = audit.unwritable().or(failed).unwrap_or_default();
        let verified = blocking(move || verify(audit.dir(), known.unwrap_or_else(|| audit.head()))).await?;
        Ok(Response::new(VerifyAuditResponse { unwritable, ..verified }))
    }

    async fn export_audit(
        &self,
        request: Request<ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        operator(&request)?;
        let from = request.into_inner().from_line;
        let dir = self.operators.issuer.audit().dir().to_path_buf();
        let (send, lines) = mpsc::channel(MESSAGES);
        // Ends with the log, or when the reader goes: a send to nobody fails.
        self.operators.tasks.spawn_blocking(move || export(&dir, from, &send));
        Ok(Response::new(ReceiverStream::new(lines)))
    }

    async fn dump_store(&self, request: Request<DumpStoreRequest>) -> Result<Response<Self::DumpStoreStream>, Status> {
        let operator = operator(&request)?.who.name;
        let this = self.operators.clone();
        let json = blocking(move || {
            let dump = this.ledger.store().dump().map_err(unavailable)?;
            tracing::info!(operator, revision = dump.revision, "the store is read for a backup");
            serde_json::to_vec(&dump).map_err(|error| Status::internal(error.to_string()))
        });
        let json = json.await?;
        let (send, parts) = mpsc::channel(MESSAGES);
        self.operators.tasks.spawn(async move {
            for part in json.chunks(DUMP_PART) {
                if send.send(Ok(DumpStorePart { json: part.to_vec() })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(parts)))
    }

    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let caller = operator(&request)?;
        Ok(Response::new(certificates::list(&self.operators, &caller)))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let operator = operator(&request)?.who.name;
        let this = self.clone();
        blocking(move || this.revoke_now(&request.into_inner(), &operator)).await.map(Response::new)
    }

    async fn list_revocations(
        &self,
        request: Request<ListRevocationsRequest>,
    ) -> Result<Response<ListRevocationsResponse>, Status> {
        operator(&request)?;
        let store = self.operators.ledger.store().clone();
        let records = blocking(move || revocation::list(&*store).map_err(not_revoked)).await?;
        let revocations = records.into_iter().map(|record| Revocation {
            serial: record.serial,
            spiffe_id: record.who,
            at_unix_ms: record.at_unix_ms,
            operator: record.operator,
            reason: record.reason,
            epoch: record.epoch,
        });
        Ok(Response::new(ListRevocationsResponse { revocations: revocations.collect() }))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        let operator = operator(&request)?.who.name;
        let (this, workload) = (self.operators.clone(), request.into_inner().workload);
        let released = blocking(move || {
            if this.ledger.world().index.identity_of(&workload).is_none() {
                return Err(Status::not_found(format!("there is no Workload `{workload}`")));
            }
            // On record first: what lets a machine in again is not done in silence.
            this.log(What::Released, operator, Event { workload: workload.clone(), ..Event::default() })?;
            attest::release(&**this.ledger.store(), &workload, this.ledger.clock().now_ms())?;
            Ok(ReleaseResponse {})
        });
        released.await.map(Response::new)
    }

    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<RotateResponse>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let RotateRequest { step, force } = request;
        let step = RotationStep::try_from(step)
            .map_err(|_| Status::invalid_argument(format!("this control plane knows no step {step}")))?;
        if step != RotationStep::Unspecified {
            caller.must_be_admin("change the CA")?;
        }
        let (this, by) = (self.clone(), caller.clone());
        let done = blocking(move || {
            if step != RotationStep::Unspecified {
                let word = step.as_str_name().trim_start_matches("ROTATION_STEP_").to_lowercase();
                this.ca_takes_two(&by, Call::Rotate, &format!("ca rotate {word}"), &request)?;
            }
            this.rotation.step(step, force, by.name()).map_err(Status::failed_precondition)
        });
        let mut done = done.await?;
        // Each line begins with whom it is about.
        let all = done.not_yet.len();
        done.not_yet.retain(|line| {
            caller.rights.sees_all()
                || line.split_once(": ").is_some_and(|(who, _)| who.contains('/') && caller.sees_workload(who))
        });
        if done.not_yet.len() < all {
            done.not_yet.push(format!("and {} that you may not see", all - done.not_yet.len()));
        }
        Ok(Response::new(done))
    }

    async fn request_intermediate(
        &self,
        request: Request<RequestIntermediateRequest>,
    ) -> Result<Response<RequestIntermediateResponse>, Status> {
        operator(&request)?;
        let own = self.own.clone();
        let csr_der = blocking(move || own.authorities().request().map_err(Status::failed_precondition)).await?;
        Ok(Response::new(RequestIntermediateResponse { csr_der }))
    }

    async fn import_intermediate(
        &self,
        request: Request<ImportIntermediateRequest>,
    ) -> Result<Response<RotateResponse>, Status> {
        let caller = operator(&request)?;
        let (this, request) = (self.clone(), request.into_inner());
        let done = blocking(move || {
            this.ca_takes_two(&caller, Call::Import, "ca import", &request)?;
            let chain: Vec<_> = request.chain_der.into_iter().map(Into::into).collect();
            this.rotation.import(&chain, caller.name()).map_err(Status::failed_precondition)
        });
        done.await.map(Response::new)
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        let (caller, this) = (operator(&request)?, self.operators.clone());
        blocking(move || this.approvals_now(&caller)).await.map(Response::new)
    }

    async fn approve(&self, request: Request<ApproveRequest>) -> Result<Response<ApproveResponse>, Status> {
        let (caller, this) = (operator(&request)?, self.clone());
        let ApproveRequest { id, dry_run } = request.into_inner();
        blocking(move || this.approve_now(&caller, &id, dry_run)).await.map(Response::new)
    }

    async fn reject(&self, request: Request<RejectRequest>) -> Result<Response<RejectResponse>, Status> {
        let (caller, this) = (operator(&request)?, self.operators.clone());
        blocking(move || this.reject_now(&caller, &request.into_inner().id)).await.map(Response::new)
    }
}

impl Overseer {
    fn revoke_now(&self, request: &RevokeRequest, operator: &str) -> Result<RevokeResponse, Status> {
        let Operators { ledger, issuer, .. } = &self.operators;
        let target = target(request)?;
        if let Target::Identity(id) = &target
            && id.is_control_plane()
        {
            return Err(Status::invalid_argument("the control plane cannot revoke itself: change the root instead"));
        }
        let concerned = |holding: &crate::identity::register::Holding| match &target {
            Target::Serial(serial) => holding.serial == serial.to_string(),
            Target::Identity(id) => holding.who == id.as_str(),
        };
        let live = issuer.register().live(ledger.clock().now_ms());
        let serials = live.into_iter().filter(concerned).map(|holding| holding.serial).collect();
        let store = &**ledger.store();
        let epoch = revocation::revoke(issuer, store, &target, operator, &request.reason).map_err(not_revoked)?;
        let revision = revocation::publish(ledger, &self.own.store).map_err(not_revoked)?;
        tracing::warn!(operator, ?target, reason = request.reason, epoch, "revoked");
        Ok(RevokeResponse { revision, epoch, serials })
    }
}

fn target(request: &RevokeRequest) -> Result<Target, Status> {
    match (request.serial.as_str(), request.spiffe_id.as_str()) {
        ("", "") => Err(Status::invalid_argument("name a serial or a SPIFFE id")),
        (serial, "") => Serial::parse(serial).map(Target::Serial).ok_or_else(|| {
            Status::invalid_argument(format!(
                "`{serial}` is no serial: up to 40 hex digits, as `isthmus certs` shows them"
            ))
        }),
        ("", id) => SpiffeId::parse(id)
            .map(Target::Identity)
            .map_err(|error| Status::invalid_argument(format!("`{id}`: {error}"))),
        _ => Err(Status::invalid_argument("name a serial or a SPIFFE id, not both")),
    }
}

fn not_revoked(error: RevokeError) -> Status {
    Status::unavailable(error.to_string())
}

fn verify(dir: &Path, known: Head) -> Result<VerifyAuditResponse, Status> {
    let mut lines = 0;
    match segments::read_all(dir, Some(known), |_| lines += 1) {
        Ok(head) => Ok(VerifyAuditResponse { lines, head: head.to_string(), ..VerifyAuditResponse::default() }),
        Err(ReadError::Io { file, source }) => Err(Status::unavailable(format!("{file}: {source}"))),
        Err(fault) => Ok(VerifyAuditResponse { lines, fault: fault.to_string(), ..VerifyAuditResponse::default() }),
    }
}

fn export(dir: &Path, from: u64, to: &mpsc::Sender<Lines>) {
    let mut batch = Vec::with_capacity(LINES);
    let sent = segments::each_line(dir, from, |line| {
        batch.push(line.to_string());
        if batch.len() < LINES {
            return true;
        }
        to.blocking_send(Ok(ExportAuditResponse { lines: std::mem::take(&mut batch) })).is_ok()
    });
    let last = match sent {
        Ok(()) if batch.is_empty() => return,
        Ok(()) => Ok(ExportAuditResponse { lines: batch }),
        Err(error) => Err(Status::unavailable(error.to_string())),
    };
    // A reader that has gone needs no end.
    let _ = to.blocking_send(last);
}
