//! What happens by itself as time passes, and is too small for a home of its own.

use crate::identity::tokens;
use crate::ledger::Ledger;
use crate::operators::{access, session};
use crate::store::{Store, StoreError};
use isthmus_certs::IdentityStore;
use std::sync::Arc;
use std::time::Duration;

const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// The control plane's own ports use the mesh's algorithms, from before they listen.
pub(super) async fn follow_profile(ledger: Arc<Ledger>, store: Arc<IdentityStore>) {
    let mut worlds = ledger.watch();
    loop {
        let profile = worlds.borrow_and_update().mesh.crypto_profile;
        if profile != store.profile() {
            tracing::info!("{}", profile.in_words());
            store.set_profile(profile);
        }
        if worlds.changed().await.is_err() {
            return;
        }
    }
}

pub(super) async fn sweep(ledger: Arc<Ledger>) {
    loop {
        let store = ledger.store().clone();
        let now_ms = ledger.clock().now_ms();
        let swept = move || if store.leads() { forget(&*store, now_ms) } else { Ok(0) };
        match tokio::task::spawn_blocking(swept).await {
            Ok(Ok(0)) => {}
            Ok(Ok(swept)) => tracing::info!(swept, "tokens and sign-ins that ended long ago are forgotten"),
            Ok(Err(error)) => tracing::error!(%error, "tokens and sign-ins not swept"),
            Err(error) => tracing::error!(%error, "tokens and sign-ins not swept"),
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

fn forget(store: &dyn Store, now_ms: i64) -> Result<usize, StoreError> {
    Ok(tokens::sweep(store, now_ms)? + access::sweep(store, now_ms)? + session::sweep(store, now_ms)?)
}
