//! The Login service: a certificate for a token, for a certificate, or for a sign-in at a provider. The only service of the
//! operators' port that answers callers without a certificate.
//!
//! The key is the caller's own and never leaves him; of a CSR nothing but the key is taken. Refused: more at once than
//! [`SIGNING_IN_AT_ONCE`], names that no operator has, and a certificate that was renewed for longer than [`LONGEST`].

use super::oidc::{self, Provider};
use super::session::{self, Session};
use super::{Caller, access};
use crate::audit::{Event, What};
use crate::identity::blocking;
use crate::identity::issuer::{Issuer, key_sha256};
use crate::identity::tokens::unavailable;
use crate::ledger::Ledger;
use crate::serve::Peer;
use isthmus_certs::{Clock, PublicKeyInfo, SpiffeId, csr, pem};
use isthmus_proto::admin::v1::login_server::Login;
use isthmus_proto::admin::v1::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

/// Connections of callers without a certificate.
pub const STRANGERS: usize = 64;
/// Open to strangers, and each call costs a look-up on disk and a signature.
pub const SIGNING_IN_AT_ONCE: usize = 8;
/// Persons who have a code and are on their way to a browser.
pub const AT_A_BROWSER: usize = 32;
/// Of one person. More than a few hundred are nobody's.
const MOST_GROUPS: usize = 1000;
const LONGEST_GROUP: usize = 256;
/// From the sign-in on, certificates are renewed by the one before for so long; then it takes a sign-in.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// A pipeline's job.
const ROBOT_LIFETIME: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(60);

/// The service that is registered with tonic.
#[derive(Clone)]
pub struct Door {
    pub ledger: Arc<Ledger>,
    pub issuer: Arc<Issuer>,
    /// `host:port` of the operators' port.
    pub address: String,
    /// Of a person's certificate.
    pub lifetime: Duration,
    pub signing_in: Arc<Semaphore>,
    pub provider: Option<Arc<Provider>>,
    pub at_a_browser: Arc<Semaphore>,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

type Progress = Result<SignInProgress, Status>;

/// A certificate that is about to be given.
pub(super) struct Grant {
    pub(super) operator: String,
    pub(super) lifetime: Duration,
    pub(super) proof: String,
    pub(super) session: Option<Session>,
    pub(super) from: String,
}

#[tonic::async_trait]
impl Login for Door {
    type SignInStream = ReceiverStream<Progress>;

    async fn methods(&self, _: Request<MethodsRequest>) -> Result<Response<MethodsResponse>, Status> {
        let authorities = self.issuer.authorities();
        let roots_pem = pem::write(authorities.bundle().roots(), None);
        Ok(Response::new(MethodsResponse {
            trust_domain: authorities.trust_domain().to_string(),
            roots_pem: roots_pem.map_err(|error| Status::internal(error.to_string()))?.to_string(),
            oidc_issuer: self.provider.as_ref().map(|provider| provider.issuer().to_string()).unwrap_or_default(),
        }))
    }

