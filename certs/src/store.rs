//! Who we are and whom we trust, right now. One writer replaces it; every handshake reads it once, without a lock.
//!
//! Replacing never touches live connections: they keep the certificate they were made with until they are drained.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use rustls_pki_types::UnixTime;

use crate::bundle::{Federation, TrustBundle};
use crate::clock::Clock;
use crate::id::TrustDomain;
use crate::identity::{IdentityError, WorkloadIdentity};
use crate::leaf::PeerIdentity;
use crate::peer_error::PeerError;
use crate::profile::CryptoProfile;
use crate::revocation::Revocations;

type Hook = dyn Fn(u64) + Send + Sync;

/// The current identity and trust bundle of a process.
pub struct IdentityStore {
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    held: ArcSwap<Held>,
    // Held by writers alone; a handshake never takes it.
    hooks: Mutex<Vec<Weak<Hook>>>,
}

/// One consistent state.
#[derive(Clone, Default)]
pub(crate) struct Held {
    pub(crate) identity: Option<Arc<WorkloadIdentity>>,
    pub(crate) bundle: TrustBundle,
    /// Of other trust domains.
    pub(crate) others: Arc<Federation>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) profile: CryptoProfile,
    generation: u64,
    /// As rustls wants it: the chain alone, and the chain with its root.
    plain: Option<Arc<CertifiedKey>>,
    with_root: Option<Arc<CertifiedKey>>,
}

