//! The proxy's side of the control plane, in the order of a life: [`start`] (who were we?) → [`enroll`] (a [`proof`]
//! for a certificate) → [`renew`] and [`stream`] side by side until the end. What the stream brought is kept on disk by
//! [`keeper`], and served by [`fallback`] when a start finds no control plane.
//!
//! It is the only writer of `state`. It refuses a control plane with another root before anything is sent to it, a
//! snapshot for another workload, and to give up: without a control plane the proxy serves what it knows.

mod connect;
mod enroll;
mod error;
mod fallback;
mod files;
mod keeper;
mod last_good;
mod live;
mod machine;
mod passage;
mod probed;
mod proof;
mod renew;
mod report;
mod revoked;
mod seal;
mod skew;
mod start;
mod stream;
mod sync;
mod traces;

use std::sync::Arc;

use isthmus_certs::{ExpectedPeer, IdentityStore, PeerError, SpiffeId};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use connect::Dialer;
pub use error::ControlError;
pub use last_good::parse as parse_last_good;
pub use probed::Probed;
pub use proof::{FirstContact, Proof};
use report::Reporter;
pub use seal::Seal;
pub use start::{Settings, Start};
pub use stream::Told;

use crate::flows::{Collector, Decisions};
use crate::state::{Demands, State};
use crate::telemetry::{KeptSpans, Metrics};

/// What every part of this module needs once the workload is enrolled.
struct Context {
    identities: Arc<IdentityStore>,
    state: Arc<State>,
    metrics: Metrics,
    dialer: Dialer,
    /// `<namespace>/<name>`
    workload: String,
    start: Start,
    /// The connection of the present discovery stream, which the reports use as well.
    channel: watch::Sender<Option<Channel>>,
    /// A stream was opened.
    reached: Notify,
    /// An attempt to open one has failed.
    failed: Notify,
}

/// What this side reads, writes and reports.
pub struct Upward {
    pub state: Arc<State>,
    pub demands: Demands,
    pub metrics: Metrics,
    pub flows: Collector,
    pub decisions: Arc<Decisions>,
    /// Spans that no collector gets.
    pub kept: Option<KeptSpans>,
    pub told: Told,
}

/// Enrols if need be, then keeps the certificate fresh and the snapshot current until `shutdown`. Returns early only
/// when enrolment is refused in a way that waiting cannot mend; the error says what to do.
pub async fn run(start: Start, upward: Upward, shutdown: CancellationToken) -> Result<(), ControlError> {
    let dialer = start.dialer();
    run_with(start, dialer, upward, shutdown).await
}

/// [`run`] with the way to the control plane given.
async fn run_with(
    start: Start,
    dialer: Dialer,
    upward: Upward,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    let Upward { state, demands, metrics, flows, decisions, kept, told } = upward;
    let workload = match start.workload() {
        Some(workload) => workload.to_owned(),
        None => tokio::select! {
            enrolled = enroll::until_enrolled(&start, &dialer, &metrics) => enrolled?,
            () = shutdown.cancelled() => return Ok(()),
        },
    };
    start.standing().note(|facts| facts.workload.clone_from(&workload));
    let last_good = start.take_last_good();
    let used = last_good.as_ref().map(|last_good| last_good.addresses.clone()).unwrap_or_default();
    let identities = Arc::clone(start.identities());
    let (channel, reached, failed) = (watch::Sender::new(None), Notify::new(), Notify::new());
    let context = Context { identities, state, metrics, dialer, workload, start, channel, reached, failed };
    let mut reporter = Reporter::new(flows, decisions, &context);
    let all = async {
        tokio::join!(
            renew::keep_fresh(&context),
            stream::keep_current(&context, (demands, told), used),
            fallback::serve(&context, last_good),
            reporter.keep_reporting(),
            traces::keep_telling(&context, kept),
        )
    };
    tokio::select! {
        _ = Box::pin(all) => {}
        () = shutdown.cancelled() => {}
    }
    reporter.report_last().await;
    Ok(())
}

impl Context {
    /// A new connection that shows our certificate and takes nobody but the control plane.
    async fn connect(&self) -> Result<Channel, ControlError> {
        let expected = ExpectedPeer::AnyOf(vec![SpiffeId::control_plane(self.identities.trust_domain())]);
        connect::channel(&self.dialer, self.identities.client_config(connect::ALPN, expected)).await
    }

    /// The error, or the clock skew behind it. An alert that came after our side of the handshake was done looks like a
    /// broken connection until it is asked what it says.
    async fn named(&self, error: ControlError) -> ControlError {
        let peer = match &error {
            ControlError::Refused(status) => PeerError::find(status),
            _ => None,
        };
        let error = peer.map_or(error, |peer| self.dialer.refused(peer));
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

#[cfg(test)]
#[path = "fallback_test.rs"]
mod fallback_test;
#[cfg(test)]
#[path = "lag_test.rs"]
mod lag_test;
