//! Clock skew, named as such before it shows up as a TLS error, instead of one, and while a stream is open ([`Comparison`]).

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{Clock, ExpectedPeer, IdentityStore, PeerError, skew_in_words};
use isthmus_proto::identity::v1::EnrollRequest;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use tokio::time::{Instant, sleep_until};
use tonic::Code;
use tracing::{info, warn};

use crate::telemetry::Metrics;

use super::enroll::answer_in_time;
use super::passage::Moment;
use super::{ControlError, Dialer, connect};

/// Certificates are backdated by ten minutes, so that five are tolerated; well before that an operator should know.
const WORTH_A_WARNING_MS: u64 = 30_000;
/// On an open stream. A clock that was set in one step, ours, is noticed long before.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What was said is said again when it has changed by this.
const WORTH_SAYING_AGAIN_MS: u64 = 5_000;
/// How the control plane begins its answer when our clock is wrong.
const SKEWED: &str = "clock skew ";

/// Our clock minus theirs, in milliseconds, taking their time as read halfway between asking and answer.
pub(super) fn skew_ms(asked_ms: i64, answered_ms: i64, theirs_ms: i64) -> i64 {
    let halfway = asked_ms.saturating_add(answered_ms.saturating_sub(asked_ms) / 2);
    halfway.saturating_sub(theirs_ms)
}

/// A control plane that says no time is of a version that knows none.
pub(super) fn note(metrics: &Metrics, asked_ms: i64, answered_ms: i64, theirs_ms: i64) {
    if theirs_ms == 0 {
        return;
    }
    let skew = skew_ms(asked_ms, answered_ms, theirs_ms);
    metrics.clock_skew(skew);
    if skew.unsigned_abs() > WORTH_A_WARNING_MS {
        warn!("{}: set one of the two right; beyond 5 m mTLS may fail", skew_in_words(skew));
    }
}

/// The two clocks at the ends of one open stream.
pub(super) struct Comparison {
    clock: Arc<dyn Clock>,
    looked: Moment,
    due: Instant,
    asked_ms: Option<i64>,
    /// The skew that the log holds last.
    said_ms: i64,
}

impl Comparison {
    /// They were compared just now, when the stream was opened.
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        let (looked, due) = (Moment::now(&**clock), Instant::now() + COMPARE_EVERY);
        Self { clock: Arc::clone(clock), looked, due, asked_ms: None, said_ms: 0 }
    }

    /// Until they are to be compared: after a minute, or when ours was set or stood still. Loses nothing when it is given up.
    pub(super) async fn until_due(&mut self) {
        loop {
            let before = std::mem::replace(&mut self.looked, Moment::now(&*self.clock));
            if before.jump_to(self.looked, LOOK_EVERY).is_some() || Instant::now() >= self.due {
                return;
            }
            sleep_until(self.due.min(Instant::now() + LOOK_EVERY)).await;
        }
    }

    /// What our clock says, for the control plane.
    pub(super) fn ask(&mut self) -> i64 {
        self.due = Instant::now() + COMPARE_EVERY;
        *self.asked_ms.insert(self.clock.now_ms())
    }

    /// What the control plane's said when it read that.
    pub(super) fn answered(&mut self, metrics: &Metrics, theirs_ms: i64) {
        let Some(asked_ms) = self.asked_ms.take() else { return };
        let skew = skew_ms(asked_ms, self.clock.now_ms(), theirs_ms);
        metrics.clock_skew(skew);
        if skew.abs_diff(self.said_ms) < WORTH_SAYING_AGAIN_MS {
            return;
        }
        if skew.unsigned_abs() > WORTH_A_WARNING_MS {
            warn!("{}: set one of the two right; beyond 5 m mTLS may fail", skew_in_words(skew));
            self.said_ms = skew;
        } else if self.said_ms != 0 {
            info!("the clocks of this machine and the control plane agree again within {} s", skew.abs() / 1_000 + 1);
            self.said_ms = 0;
        }
    }
}

/// A handshake that failed over dates says nothing about which clock is wrong. So the control plane is asked, over a
/// connection that proves who it is at whatever time, shows no certificate of ours and carries no secret.
pub(super) async fn named(
    error: ControlError,
    dialer: &Dialer,
    identities: &Arc<IdentityStore>,
    probe: impl FnOnce() -> ExpectedPeer,
) -> ControlError {
    if !is_over_dates(&error) {
        return error;
    }
    match ask(dialer, identities, probe()).await {
        Err(ControlError::Refused(status))
            if status.code() == Code::FailedPrecondition && status.message().starts_with(SKEWED) =>
        {
            ControlError::ClockSkew(status.message().to_owned())
        }
        _ => error,
    }
}

fn is_over_dates(error: &ControlError) -> bool {
    let peer = match error {
        ControlError::Peer { peer, .. } => Some(*peer),
        ControlError::Refused(status) => PeerError::find(status),
        _ => None,
    };
    match peer {
        Some(
            PeerError::Expired
            | PeerError::NotYetValid
            | PeerError::OwnDates
            | PeerError::DatesRefusedByPeer
            | PeerError::PeerWithoutCertificate
            | PeerError::RefusedByPeer,
        ) => true,
        Some(_) | None => false,
    }
}

/// An enrolment without proof: refused by everybody, and for the clock first.
async fn ask(dialer: &Dialer, identities: &Arc<IdentityStore>, probe: ExpectedPeer) -> Result<(), ControlError> {
    let channel = connect::channel(dialer, identities.client_config(connect::ALPN, probe)).await?;
    let request = EnrollRequest { client_time_unix_ms: identities.clock().now_ms(), ..EnrollRequest::default() };
    answer_in_time(IdentityClient::new(channel).enroll(request)).await.map(drop)
}

#[cfg(test)]
#[path = "skew_test.rs"]
mod skew_test;
