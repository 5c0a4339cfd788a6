//! Proofs of who somebody is, behind one interface: each names exactly one workload, and with it one identity.
//!
//! A proof that can be shown again (a machine's certificate, a VM's document) binds the workload to the key that it first came with. Another
//! key is a host that lost its own, or a copy of it: either way an operator has to say so first
//! (`isthmus identity release`).

pub mod azure;
pub mod certificate;
pub mod kubernetes;
mod token_review;

use super::tokens;
use crate::config::Attestation;
use crate::index::Index;
use crate::store::{Store, TokenRecord};
use azure::{Azure, Nonces};
use certificate::CompanyCas;
use isthmus_certs::token::split_secret;
use isthmus_certs::{PublicKeyInfo, TrustDomain};
use isthmus_proto::identity::v1::EnrollRequest;
use isthmus_proto::identity::v1::enroll_request::Proof;
use kubernetes::{Clusters, Pod};
use serde_json::json;
use tonic::Status;

const BOUND: &str = "bound/";
const RELEASED: &str = "releasedAtUnixMs";

/// Who vouches for whom, as `control.yaml` says.
pub struct Attestors {
    companies: CompanyCas,
    clusters: Clusters,
    azure: Option<Azure>,
    nonces: Nonces,
}

impl Attestors {
    /// Reads the files of CAs.
    pub fn read(configured: &Attestation) -> Result<Self, String> {
        Ok(Attestors {
            companies: CompanyCas::read(&configured.certificates)?,
            clusters: Clusters::read(&configured.kubernetes)?,
            azure: configured.azure.as_ref().map(Azure::read).transpose()?,
            nonces: Nonces::new()?,
        })
    }

    /// What a document for a request with this key has to carry.
    pub fn nonce(&self, key: &PublicKeyInfo, now_ms: i64) -> String {
        self.nonces.make(key, now_ms)
    }

    /// Asks whoever has to be asked over the network before [`attest`]; most proofs need nobody.
    pub async fn review(&self, request: &EnrollRequest) -> Result<Option<Pod>, Status> {
        match &request.proof {
            Some(Proof::Kubernetes(proof)) => self.clusters.review(proof).await.map(Some),
            _ => Ok(None),
        }
    }
}

/// What a proof says, once it holds.
pub struct Attested {
    /// `<namespace>/<name>`.
    pub workload: String,
    /// For the record.
    pub proof: String,
    /// When an operator allowed this: a token's creation, a release; 0: never expressly. A revoked identity comes back by
    /// what was allowed later, and by nothing else.
    pub allowed_unix_ms: i64,
    pub once: Once,
}

/// How it is kept from being used again by somebody else.
pub enum Once {
    /// Spent with its first use.
    Token(TokenRecord),
    /// Bound to the first key.
    FirstKey,
    /// Not at all: whoever vouched for it was asked just now, and is asked each time.
    Vouched,
}

/// How the audit log names a proof, whether it holds or not. The secret half of a token is not in it.
pub fn name_of(request: &EnrollRequest) -> String {
    match &request.proof {
        Some(Proof::JoinToken(secret)) => match split_secret(secret) {
            Ok((id, _)) => format!("join-token {id}"),
            Err(_) => "join-token".to_string(),
        },
        Some(Proof::Certificate(proof)) => format!("certificate of {}", proof.authority.escape_debug()),
        Some(Proof::Kubernetes(proof)) => format!("kubernetes {}", proof.cluster.escape_debug()),
        Some(Proof::Azure(_)) => "azure".to_string(),
        None => "none".to_string(),
    }
}

/// Checks the proof of a request, whichever it is. `reviewed` is what [`Attestors::review`] found, `key` the request's.
pub fn attest(
    request: &EnrollRequest,
    reviewed: Option<&Pod>,
    key: &PublicKeyInfo,
    attestors: &Attestors,
    (store, index, ours, now_ms): (&dyn Store, &Index, &TrustDomain, i64),
) -> Result<Attested, Status> {
    let attested = match (&request.proof, reviewed) {
        (Some(Proof::JoinToken(secret)), _) => {
            let token = tokens::find(store, secret, now_ms)?;
            let (workload, allowed_unix_ms) = (token.workload.clone(), token.created_unix_ms);
            return Ok(Attested { workload, proof: name_of(request), allowed_unix_ms, once: Once::Token(token) });
        }
        (Some(Proof::Certificate(proof)), _) => attestors.companies.attest(proof, &request.csr_der, now_ms)?,
        (Some(Proof::Azure(proof)), _) => {
            let none = || Status::unauthenticated("attestation.azure is not configured here");
            let azure = attestors.azure.as_ref().ok_or_else(none)?;
            azure.attest(&proof.document, &attestors.nonces, key, now_ms)?
        }
        (Some(Proof::Kubernetes(_)), Some(pod)) => pod.attest(index, ours)?,
        (Some(Proof::Kubernetes(_)) | None, _) => {
            return Err(Status::invalid_argument(
                "no proof of identity that this control plane knows; send a join token",
            ));
        }
    };
    let bound = store.fact(&bound_to(&attested.workload)).map_err(tokens::unavailable)?;
    let released = bound.and_then(|bound| bound[RELEASED].as_i64()).unwrap_or(0);
    Ok(Attested { allowed_unix_ms: released, ..attested })
}

/// Uses the proof up, or binds it, durably, before anything is issued for it.
pub fn use_up(attested: &Attested, store: &dyn Store, key: &PublicKeyInfo, now_ms: i64) -> Result<(), Status> {
    match &attested.once {
        Once::Token(token) => tokens::spend(store, token, key, now_ms),
        Once::FirstKey => bind(attested, store, key, now_ms),
        Once::Vouched => Ok(()),
    }
}

fn bound_to(workload: &str) -> String {
    format!("{BOUND}{workload}")
}

fn bind(attested: &Attested, store: &dyn Store, key: &PublicKeyInfo, now_ms: i64) -> Result<(), Status> {
    let (name, workload) = (bound_to(&attested.workload), &attested.workload);
    let key_sha256 = crate::audit::chain::hex(&super::issuer::key_sha256(key));
    let released = attested.allowed_unix_ms;
    let bound = json!({ "key": key_sha256, "proof": attested.proof, "atUnixMs": now_ms, RELEASED: released });
    loop {
        let seen = store.fact(&name).map_err(tokens::unavailable)?;
        match seen.as_ref().map(|seen| seen["key"].as_str()) {
            // The answer was lost on the way, and the same machine asks again.
            Some(Some(first)) if first == key_sha256 => return Ok(()),
            Some(Some(_)) => {
                let how = seen.as_ref().and_then(|seen| seen["proof"].as_str()).unwrap_or("another proof");
                return Err(Status::permission_denied(format!(
                    "Workload {workload} was enrolled by {how} with another key. If that machine lost its key, `isthmus \
                     identity release {workload}` lets it enrol once more; if it did not, this is a copy of it"
                )));
            }
            Some(None) | None => {}
        }
        if store.swap_fact(&name, seen.as_ref(), Some(&bound)).map_err(tokens::unavailable)? {
            return Ok(());
        }
    }
}

/// Lets a workload enrol with another key, once.
pub fn release(store: &dyn Store, workload: &str, now_ms: i64) -> Result<(), Status> {
    let name = bound_to(workload);
    loop {
        let seen = store.fact(&name).map_err(tokens::unavailable)?;
        let released = json!({ RELEASED: now_ms });
        if store.swap_fact(&name, seen.as_ref(), Some(&released)).map_err(tokens::unavailable)? {
            return Ok(());
        }
    }
}
