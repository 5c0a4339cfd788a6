//! First contact: a proof of who we are (mostly a join token) for a certificate whose key never leaves this process.

use std::time::Duration;

use isthmus_certs::{Clock, ExpectedPeer, PrivateKey, SpiffeId, TrustBundle, WorkloadIdentity, csr};
use isthmus_proto::identity::v1 as wire;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use isthmus_proto::model::WorkloadName;
use rustls::pki_types::CertificateDer;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::skew::{self, warn_if_skewed};
use super::{ControlError, Dialer, FirstContact, Proof, Start, connect};
use crate::telemetry::Metrics;

/// One request and its answer.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Tries until the control plane has answered. The same key each time, so that an answer which got lost on the way
/// leaves no second certificate for another key behind. Returns the workload's name.
pub(super) async fn until_enrolled(start: &Start, dialer: &Dialer, metrics: &Metrics) -> Result<String, ControlError> {
    let contact = start.first_contact().ok_or(ControlError::NotEnrolled)?;
    let key = csr::new_key()?;
    let mut retry = FIRST_RETRY;
    loop {
        let error = match enroll(start, dialer, contact, &key).await {
            Ok((identity, workload)) => {
                take(start, identity, &workload, metrics).await?;
                return Ok(workload);
            }
            Err(error) => error,
        };
        let probe = || ExpectedPeer::PinnedClockProbe(contact.root, SpiffeId::control_plane(&contact.trust_domain));
        let error = skew::named(error, dialer, start.identities(), probe).await;
        metrics.certificate_renewal(false);
        if error.is_final() {
            return Err(error);
        }
        let wait = retry.mul_f64(0.5 + 0.5 * rand::random::<f64>());
        warn!("enrol: {error}; trying again in {} ms", wait.as_millis());
        tokio::time::sleep(wait).await;
        retry = (retry * 2).min(LONGEST_RETRY);
    }
}

pub(super) async fn enroll(
    start: &Start,
    dialer: &Dialer,
    contact: &FirstContact,
    key: &PrivateKey,
) -> Result<(WorkloadIdentity, String), ControlError> {
    let clock = start.identities().clock();
    let control_plane = SpiffeId::control_plane(&contact.trust_domain);
    let pinned = ExpectedPeer::PinnedRoot(contact.root, control_plane);
    let channel = connect::channel(dialer, start.identities().client_config(connect::ALPN, pinned)).await?;
    let csr_der = csr::request(key)?;
    let proof = contact.proof.make(&csr_der, &channel, start.dial()).await?;
    let asked_ms = clock.now_ms();
    let request = wire::EnrollRequest { proof: Some(proof), csr_der, client_time_unix_ms: asked_ms };
    let mut client = IdentityClient::new(channel);
    let answer = answer_in_time(client.enroll(request)).await.map_err(|e| match (e, &contact.proof) {
        (ControlError::Refused(status), proof) if status.code() == Code::Unauthenticated => match proof {
            Proof::JoinToken(_) => ControlError::TokenRefused(with_advice(status.message())),
            _ => ControlError::ProofRefused(status.message().to_owned()),
        },
        (other, _) => other,
    })?;
    let workload: WorkloadName =
        answer.workload.parse().map_err(|e| ControlError::BadAnswer(format!("workload: {e}")))?;
    let identity = issued(answer.certificate, key, clock.as_ref(), asked_ms)?;
    if !identity.bundle.fingerprints().contains(&contact.root) {
        return Err(ControlError::BadAnswer(
            "its roots do not include the one that this first contact names".to_owned(),
        ));
    }
    Ok((identity, workload.into()))
}

/// Every refusal of a token says what to do, whichever control plane it comes from.
fn with_advice(refusal: &str) -> String {
    const CREATE: &str = "`isthmus token create`";
    if refusal.contains(CREATE) { refusal.to_owned() } else { format!("{refusal}. Create a new one with {CREATE}") }
}

async fn take(
    start: &Start,
    identity: WorkloadIdentity,
    workload: &str,
    metrics: &Metrics,
) -> Result<(), ControlError> {
    info!("enrolled spiffe={} serial={} {}", identity.id, identity.serial, expires_in(start, &identity));
    metrics.certificate_renewal(true);
    metrics.certificate_expiry(i64::try_from(identity.not_after.as_secs()).unwrap_or(i64::MAX));
    // The token is spent: serving with an identity that a restart would lose is better than not serving.
    if let Err(e) = start.save_first(&identity, workload).await {
        warn!("the identity is in memory only, and a restart will need a new join token: {e}");
    }
    start.identities().replace(identity)?;
    Ok(())
}

pub(super) fn expires_in(start: &Start, identity: &WorkloadIdentity) -> String {
    let left = identity.not_after.as_secs().saturating_sub(start.identities().now().as_secs());
    format!("expires in {left} s")
}

/// The answer of one call, or an error that says what went wrong.
pub(super) async fn answer_in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, ControlError> {
    match tokio::time::timeout(ANSWER_DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(ControlError::Refused(status)),
        Err(_) => Err(ControlError::Timeout(ANSWER_DEADLINE.as_secs())),
    }
}

/// The identity that the answer and our key make; refused unless they belong together.
pub(super) fn issued(
    certificate: Option<wire::Certificate>,
    key: &PrivateKey,
    clock: &dyn Clock,
    asked_ms: i64,
) -> Result<WorkloadIdentity, ControlError> {
    let certificate = certificate.ok_or_else(|| ControlError::BadAnswer("it holds no certificate".to_owned()))?;
    warn_if_skewed(asked_ms, clock.now_ms(), certificate.server_time_unix_ms);
    let roots = TrustBundle::from_ders(&certificate.roots_der);
    let roots = roots.map_err(|e| ControlError::BadAnswer(format!("roots: {e}")))?;
    let chain = certificate.chain_der.into_iter().map(CertificateDer::from).collect();
    Ok(WorkloadIdentity::new(chain, key.clone(), roots, clock.now())?)
}
