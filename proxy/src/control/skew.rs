//! Clock skew, named as such before it shows up as a TLS error, and instead of one.

use std::sync::Arc;

use isthmus_certs::{Clock, ExpectedPeer, IdentityStore, PeerError, skew_in_words};
use isthmus_proto::identity::v1::EnrollRequest;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use tonic::Code;
use tracing::warn;

use super::enroll::answer_in_time;
use super::{ControlError, Dialer, connect};

/// Certificates are backdated by ten minutes, so that five are tolerated; well before that an operator should know.
const WORTH_A_WARNING_MS: u64 = 30_000;
/// How the control plane begins its answer when our clock is wrong.
const SKEWED: &str = "clock skew ";

/// Our clock minus theirs, in milliseconds, taking their time as read halfway between asking and answer.
pub(super) fn skew_ms(asked_ms: i64, answered_ms: i64, theirs_ms: i64) -> i64 {
    let halfway = asked_ms.saturating_add(answered_ms.saturating_sub(asked_ms) / 2);
    halfway.saturating_sub(theirs_ms)
}

pub(super) fn warn_if_skewed(asked_ms: i64, answered_ms: i64, theirs_ms: i64) {
    let skew = skew_ms(asked_ms, answered_ms, theirs_ms);
    if theirs_ms != 0 && skew.unsigned_abs() > WORTH_A_WARNING_MS {
        warn!("{}: set one of the two right; beyond 5 m mTLS may fail", skew_in_words(skew));
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
