//! The proxy's side of the control plane, in the order of a life: [`start`] (who were we?) → [`enroll`] (a join token
//! for a certificate) → [`renew`] and [`stream`] side by side until the end.
//!
//! It is the only writer of `state`. It refuses a control plane with another root before anything is sent to it, a
//! snapshot for another workload, and to give up: without a control plane the proxy serves what it knows.

mod connect;
mod enroll;
mod error;
mod renew;
mod revoked;
mod skew;
mod start;
mod stream;
mod sync;

use std::sync::Arc;

use isthmus_certs::{ExpectedPeer, IdentityStore, SpiffeId};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use connect::Dialer;
pub use error::ControlError;
pub use start::{Settings, Start};

use crate::state::{Demands, State};
use crate::telemetry::Metrics;

/// What every part of this module needs once the workload is enrolled.
struct Context {
    identities: Arc<IdentityStore>,
    state: Arc<State>,
    metrics: Metrics,
    dialer: Dialer,
    /// `<namespace>/<name>`
    workload: String,
    start: Start,
}

/// Enrols if need be, then keeps the certificate fresh and the snapshot current until `shutdown`. Returns early only
/// when enrolment is refused in a way that waiting cannot mend; the error says what to do.
pub async fn run(
    start: Start,
    state: Arc<State>,
    demands: Demands,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    let dialer = start.dialer();
    run_with(start, dialer, state, demands, metrics, shutdown).await
}

/// [`run`] with the way to the control plane given.
async fn run_with(
    start: Start,
    dialer: Dialer,
    state: Arc<State>,
    demands: Demands,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    let workload = match start.workload() {
        Some(workload) => workload.to_owned(),
        None => tokio::select! {
            enrolled = enroll::until_enrolled(&start, &dialer, &metrics) => enrolled?,
            () = shutdown.cancelled() => return Ok(()),
        },
    };
    let context = Context { identities: Arc::clone(start.identities()), state, metrics, dialer, workload, start };
    let both = async { tokio::join!(renew::keep_fresh(&context), stream::keep_current(&context, demands)) };
    tokio::select! {
        _ = both => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

impl Context {
    /// A new connection that shows our certificate and takes nobody but the control plane.
    async fn connect(&self) -> Result<Channel, ControlError> {
        let expected = ExpectedPeer::AnyOf(vec![SpiffeId::control_plane(self.identities.trust_domain())]);
        connect::channel(&self.dialer, self.identities.client_config(connect::ALPN, expected)).await
    }

    /// The error, or the clock skew behind it.
    async fn named(&self, error: ControlError) -> ControlError {
        let control_plane = SpiffeId::control_plane(self.identities.trust_domain());
        let probe = || ExpectedPeer::ClockProbe(self.identities.bundle(), control_plane);
        skew::named(error, &self.dialer, &self.identities, probe).await
    }
}

#[cfg(test)]
#[path = "fake_test.rs"]
mod fake_test;

#[cfg(test)]
#[path = "control_test.rs"]
mod control_test;
