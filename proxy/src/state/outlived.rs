//! How long streams may go on after the certificate that let them in has ended: `maxStreamAge`. The same at both ends of a
//! mesh connection, each of which looks at the other's certificate.

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::IdentityStore;

use super::State;

/// How often the end is looked at anew: our clock may be set while we wait.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Resolves when what a certificate let in has gone on after its end (Unix seconds) for as long as the mesh allows.
pub async fn outlived(state: Arc<State>, identity: Arc<IdentityStore>, not_after: u64) {
    let mut published = state.subscribe();
    loop {
        let now = identity.now().as_secs();
        let until = not_after.saturating_add(state.snapshot().upkeep().max_stream_age.as_secs());
        if now > until {
            return;
        }
        let left = Duration::from_secs(until - now + 1);
        tokio::select! {
            () = tokio::time::sleep(left.min(CLOCK_CHECK)) => {}
            Ok(()) = published.changed() => {}
        }
    }
}
