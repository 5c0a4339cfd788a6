//! The Identity service: who gets which certificate.
//!
//! Enroll: clock → proof ([`attest`]) → workload → revoked? → CSR → the proof is used up, durably → a certificate for the one
//! identity that the proof names. Renew: the certificate on the connection → the same identity again. Nothing but the key is taken
//! from a CSR. Every issuance and every refusal is in the audit log ([`issuer`]), and every refusal says what to do.

pub mod attest;
pub mod issuer;
pub mod register;
pub mod restore;
pub mod revocation;
pub mod tokens;

use crate::audit::{Event, What};
use crate::index::Index;
use crate::ledger::Ledger;
use crate::push::copies::Machine;
use crate::push::registry::{Arrival, Registry};
use crate::serve::{Peer, required_identity};
use attest::kubernetes::Pod;
use attest::{Attested, Attestors, Once};
use issuer::{IssueError, Issuer};
use isthmus_certs::ca::BACKDATE;
use isthmus_certs::{PeerIdentity, PublicKeyInfo, SpiffeId, csr, skew_in_words};
use isthmus_proto::identity::v1::identity_server::Identity;
use isthmus_proto::identity::v1::{
    Certificate, ChallengeRequest, ChallengeResponse, EnrollRequest, EnrollResponse, RenewRequest, RenewResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// Five minutes, and what a request may take on its way. A leaf begins 10 minutes before it is issued; with clocks much
/// further apart its first minutes would be lost.
const MAX_SKEW_MS: i64 = (5 * 60 + 10) * 1000;
/// Enroll is open to strangers, and each call costs a look-up on disk and two signatures.
pub const ENROLLING_AT_ONCE: usize = 32;
const ENROLL_WAITS: Duration = Duration::from_secs(5);

/// The service that is registered with tonic.
#[derive(Clone)]
pub struct Identities {
    pub ledger: Arc<Ledger>,
    pub issuer: Arc<Issuer>,
    pub attestors: Arc<Attestors>,
    pub registry: Arc<Registry>,
    pub enrolling: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Identity for Identities {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let from = request.extensions().get::<Peer>().map(|peer| peer.address);
        let request = request.into_inner();
        let _permit = tokio::time::timeout(ENROLL_WAITS, self.enrolling.acquire())
            .await
            .map_err(|_| Status::resource_exhausted("too many workloads are enrolling at once; try again in a moment"))?
            .map_err(|_| Status::unavailable("the control plane is stopping; try again"))?;
        let this = self.clone();
        let from = from.map(|address| address.to_string()).unwrap_or_default();
        // The clock first, as ever, so that nobody is asked on behalf of a caller who is refused anyway.
        let reviewed = match self.check_clock(request.client_time_unix_ms) {
            Ok(()) => self.attestors.review(&request).await,
            Err(status) => Err(status),
        };
        blocking(move || {
            let done = reviewed.and_then(|pod| this.enroll_now(&request, pod.as_ref(), &from));
            match &done {
                Ok(response) => tracing::info!(workload = response.workload, from, "enrolled"),
                Err(status) => this.note_refusal(status, attest::name_of(&request), String::new(), from),
            }
            done
        })
        .await
        .map(Response::new)
    }

    async fn challenge(&self, request: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let key =
            csr::verify(&request.into_inner().csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let nonce = self.attestors.nonce(&key, self.ledger.clock().now_ms());
        Ok(Response::new(ChallengeResponse { nonce }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let from = request.extensions().get::<Peer>().map(|peer| peer.address.to_string()).unwrap_or_default();
        let peer = required_identity(request.extensions().get::<Peer>())?;
        let request = request.into_inner();
        let this = self.clone();
        let renewed = blocking(move || {
            let done = this.renew_now(&request, &peer, &from);
            match &done {
                Ok(_) => tracing::info!(id = %peer.id, old_serial = %peer.serial, "renewed"),
                Err(status) => this.note_refusal(status, proof_of_holder(&peer), peer.id.to_string(), from),
            }
            done
        });
        Ok(Response::new(RenewResponse { certificate: Some(renewed.await?) }))
    }
}

fn proof_of_holder(peer: &PeerIdentity) -> String {
    format!("certificate {}", peer.serial)
}

impl Identities {
    /// The clock was checked before: whoever could not even shake hands over a wrong one asks without a proof.
    fn enroll_now(&self, request: &EnrollRequest, pod: Option<&Pod>, from: &str) -> Result<EnrollResponse, Status> {
        let (store, now_ms) = (&**self.ledger.store(), self.ledger.clock().now_ms());
        if request.proof.is_none() {
            return Err(Status::invalid_argument("no proof of identity; send a join token"));
        }
        let key = csr::verify(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (world, ours) = (self.ledger.world(), self.ledger.trust().trust_domain.clone());
        let around = (store, &*world.index, &ours, now_ms);
        let attested = attest::attest(request, pod, &key, &self.attestors, around)?;
        let id = self.workload_of(&attested)?;
        if *id.trust_domain() != ours {
            return Err(Status::failed_precondition(format!(
                "Workload {} is of trust domain {}; it enrols with the control plane there",
                attested.workload,
                id.trust_domain()
            )));
        }
        self.check_not_revoked(&id, &attested)?;
        attest::use_up(&attested, store, &key, now_ms)?;
        let event = Event {
            what: What::Enrolled,
            workload: attested.workload.clone(),
            proof: attested.proof,
            from: from.to_string(),
            ..Event::default()
        };
        let certificate = self.issue(&key, &id, event)?;
        Ok(EnrollResponse { certificate: Some(certificate), workload: attested.workload })
    }

    fn renew_now(&self, request: &RenewRequest, peer: &PeerIdentity, from: &str) -> Result<Certificate, Status> {
        self.check_clock_of_holder(request.client_time_unix_ms, &peer.id)?;
        self.check_identity(&peer.id)?;
        // Also where an older state was put back: from here on it is on record that there is this certificate.
        // Of several control planes each has the record of what it issued itself.
        if !self.ledger.store().is_shared() {
            restore::recognise(&self.issuer, &**self.ledger.store(), peer, "").map_err(unrecorded)?;
        }
        if self.ledger.trust().revocations.cover(peer) {
            return Err(Status::permission_denied(format!(
                "certificate {} of {} was revoked; to let it in again, let it join with a new token",
                peer.serial, peer.id
            )));
        }
        self.check_machine(request, peer, from)?;
        let key = csr::verify(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (proof, from) = (proof_of_holder(peer), from.to_string());
        self.issue(&key, &peer.id, Event { what: What::Renewed, proof, from, ..Event::default() })
    }

    /// A copy of a machine gets no certificate of its own while the other is served.
    fn check_machine(&self, request: &RenewRequest, peer: &PeerIdentity, from: &str) -> Result<(), Status> {
        let Some(holding) = self.issuer.register().of_serial(&peer.serial.to_string()) else { return Ok(()) };
        let machine = Machine::read(request.machine.clone(), from);
        let arrival = Arrival { machine, enrolment: holding.enrolment };
        let now_ms = self.ledger.clock().now_ms();
        self.registry.may_renew(&holding.workload, &arrival, now_ms).map_err(|refused| {
            Status::permission_denied(format!(
                "{} is in use by another machine: {}; this one is {}. If this machine is to take over, let it join with a \
                 new token",
                holding.workload, refused.holder, refused.copy.machine
            ))
        })
    }

    fn note_refusal(&self, status: &Status, proof: String, who: String, from: String) {
        let reason = status.message().to_string();
        tracing::warn!(reason, proof, who, from, "refused");
        self.issuer.audit().refused(Event { who, proof, from, reason, ..Event::default() });
    }

    /// The workload must be there, and for a token still be who it was when the token was made.
    fn workload_of(&self, attested: &Attested) -> Result<SpiffeId, Status> {
        let (world, workload) = (self.ledger.world(), &attested.workload);
        match (world.index.identity_of(workload), &attested.once) {
            (Some(id), Once::Token(token)) if id.as_str() != token.spiffe_id => {
                Err(Status::failed_precondition(format!(
                    "the join token was made for {}, but Workload {workload} is {id} now; create a new token",
                    token.spiffe_id
                )))
            }
            (Some(id), _) => Ok(id.clone()),
            (None, Once::Token(_)) => Err(Status::failed_precondition(format!(
                "Workload {workload} does not exist any more; apply it, then create a new token"
            ))),
            (None, Once::FirstKey | Once::Vouched) => Err(Status::failed_precondition(format!(
                "Workload {workload}, which this proof is for, does not exist; apply it"
            ))),
        }
    }

    /// A revoked identity comes back by what an operator allowed after it: a new token, a release.
    fn check_not_revoked(&self, id: &SpiffeId, attested: &Attested) -> Result<(), Status> {
        let revocations = &self.ledger.trust().revocations;
        let Some(until) = revocations.identities.get(id) else { return Ok(()) };
        if attested.allowed_unix_ms / 1000 <= i64::try_from(*until).unwrap_or(i64::MAX) {
            return Err(Status::unauthenticated(format!(
                "{id} was revoked after {} was allowed; if it may come back: `isthmus token create {workload}`, or `isthmus \
                 identity release {workload}`",
                attested.proof,
                workload = attested.workload
            )));
        }
        if revocations.cover_identity(id, self.ledger.clock().now()) {
            return Err(Status::unavailable(format!("{id} was revoked this very second; try again in the next")));
        }
        Ok(())
    }

    fn check_identity(&self, id: &SpiffeId) -> Result<(), Status> {
        if id.is_system() {
            return Err(Status::permission_denied(format!(
                "{id} is not a workload's identity and is not renewed here"
            )));
        }
        if !self.ledger.world().index.has_identity(id) {
            return Err(Status::permission_denied(format!(
                "no Workload has the identity {id} any more; apply one and enrol again"
            )));
        }
        Ok(())
    }

    /// A certificate that is not yet valid where it arrives shows as a TLS error hours later; it is better said here.
    fn check_clock(&self, client_ms: i64) -> Result<(), Status> {
        let skew = client_ms - self.ledger.clock().now_ms();
        if client_ms == 0 || skew.abs() <= MAX_SKEW_MS {
            return Ok(());
        }
        Err(skewed(skew))
    }

    /// Whoever holds a certificate is refused a new one only where it could not use it: an outage is worse than skew.
    fn check_clock_of_holder(&self, client_ms: i64, id: &SpiffeId) -> Result<(), Status> {
        let skew = client_ms - self.ledger.clock().now_ms();
        if client_ms == 0 || skew.abs() <= MAX_SKEW_MS {
            return Ok(());
        }
        let lifetime = self.ledger.world().mesh.leaf_lifetime;
        let usable = skew > -millis(BACKDATE) && skew < millis(lifetime);
        tracing::warn!(%id, usable, "renewal: {}", skew_in_words(skew));
        if usable { Ok(()) } else { Err(skewed(skew)) }
    }

    fn issue(&self, key: &PublicKeyInfo, id: &SpiffeId, event: Event) -> Result<Certificate, Status> {
        let world = self.ledger.world();
        let renewed = || self.issuer.register().of_serial(event.proof.strip_prefix("certificate ")?);
        let workload = match event.workload.as_str() {
            "" => renewed()
                .map(|holding| holding.workload)
                .or_else(|| only_workload(&world.index, id))
                .unwrap_or_default(),
            named => named.to_string(),
        };
        let names = world.index.dns_names_of(&workload);
        let issued = self.issuer.issue_named(key, id, names, world.mesh.leaf_lifetime, event).map_err(|error| {
            tracing::error!(%error, "could not issue");
            match error {
                IssueError::Audit(error) => Status::unavailable(error.to_string()),
                IssueError::Ca(error) => {
                    Status::internal(format!("the control plane could not issue a certificate: {error}"))
                }
            }
        })?;
        Ok(Certificate {
            chain_der: issued.chain.iter().map(|der| der.to_vec()).collect(),
            roots_der: self.issuer.authorities().bundle().roots().iter().map(|der| der.to_vec()).collect(),
            spiffe_id: id.to_string(),
            server_time_unix_ms: self.ledger.clock().now_ms(),
        })
    }
}

/// What is not on record is not issued, and so not renewed.
pub fn unrecorded(error: revocation::RevokeError) -> Status {
    Status::unavailable(error.to_string())
}

/// Of a certificate that another control plane has issued: whose it is, where its identity has one workload.
fn only_workload(index: &Index, id: &SpiffeId) -> Option<String> {
    match index.workloads_of(id.trust_domain(), id.namespace(), id.service_account()).as_slice() {
        [one] => Some((*one).to_string()),
        _ => None,
    }
}

fn skewed(skew_ms: i64) -> Status {
    Status::failed_precondition(format!(
        "{}; set it (chronyc makestep, or timedatectl set-ntp true), then try again: the join token is still good",
        skew_in_words(skew_ms)
    ))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Work that waits for the disk, off the threads that serve connections. Once begun it ends, whoever stops waiting.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Status::internal("a bug in the control plane stopped this call; see its log")))
}
