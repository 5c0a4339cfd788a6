//! After an older store was put back from a backup: what was used up or revoked since then must stay so. The audit log is
//! a file of its own and knows; where it was put back as well, the proxies still do, because their epoch never falls.

use super::issuer::Issuer;
use super::{revocation, tokens};
use crate::audit::chain::unhex;
use crate::audit::{What, segments};
use crate::store::{Store, TokenRecord, TokenState};

const JOIN_TOKEN: &str = "join-token ";

/// Uses up again the tokens that were used, and brings revocations back. Returns how many of each.
pub fn catch_up(issuer: &Issuer, store: &dyn Store) -> Result<(usize, usize), revocation::RevokeError> {
    let now_ms = issuer.audit().now_ms();
    let ttl = i64::try_from(tokens::MAX_TTL.as_millis()).unwrap_or(i64::MAX);
    let mut used = Vec::new();
    segments::recent(issuer.audit().dir(), now_ms - ttl, |entry| {
        let id = entry.event.proof.strip_prefix(JOIN_TOKEN).map(str::to_owned);
        match (entry.event.what, id, unhex(&entry.event.key)) {
            (What::Enrolled, Some(id), Some(key_sha256)) => {
                used.push((id, TokenState::Used { key_sha256, at_unix_ms: entry.at.0 }));
            }
            (What::TokenRevoked, Some(id), _) => used.push((id, TokenState::Revoked)),
            _ => {}
        }
    })
    .map_err(crate::audit::AuditError::from)?;
    let mut tokens = 0;
    for (id, state) in used {
        let Some(seen) = store.token(&id)?.filter(|seen| seen.state == TokenState::Unused) else { continue };
        let now = TokenRecord { state, ..seen.clone() };
        tokens += usize::from(store.swap_token(&id, Some(&seen), Some(&now))?);
    }
    Ok((tokens, revocation::restore(issuer, store)?))
}
