//! Whether this workload may get traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_certs::IdentityStore;

use crate::reason::Reason;
use crate::state::State;
use crate::state::standing::{Serving, Standing};

/// Ready: first sync completed, a certificate that is valid now, not stopping.
pub struct Readiness {
    state: Arc<State>,
    identities: Arc<IdentityStore>,
    standing: Arc<Standing>,
    stopping: AtomicBool,
}

impl Readiness {
    pub fn new(state: Arc<State>, identities: Arc<IdentityStore>, standing: Arc<Standing>) -> Arc<Readiness> {
        Arc::new(Readiness { state, identities, standing, stopping: AtomicBool::new(false) })
    }

    /// From now on the answer is no.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What somebody should look at, though the answer is yes: long before a certificate ends.
    pub fn warnings(&self) -> Vec<String> {
        let identity = self.identities.current();
        self.standing.facts().warnings(identity.as_deref(), self.identities.clock().now_ms())
    }

    /// # Errors
    /// Why not, as a word and for people.
    pub fn check(&self) -> Result<(), (Reason, &'static str)> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err((Reason::ShuttingDown, "the proxy is stopping"));
        }
        let Some(identity) = self.identities.current() else {
            return Err((
                Reason::NotReady,
                "no certificate yet: is the control plane reachable, the join token unused?",
            ));
        };
        if !identity.holds_at(self.identities.now()) {
            return Err((
                Reason::NotReady,
                "the certificate has expired: is the control plane reachable, the clock right?",
            ));
        }
        if self.standing.facts().serving == Serving::TooOld {
            return Err((Reason::NotReady, "the last good snapshot is too old: is the control plane reachable?"));
        }
        if !self.state.snapshot().is_ready() {
            return Err((Reason::NotReady, "no snapshot yet: is the control plane reachable?"));
        }
        Ok(())
    }
}
