//! After an older state was put back from a backup: what was used up or revoked since then must stay so. The audit log is
//! a file of its own and knows ([`catch_up`]). Where it was put back as well, proxies do: one that shows a certificate of
//! ours which is not on record proves that something is missing, and from when ([`recognise`]); one that shows a set of
//! revocations which we signed says who is out ([`remember`]). Neither can be made up: both are signed with our keys.

use super::issuer::Issuer;
use super::revocation::{self, Record, RevokeError};
use super::tokens;
use crate::audit::chain::unhex;
use crate::audit::{Event, What, segments};
use crate::store::{Store, TokenRecord, TokenState};
use isthmus_certs::revocation::issued_at;
use isthmus_certs::{PeerIdentity, Revocations, Serial, SpiffeId};

const JOIN_TOKEN: &str = "join-token ";

/// Uses up again the tokens that were used, and brings revocations back. Returns how many of each.
pub fn catch_up(issuer: &Issuer, store: &dyn Store) -> Result<(usize, usize), RevokeError> {
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

/// A certificate that is not on record is put there, and the tokens that are older than it are worth nothing any more:
/// nobody knows which of them were used. True: it was not on record.
pub fn recognise(issuer: &Issuer, store: &dyn Store, peer: &PeerIdentity, workload: &str) -> Result<bool, RevokeError> {
    let serial = peer.serial.to_string();
    if issuer.register().of_serial(&serial).is_some() {
        return Ok(false);
    }
    let issued_ms = i64::try_from(issued_at(peer).as_secs()).unwrap_or(0).saturating_mul(1000);
    let event = Event {
        what: What::Found,
        who: peer.id.to_string(),
        workload: workload.to_string(),
        serial,
        not_after_unix_s: peer.not_after.as_secs(),
        proof: NOT_ON_RECORD.to_string(),
        ..Event::default()
    };
    issuer.audit().append(event.clone())?;
    issuer.register().note(issued_ms, &event);
    let tokens = end_tokens_before(store, issued_ms)?;
    tracing::error!(
        workload,
        id = %peer.id,
        serial = %peer.serial,
        tokens,
        "this certificate is ours and not on record: this control plane's state was put back from a backup. Join tokens \
         older than it are revoked, because they may have been used"
    );
    Ok(true)
}

/// The word in `proof` of what [`recognise`] finds.
pub const NOT_ON_RECORD: &str = "not on record";

/// Takes back what was revoked before an older state was put back, together with what those certificates were renewed to
/// since. True: there was something, which has to be published.
pub fn remember(
    issuer: &Issuer,
    store: &dyn Store,
    told: &Revocations,
    ours: u64,
    workload: &str,
) -> Result<bool, RevokeError> {
    let authorities = issuer.authorities();
    if told.epoch <= ours {
        return Ok(false);
    }
    let Some(signed_at) = told.signed_at(&authorities.bundle(), authorities.trust_domain()) else {
        tracing::warn!(workload, epoch = told.epoch, "revocations that this control plane has not signed; not taken");
        return Ok(false);
    };
    let signed_ms = i64::try_from(signed_at.as_secs()).unwrap_or(0).saturating_mul(1000);
    let reason = format!("revocations of epoch {}, signed by this control plane and shown by {workload}", told.epoch);
    let record = |serial: String, who: String, at_unix_ms| Record {
        epoch: told.epoch,
        serial,
        who,
        at_unix_ms,
        operator: String::new(),
        reason: reason.clone(),
    };
    let mut records: Vec<Record> =
        told.serials.iter().map(|serial| record(serial.to_string(), String::new(), signed_ms)).collect();
    for (id, until) in &told.identities {
        let at_ms = i64::try_from(*until).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        records.push(record(String::new(), id.to_string(), at_ms));
    }
    let was_out = |serial: &str, who: &str, issued_ms: i64| {
        let serial = Serial::parse(serial).is_some_and(|serial| told.serials.contains(&serial));
        let until = SpiffeId::parse(who).ok().and_then(|id| told.identities.get(&id).copied());
        serial || until.is_some_and(|until| issued_ms / 1000 <= i64::try_from(until).unwrap_or(i64::MAX))
    };
    let since = issuer.register().descendants(|h| was_out(&h.serial, &h.who, h.issued_unix_ms));
    records.extend(since.into_iter().map(|serial| record(serial, String::new(), issuer.audit().now_ms())));
    let event =
        Event { what: What::Reminded, reason: reason.clone(), workload: workload.to_string(), ..Event::default() };
    issuer.audit().append(event)?;
    for record in &records {
        revocation::put(store, record)?;
    }
    let tokens = end_tokens_before(store, signed_ms)?;
    tracing::error!(
        workload,
        epoch = told.epoch,
        revocations = records.len(),
        tokens,
        "this control plane has signed revocations that it does not know: its state was put back from a backup. They are \
         in force again, and join tokens older than they are revoked"
    );
    Ok(true)
}

/// Nobody can say which of them were used. `at_ms` is a whole second: what was made in it is counted as before.
fn end_tokens_before(store: &dyn Store, at_ms: i64) -> Result<usize, RevokeError> {
    let mut ended = 0;
    for seen in store.tokens()? {
        if seen.state == TokenState::Unused && seen.created_unix_ms < at_ms + 1000 {
            let now = TokenRecord { state: TokenState::Revoked, ..seen.clone() };
            ended += usize::from(store.swap_token(&seen.id, Some(&seen), Some(&now))?);
        }
    }
    Ok(ended)
}
