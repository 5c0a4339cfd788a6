//! Ends what is open with a peer once that peer is revoked. A handshake looks at the revocations of its moment; this looks
//! again whenever they change.

use std::sync::Arc;

use isthmus_certs::{IdentityStore, PeerIdentity, Subscription};
use tokio::sync::watch;

/// Told by the store, asked by connections. One for many of them: the store's list of hooks stays short.
pub struct Revoked {
    identity: Arc<IdentityStore>,
    changed: watch::Receiver<u64>,
    _hook: Subscription,
}

impl Revoked {
    pub fn of(identity: &Arc<IdentityStore>) -> Arc<Revoked> {
        let (tell, changed) = watch::channel(identity.generation());
        // Nobody left to tell is no failure.
        let hook = identity.subscribe(move |generation| {
            let _ = tell.send(generation);
        });
        Arc::new(Revoked { identity: Arc::clone(identity), changed, _hook: hook })
    }

    /// Resolves when `peer` is revoked or its trust domain is no longer believed, at once if it is already. Boxed: it is held for a connection's whole life, and is
    /// larger than what else is.
    pub fn when(self: &Arc<Self>, peer: &PeerIdentity) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
        let (this, peer, mut changed) = (Arc::clone(self), peer.clone(), self.changed.clone());
        Box::pin(async move {
            while this.identity.believes(&peer) {
                if changed.changed().await.is_err() {
                    // The store lives as long as the process; without it nobody can be revoked.
                    return std::future::pending().await;
                }
            }
        })
    }
}
