//! The control plane's own leaf, in a store that each handshake reads.

use super::Authorities;
use crate::audit::{Event, What};
use crate::identity::issuer::Issuer;
use isthmus_certs::{Clock, IdentityStore, PrivateKey, PublicKeyInfo, SpiffeId, WorkloadIdentity, rotation};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;

/// As long as a workload's by default.
const OWN_LIFETIME: Duration = Duration::from_secs(86_400);

/// Who we are.
pub struct Own {
    pub store: Arc<IdentityStore>,
    pub issuer: Arc<Issuer>,
    clock: Arc<dyn Clock>,
}

impl Own {
    pub fn new(issuer: Arc<Issuer>, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let store = IdentityStore::new(issuer.authorities().trust_domain().clone(), clock.clone());
        let own = Own { store, issuer, clock };
        own.renew()?;
        Ok(own)
    }

    pub fn authorities(&self) -> &Authorities {
        self.issuer.authorities()
    }

    /// Issues a new leaf to ourselves; handshakes from now on show it.
    pub fn renew(&self) -> Result<(), String> {
        let id = SpiffeId::control_plane(self.store.trust_domain());
        let identity = issue_here(&self.issuer, &id, OWN_LIFETIME, &*self.clock)?;
        tracing::info!(serial = %identity.serial, "own certificate issued");
        self.store.replace(identity).map(drop).map_err(|error| error.to_string())
    }

    /// Keeps the leaf and, once in its life, the issuing CA young. Never returns; to be cancelled.
    pub async fn keep_young(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let wait = self.next(failures);
            tokio::time::sleep(wait).await;
            let this = self.clone();
            // The record waits for the disk, and the key may be in a box at the other end of a link.
            let renewed = spawn_blocking(move || this.authorities().keep_young().and_then(|()| this.renew())).await;
            match renewed.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::error!(%error, failures, "own certificate not renewed");
                }
            }
        }
    }

    fn next(&self, failures: u32) -> Duration {
        let ms = |time: rustls::pki_types::UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1000) * 1000;
        let Some(current) = self.store.current() else {
            return Duration::from_secs(1);
        };
        let now = self.clock.now_ms();
        let jitter = rand::random::<f64>();
        if failures > 0 {
            return rotation::retry_after(failures, now, ms(current.not_after), jitter);
        }
        let at = rotation::next_renewal(now, ms(current.issued_at()), ms(current.not_after), jitter);
        // Never a busy loop, whatever the clock does.
        Duration::from_millis(u64::try_from(at - now).unwrap_or(0)).max(Duration::from_secs(1))
    }

    /// Valid now: without it nobody can connect.
    pub fn is_valid(&self) -> bool {
        self.store.current().is_some_and(|current| current.not_after > self.clock.now())
    }
}

/// A certificate for a key that is made here and now: our own, or an operator's.
pub(crate) fn issue_here(
    issuer: &Issuer,
    id: &SpiffeId,
    lifetime: Duration,
    clock: &dyn Clock,
) -> Result<WorkloadIdentity, String> {
    let key = PrivateKey::generate().map_err(|error| error.to_string())?;
    let authority = if id.is_control_plane() { issuer.authorities().own() } else { issuer.authorities().active() };
    let left = authority.issuing_not_after().as_secs().saturating_sub(clock.now().as_secs() + 60);
    let lifetime = lifetime.min(Duration::from_secs(left));
    let event = Event { what: What::Issued, proof: "made here".to_string(), ..Event::default() };
    let issued = issuer
        .issue_from(&authority, &PublicKeyInfo::of(&key), id, lifetime, event)
        .map_err(|error| error.to_string())?;
    let bundle = issuer.authorities().bundle();
    WorkloadIdentity::from_issued(issued, key, bundle, clock.now()).map_err(|error| error.to_string())
}
