//! Who is out. On record first, then in the store, then pushed; from the record it comes back if an older store was
//! restored. Its epoch is the number of the line that records it, and so never falls.

use super::issuer::Issuer;
use crate::audit::{Event, What, segments};
use crate::ledger::Ledger;
use crate::store::Store;
use isthmus_certs::{Clock, IdentityStore, Revocations, Serial, SpiffeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const PREFIX: &str = "revoked/";
/// No certificate of a workload lives longer, and no operator's longer than the second; what is older need not be pushed.
const WORKLOADS_S: u64 = 31 * 86_400;
const OPERATORS_S: u64 = 181 * 86_400;

/// One revocation, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub epoch: u64,
    /// One of the two.
    pub serial: String,
    pub who: String,
    pub at_unix_ms: i64,
    pub operator: String,
    pub reason: String,
}

/// Whom to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Serial(Serial),
    Identity(SpiffeId),
}

#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    #[error(transparent)]
    Audit(#[from] crate::audit::AuditError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// All that was ever revoked.
pub fn list(store: &dyn Store) -> Result<Vec<Record>, RevokeError> {
    let mut records = Vec::new();
    for (name, value) in store.facts(PREFIX)? {
        let record = serde_json::from_value(value).map_err(|error| damaged(&name, &error))?;
        records.push(record);
    }
    Ok(records)
}

/// Records and stores it; returns the line's number. What is pushed is [`in_force`] afterwards.
pub fn revoke(
    issuer: &Issuer,
    store: &dyn Store,
    target: &Target,
    operator: &str,
    reason: &str,
) -> Result<u64, RevokeError> {
    let (serial, who) = match target {
        Target::Serial(serial) => (serial.to_string(), String::new()),
        Target::Identity(id) => (String::new(), id.to_string()),
    };
    let (operator, reason) = (operator.to_string(), reason.to_string());
    let at_unix_ms = issuer.audit().now_ms();
    let event = Event {
        what: What::Revoked,
        who: who.clone(),
        serial: serial.clone(),
        operator: operator.clone(),
        reason: reason.clone(),
        ..Event::default()
    };
    let line = issuer.audit().append(event)?;
    // After an older log was put back its lines count from where it ended; proxies know higher epochs, and take none below.
    let epoch = list(store)?.iter().map(|record| record.epoch + 1).fold(line, u64::max);
    put(store, &Record { epoch, serial, who, at_unix_ms, operator, reason })?;
    Ok(epoch)
}

/// Brings back what the record knows and the store does not, because somebody restored an older one.
pub fn restore(issuer: &Issuer, store: &dyn Store) -> Result<usize, RevokeError> {
    let mut known = Vec::new();
    segments::recent(issuer.audit().dir(), issuer.audit().now_ms() - OPERATORS_S as i64 * 1000, |entry| {
        if entry.event.what == What::Revoked {
            let Event { serial, who, operator, reason, .. } = entry.event;
            known.push(Record { epoch: entry.seq, serial, who, at_unix_ms: entry.at.0, operator, reason });
        }
    })
    .map_err(crate::audit::AuditError::from)?;
    let mut brought_back = 0;
    for record in known {
        brought_back += usize::from(put(store, &record)?);
    }
    Ok(brought_back)
}

/// What is to be pushed at `now_s`: everything that still concerns a certificate which may be alive.
pub fn in_force(records: &[Record], now_s: u64) -> Revocations {
    let mut set =
        Revocations { epoch: records.iter().map(|record| record.epoch).max().unwrap_or(0), ..Default::default() };
    for record in records {
        let at_s = u64::try_from(record.at_unix_ms / 1000).unwrap_or(0);
        if at_s + OPERATORS_S < now_s {
            continue;
        }
        if let Some(serial) = Serial::parse(&record.serial) {
            set.serials.insert(serial);
        }
        if let Ok(id) = SpiffeId::parse(&record.who)
            && (id.is_system() || at_s + WORKLOADS_S >= now_s)
        {
            let until = set.identities.entry(id).or_default();
            *until = at_s.max(*until);
        }
    }
    set
}

/// With our signature, so that a proxy can show it to us should we forget.
pub fn signed(set: Revocations, own: &IdentityStore) -> Revocations {
    match own.current() {
        Some(signer) if set.epoch > 0 => set.signed(&signer, own.now()),
        _ => set,
    }
}

/// Puts what is in force before our own handshakes and every proxy.
pub fn publish(ledger: &Ledger, own: &IdentityStore) -> Result<u64, RevokeError> {
    let set = signed(in_force(&list(&**ledger.store())?, ledger.clock().now().as_secs()), own);
    own.revoke(set.clone());
    Ok(ledger.retrust(|trust| trust.revocations = Arc::new(set))?)
}

/// A later record of the same name takes the place of an earlier one, never the other way round.
pub(super) fn put(store: &dyn Store, record: &Record) -> Result<bool, RevokeError> {
    let name = match record.serial.as_str() {
        "" => format!("{PREFIX}id/{}", record.who),
        serial => format!("{PREFIX}serial/{serial}"),
    };
    let value = serde_json::to_value(record).map_err(|error| damaged(&name, &error))?;
    loop {
        let seen = store.fact(&name)?;
        let epoch = seen.as_ref().and_then(|seen| seen.get("epoch")).and_then(serde_json::Value::as_u64);
        if epoch.is_some_and(|epoch| epoch >= record.epoch) {
            return Ok(false);
        }
        if store.swap_fact(&name, seen.as_ref(), Some(&value))? {
            return Ok(true);
        }
    }
}

fn damaged(name: &str, error: &serde_json::Error) -> RevokeError {
    crate::store::StoreError::Damaged { what: name.to_string(), why: error.to_string() }.into()
}

#[cfg(test)]
#[path = "revocation_test.rs"]
mod revocation_test;
