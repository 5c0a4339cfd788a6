//! Join tokens: made for one workload, good once, and for a limited time.
//!
//! The store holds the secret's hash alone. A spent token stays until it ends: whoever lost the answer may ask again
//! with the same key, and anybody else is told that it was used.

use crate::store::{Store, StoreError, TokenRecord, TokenState};
use isthmus_certs::token::split_secret;
use isthmus_certs::{JoinToken, PublicKeyInfo, SecretHash};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tonic::Status;

pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
pub const MAX_TTL: Duration = Duration::from_secs(7 * 86_400);
/// Ended tokens are shown in lists for a day, so that "why was I refused" has an answer.
const KEPT_AFTER_END_MS: i64 = 86_400_000;

/// Stores a fresh token. Returns what it was stored as.
pub fn create(
    store: &dyn Store,
    token: &JoinToken,
    workload: &str,
    spiffe_id: &str,
    now_ms: i64,
    ttl: Duration,
) -> Result<TokenRecord, Status> {
    let record = TokenRecord {
        id: token.id.clone(),
        secret_sha256: *token.secret_hash().as_bytes(),
        workload: workload.to_string(),
        spiffe_id: spiffe_id.to_string(),
        created_unix_ms: now_ms,
        expires_unix_ms: now_ms.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)),
        state: TokenState::Unused,
    };
    match store.swap_token(&record.id, None, Some(&record)).map_err(unavailable)? {
        true => Ok(record),
        false => Err(Status::aborted("a token of this id exists; try again")),
    }
}

/// The token that a secret belongs to, if it may still be used. Unknown and wrong look the same from outside.
pub fn find(store: &dyn Store, secret: &str, now_ms: i64) -> Result<TokenRecord, Status> {
    let unknown =
        || Status::unauthenticated("the join token is not known here; create a new one with `isthmus token create`");
    let (id, hash) = split_secret(secret).map_err(|_| unknown())?;
    let record = store.token(id).map_err(unavailable)?.ok_or_else(unknown)?;
    if !hash.matches(&SecretHash::from_bytes(record.secret_sha256)) {
        return Err(unknown());
    }
    if record.state == TokenState::Revoked {
        return Err(Status::unauthenticated(format!(
            "join token {id} was revoked; create a new one with `isthmus token create`"
        )));
    }
    if record.expires_unix_ms <= now_ms {
        let ago = (now_ms - record.expires_unix_ms) / 1000;
        return Err(Status::unauthenticated(format!(
            "join token {id} expired {ago} s ago; create a new one with `isthmus token create`"
        )));
    }
    Ok(record)
}

/// Marks the token as used by this key, durably, before anything is issued for it. Of two at once, one wins.
pub fn spend(store: &dyn Store, seen: &TokenRecord, key: &PublicKeyInfo, now_ms: i64) -> Result<(), Status> {
    let key_sha256: [u8; 32] = Sha256::digest(key.key().as_point()).into();
    let mut seen = seen.clone();
    loop {
        match &seen.state {
            // The answer was lost on the way, and the same machine asks again.
            TokenState::Used { key_sha256: first, .. } if *first == key_sha256 => return Ok(()),
            TokenState::Used { at_unix_ms, .. } => {
                let ago = (now_ms - at_unix_ms) / 1000;
                return Err(Status::unauthenticated(format!(
                    "join token {} was used {ago} s ago, by another key; a token is good once: `isthmus token create` \
                     makes a new one; find out who used it if that was not you",
                    seen.id
                )));
            }
            TokenState::Revoked => return Err(Status::unauthenticated(format!("join token {} was revoked", seen.id))),
            TokenState::Unused => {}
        }
        let used = TokenRecord { state: TokenState::Used { key_sha256, at_unix_ms: now_ms }, ..seen.clone() };
        if store.swap_token(&seen.id, Some(&seen), Some(&used)).map_err(unavailable)? {
            return Ok(());
        }
        // Somebody was faster. A token never becomes unused again, so this ends.
        let gone = || Status::unauthenticated("the join token is not known here any more; create a new one");
        seen = store.token(&seen.id).map_err(unavailable)?.ok_or_else(gone)?;
    }
}

/// Forgets tokens that ended long ago.
pub fn sweep(store: &dyn Store, now_ms: i64) -> Result<usize, StoreError> {
    let mut swept = 0;
    for record in store.tokens()? {
        if record.expires_unix_ms + KEPT_AFTER_END_MS < now_ms {
            swept += usize::from(store.swap_token(&record.id, Some(&record), None)?);
        }
    }
    Ok(swept)
}

/// `unused`, `used`, `expired`, `revoked`.
pub fn state_word(record: &TokenRecord, now_ms: i64) -> &'static str {
    match record.state {
        TokenState::Used { .. } => "used",
        TokenState::Revoked => "revoked",
        TokenState::Unused if record.expires_unix_ms <= now_ms => "expired",
        TokenState::Unused => "unused",
    }
}

pub fn unavailable(error: StoreError) -> Status {
    if matches!(error, StoreError::Waiting { .. } | StoreError::TakesTwo { .. }) {
        return Status::failed_precondition(error.to_string());
    }
    if matches!(error, StoreError::Conflict { .. }) {
        return Status::aborted(error.to_string());
    }
    tracing::error!(%error, "store");
    if matches!(error, StoreError::Unrecorded(_)) {
        // Asking again does not help: somebody has to make room.
        return Status::failed_precondition(error.to_string());
    }
    Status::unavailable(error.to_string())
}