    async fn renew(&self, request: Request<RenewLoginRequest>) -> Result<Response<LoginResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("renewing takes the certificate before"))?;
        let from = address_of(&request);
        let request = request.into_inner();
        let this = self.clone();
        blocking(move || this.renew_now(&request, &caller, from)).await.map(Response::new)
    }

    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<LoginResponse>, Status> {
        let _permit = self.permit()?;
        let from = address_of(&request);
        let request = request.into_inner();
        let this = self.clone();
        blocking(move || {
            let done = this.redeem_now(&request, from.clone());
            this.note_refusal(&done, &from);
            done
        })
        .await
        .map(Response::new)
    }

    async fn sign_in(&self, request: Request<SignInRequest>) -> Result<Response<Self::SignInStream>, Status> {
        let none = "this control plane has no OIDC provider (operators.oidc in control.yaml): use an invitation";
        let provider = self.provider.clone().ok_or_else(|| Status::failed_precondition(none))?;
        let full = |_| Status::resource_exhausted("too many are signing in at once; try again in some minutes");
        let permit = self.at_a_browser.clone().try_acquire_owned().map_err(full)?;
        let from = address_of(&request);
        let request = request.into_inner();
        let key = csr::verify(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let nonce = crate::audit::chain::hex(&key_sha256(&key));
        let code = provider.begin(&nonce).await.map_err(Status::failed_precondition);
        self.note_refusal(&code, &from);
        let code = code?;
        let first = SignInProgress {
            verification_uri: code.verification_uri.clone(),
            user_code: code.user_code.clone(),
            verification_uri_complete: code.verification_uri_complete.clone(),
            done: None,
        };
        let (send, receive) = mpsc::channel(2);
        let _ = send.try_send(Ok(first));
        let waiting = Waiting { door: self.clone(), provider, code, nonce, request, from, _permit: permit };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let done = tokio::select! {
                done = waiting.finish() => done,
                () = send.closed() => return,
                () = shutdown.cancelled() => Err(Status::unavailable("the control plane is stopping; sign in again")),
            };
            let _ = send.try_send(done.map(|done| SignInProgress { done: Some(done), ..Default::default() }));
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// Somebody who has a code.
struct Waiting {
    door: Door,
    provider: Arc<Provider>,
    code: oidc::Code,
    nonce: String,
    request: SignInRequest,
    from: String,
    _permit: OwnedSemaphorePermit,
}

impl Waiting {
    async fn finish(self) -> Result<LoginResponse, Status> {
        let Waiting { door, provider, code, nonce, request, from, .. } = self;
        let now_s = || door.now_ms() / 1000;
        let claims = provider.finish(&code, &nonce, now_s).await.map_err(Status::permission_denied);
        let issuer = provider.issuer().to_string();
        blocking(move || {
            let done = claims.and_then(|claims| {
                let groups = claims.groups.iter().filter(|group| group.len() <= LONGEST_GROUP);
                let groups = groups.take(MOST_GROUPS).cloned().collect();
                let display_name = claims.display_name.clone();
                let session = Session { groups, display_name, ..Session::default() };
                let grant = Grant {
                    operator: oidc::operator_name(&issuer, &claims),
                    lifetime: wanted(request.ttl_seconds, door.lifetime),
                    proof: format!("oidc {issuer} {}", claims.subject),
                    session: Some(session),
                    from: from.clone(),
                };
                door.give(&request.csr_der, grant)
            });
            door.note_refusal(&done, &from);
            done
        })
        .await
    }
}

pub(super) fn address_of<T>(request: &Request<T>) -> String {
    request.extensions().get::<Peer>().map(|peer| peer.address.to_string()).unwrap_or_default()
}

impl Door {
    pub(super) fn permit(&self) -> Result<SemaphorePermit<'_>, Status> {
        let full = |_| Status::resource_exhausted("too many are signing in at once; try again in a moment");
        self.signing_in.try_acquire().map_err(full)
    }

    pub(super) fn note_refusal<T>(&self, done: &Result<T, Status>, from: &str) {
        let Err(status) = done else { return };
        let reason = status.message().to_string();
        tracing::warn!(reason, from, "sign-in refused");
        let proof = "sign-in".to_string();
        self.issuer.audit().refused(Event { proof, from: from.to_string(), reason, ..Event::default() });
    }

    fn renew_now(&self, request: &RenewLoginRequest, caller: &Caller, from: String) -> Result<LoginResponse, Status> {
        if session::needed(caller.name()) {
            return Err(Status::failed_precondition(format!(
                "the rights of {} come with each sign-in: `isthmus login --oidc` or --token-file, not by renewal",
                caller.name()
            )));
        }
        let began_ms = match self.issuer.register().of_serial(&caller.serial) {
            // The file that the control plane made renews for as long as it is valid itself.
            Some(holding) if holding.enrolment.1 == caller.serial => self.now_ms(),
            Some(holding) => holding.enrolment.0,
            None => return Err(Status::failed_precondition("this certificate is not on record here: sign in again")),
        };
        let longest = i64::try_from(LONGEST.as_millis()).unwrap_or(i64::MAX);
        let left = began_ms.saturating_add(longest) - self.now_ms();
        if left < i64::try_from(SHORTEST.as_millis()).unwrap_or(i64::MAX) {
            return Err(Status::failed_precondition(
                "this sign-in was 30 days ago: renew from operator.yaml, or ask an admin for an invitation",
            ));
        }
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let lifetime = wanted(request.ttl_seconds, self.lifetime).min(left);
        let (operator, proof) = (caller.who.name.clone(), format!("certificate {}", caller.serial));
        self.give(&request.csr_der, Grant { operator, lifetime, proof, session: None, from })
    }

    fn redeem_now(&self, request: &RedeemRequest, from: String) -> Result<LoginResponse, Status> {
        // The key first: an invitation is not used up for a request that cannot be answered.
        csr::verify(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now_ms = self.now_ms();
        let token = access::redeem(&**self.ledger.store(), &request.secret, now_ms)?;
        let left = Duration::from_millis(u64::try_from(token.expires_unix_ms - now_ms).unwrap_or(0));
        let (lifetime, session, kind) = match &token.scope {
            Some(_) => {
                let session = Session { token: token.id.clone(), ..Session::default() };
                (wanted(request.ttl_seconds, ROBOT_LIFETIME).min(left), Some(session), "robot-token")
            }
            None => (wanted(request.ttl_seconds, self.lifetime), None, "invitation"),
        };
        let proof = format!("{kind} {}", token.id);
        self.give(&request.csr_der, Grant { operator: token.operator, lifetime, proof, session, from })
    }

    /// Signs, writes down, and only then answers.
    pub(super) fn give(&self, csr_der: &[u8], grant: Grant) -> Result<LoginResponse, Status> {
        let Grant { operator, lifetime, proof, session, from } = grant;
        let key: PublicKeyInfo = csr::verify(csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let authorities = self.issuer.authorities();
        let id = SpiffeId::operator(authorities.trust_domain(), &operator)
            .map_err(|error| Status::invalid_argument(format!("operator `{operator}`: {error}")))?;
        if self.ledger.trust().revocations.cover_identity(&id, self.ledger.clock().now()) {
            return Err(Status::unavailable(format!("{id} was revoked this very second; try again in the next")));
        }
        let reason = session.as_ref().map(|session| session.display_name.clone()).unwrap_or_default();
        let event = Event { what: What::SignedIn, operator: operator.clone(), proof, from, reason, ..Event::default() };
        let issued = self
            .issuer
            .issue(&key, &id, lifetime.max(SHORTEST), event)
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let not_after_unix_ms = i64::try_from(issued.not_after.as_secs()).unwrap_or(i64::MAX / 1000) * 1000;
        if let Some(session) = session {
            let session = Session { until_unix_ms: not_after_unix_ms, ..session };
            session::keep(&**self.ledger.store(), &issued.serial.to_string(), &session).map_err(unavailable)?;
        }
        tracing::info!(operator, serial = %issued.serial, "signed in");
        Ok(LoginResponse {
            chain_der: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            roots_der: authorities.bundle().roots().iter().map(|root| root.to_vec()).collect(),
            operator,
            not_after_unix_ms,
            address: self.address.clone(),
        })
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.ledger.clock().now_ms()
    }
}

/// No longer than is given, no shorter than is of use.
pub(super) fn wanted(seconds: u32, most: Duration) -> Duration {
    match seconds {
        0 => most,
        seconds => Duration::from_secs(seconds.into()).clamp(SHORTEST, most),
    }
}
