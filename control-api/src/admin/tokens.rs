//! Join tokens, from the operator's side.

use super::Operators;
use crate::identity::tokens::{self, DEFAULT_TTL, MAX_TTL, unavailable};
use crate::operators::Caller;
use crate::store::{TokenRecord, TokenState};
use isthmus_certs::{JoinToken, RootFingerprint};
use isthmus_proto::admin::v1 as wire;
use std::time::Duration;
use tonic::Status;

pub(super) fn create(
    this: &Operators,
    request: &wire::CreateJoinTokenRequest,
) -> Result<wire::CreateJoinTokenResponse, Status> {
    let ttl = match request.ttl_seconds {
        0 => DEFAULT_TTL,
        seconds => Duration::from_secs(seconds.into()),
    };
    if ttl > MAX_TTL {
        return Err(Status::invalid_argument(format!("a join token lives at most 7 days, not {} s", ttl.as_secs())));
    }
    let world = this.ledger.world();
    let workload = &request.workload;
    let id = world.index.identity_of(workload).ok_or_else(|| {
        Status::not_found(format!(
            "there is no Workload `{workload}`; it reads <namespace>/<name> and must be applied first"
        ))
    })?;
    if *id.trust_domain() != this.ledger.trust().trust_domain {
        return Err(Status::failed_precondition(format!(
            "Workload {workload} is of trust domain {}; make its token there",
            id.trust_domain()
        )));
    }
    let root = RootFingerprint::of(this.issuer.authorities().own().root());
    let token = JoinToken::generate(&this.advertise, &this.ledger.trust().trust_domain, root)
        .map_err(|error| Status::internal(error.to_string()))?;
    let now_ms = this.ledger.clock().now_ms();
    let record = tokens::create(&**this.ledger.store(), &token, workload, id.as_str(), now_ms, ttl)?;
    Ok(wire::CreateJoinTokenResponse {
        token: token.format().to_string(),
        id: record.id,
        spiffe_id: record.spiffe_id,
        expires_unix_ms: record.expires_unix_ms,
    })
}

pub(super) fn list(this: &Operators, caller: &Caller) -> Result<wire::ListJoinTokensResponse, Status> {
    let now_ms = this.ledger.clock().now_ms();
    let token = |record: TokenRecord| wire::JoinToken {
        state: tokens::state_word(&record, now_ms).to_string(),
        id: record.id,
        workload: record.workload,
        spiffe_id: record.spiffe_id,
        expires_unix_ms: record.expires_unix_ms,
    };
    let records = this.ledger.store().tokens().map_err(unavailable)?;
    let seen = records.into_iter().filter(|record| caller.sees_workload(&record.workload));
    Ok(wire::ListJoinTokensResponse { tokens: seen.map(token).collect() })
}

/// Revoking is final; revoking again is no error. A used token is refused: what it gave out is a certificate by now.
pub(super) fn revoke(this: &Operators, id: &str) -> Result<wire::RevokeJoinTokenResponse, Status> {
    let store = this.ledger.store();
    loop {
        let seen = store.token(id).map_err(unavailable)?;
        let seen = seen.ok_or_else(|| Status::not_found(format!("there is no join token {id}")))?;
        match seen.state {
            TokenState::Revoked => return Ok(wire::RevokeJoinTokenResponse {}),
            TokenState::Used { .. } => {
                return Err(Status::failed_precondition(format!(
                    "join token {id} was used already; to take {} out of the mesh, delete the Workload {}",
                    seen.spiffe_id, seen.workload
                )));
            }
            TokenState::Unused => {}
        }
        let revoked = TokenRecord { state: TokenState::Revoked, ..seen.clone() };
        if store.swap_token(id, Some(&seen), Some(&revoked)).map_err(unavailable)? {
            return Ok(wire::RevokeJoinTokenResponse {});
        }
    }
}