/// While it is held, its hook is called; dropping it ends that.
#[must_use = "the hook is called only while this is held"]
pub struct Subscription(#[expect(dead_code, reason = "held for its drop")] Arc<Hook>);

impl IdentityStore {
    /// Without an identity, and trusting nobody: every handshake fails until [`replace`](Self::replace).
    pub fn new(trust_domain: TrustDomain, clock: Arc<dyn Clock>) -> Arc<Self> {
        let held = ArcSwap::from_pointee(Held::default());
        Arc::new(Self { trust_domain, clock, held, hooks: Mutex::default() })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// The identity that the next handshake will show.
    pub fn current(&self) -> Option<Arc<WorkloadIdentity>> {
        self.held.load().identity.clone()
    }

    /// What the next handshake shows: nothing outside of its own dates.
    pub fn shown(&self) -> Option<Arc<WorkloadIdentity>> {
        let now = self.now();
        self.current().filter(|identity| identity.holds_at(now))
    }

    /// Why nothing was shown, where rustls knows only that nothing was.
    pub fn own_fault(&self, found: PeerError) -> PeerError {
        match found {
            PeerError::NoIdentity if self.current().is_some() => PeerError::OwnDates,
            other => other,
        }
    }

    pub fn bundle(&self) -> TrustBundle {
        self.held.load().bundle.clone()
    }

    /// Counts every change, from 0.
    pub fn generation(&self) -> u64 {
        self.held.load().generation
    }

    /// Uses `identity` and its bundle from the next handshake on; returns the new generation. Refused: an identity of
    /// another trust domain, or of somebody else than the one we are.
    pub fn replace(&self, mut identity: WorkloadIdentity) -> Result<u64, IdentityError> {
        if identity.id.trust_domain() != &self.trust_domain {
            return Err(PeerError::WrongTrustDomain.into());
        }
        let hooks = self.writer();
        let before = self.held.load();
        if let Some(ours) = before.identity.as_ref().filter(|ours| ours.id != identity.id) {
            return Err(IdentityError::OtherIdentity { found: identity.id, ours: ours.id.clone() });
        }
        identity.generation = before.generation + 1;
        Ok(self.publish(hooks, Held::clone(&before).with_identity(identity)))
    }

    /// Trusts `bundle` from the next handshake on; returns the new generation.
    pub fn set_bundle(&self, bundle: TrustBundle) -> u64 {
        let hooks = self.writer();
        let before = self.held.load();
        self.publish(hooks, Held { bundle, ..Held::clone(&before) })
    }

    /// Believes identities of these trust domains too, from the next handshake on, and of no others. Our own is never
    /// among them: only our bundle speaks for it.
    pub fn set_others(&self, mut others: Federation) -> u64 {
        others.remove(&self.trust_domain);
        let hooks = self.writer();
        let before = self.held.load();
        if others == *before.others {
            return before.generation;
        }
        self.publish(hooks, Held { others: Arc::new(others), ..Held::clone(&before) })
    }

    /// Uses the algorithms of `profile` from the next handshake on.
    pub fn set_profile(&self, profile: CryptoProfile) -> u64 {
        let hooks = self.writer();
        let before = self.held.load();
        if profile == before.profile {
            return before.generation;
        }
        self.publish(hooks, Held { profile, ..Held::clone(&before) })
    }

    /// Whether a peer that was believed in its handshake still is: not revoked, and of a trust domain that counts.
    pub fn believes(&self, peer: &PeerIdentity) -> bool {
        let held = self.held.load();
        let domain = peer.id.trust_domain();
        !held.revocations.cover(peer) && (*domain == self.trust_domain || held.others.contains_key(domain))
    }

    pub fn profile(&self) -> CryptoProfile {
        self.held.load().profile
    }

    pub fn others(&self) -> Arc<Federation> {
        self.held.load().others.clone()
    }

    /// Refuses these from the next handshake on, and tells subscribers, who end what is open. False, and nothing changes,
    /// if a later set is held already.
    pub fn revoke(&self, revocations: Revocations) -> bool {
        let hooks = self.writer();
        let before = self.held.load();
        if revocations.epoch < before.revocations.epoch {
            return false;
        }
        if revocations != *before.revocations {
            self.publish(hooks, Held { revocations: Arc::new(revocations), ..Held::clone(&before) });
        }
        true
    }

    pub fn revocations(&self) -> Arc<Revocations> {
        self.held.load().revocations.clone()
    }

    /// Calls `hook` with the generation after each change, on the thread that made it. It must not block and must not
    /// change this store; sending to a `tokio::sync::watch` is what it is for.
    pub fn subscribe(&self, hook: impl Fn(u64) + Send + Sync + 'static) -> Subscription {
        let hook: Arc<Hook> = Arc::new(hook);
        self.writer().push(Arc::downgrade(&hook));
        Subscription(hook)
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        self.held.load_full()
    }

    fn writer(&self) -> MutexGuard<'_, Vec<Weak<Hook>>> {
        // A hook that panicked leaves the list as it was.
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, mut hooks: MutexGuard<'_, Vec<Weak<Hook>>>, mut held: Held) -> u64 {
        held.generation += 1;
        let generation = held.generation;
        self.held.store(Arc::new(held));
        hooks.retain(|hook| hook.strong_count() > 0);
        hooks.iter().filter_map(Weak::upgrade).for_each(|hook| hook(generation));
        generation
    }
}

impl Held {
    fn with_identity(self, identity: WorkloadIdentity) -> Self {
        let certified = |chain| Arc::new(CertifiedKey::new(chain, Arc::new(identity.key.clone())));
        let plain = certified(identity.chain.clone());
        let root = Some(&identity.root).filter(|root| !identity.chain.contains(root));
        let with_root = certified(identity.chain.iter().chain(root).cloned().collect());
        let bundle = identity.bundle.clone();
        Self { bundle, plain: Some(plain), with_root: Some(with_root), identity: Some(Arc::new(identity)), ..self }
    }

    /// Nothing outside of its dates: a peer would refuse it, and a clock that is wrong is named by another way.
    pub(crate) fn certified(&self, with_root: bool, now: UnixTime) -> Option<Arc<CertifiedKey>> {
        self.identity.as_ref().filter(|identity| identity.holds_at(now))?;
        if with_root { self.with_root.clone() } else { self.plain.clone() }
    }
}

impl fmt::Debug for IdentityStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.load();
        f.debug_struct("IdentityStore")
            .field("trust_domain", &self.trust_domain)
            .field("identity", &held.identity)
            .field("bundle", &held.bundle)
            .field("generation", &held.generation)
            .finish()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

#[cfg(test)]
#[path = "store_test.rs"]
mod store_test;
