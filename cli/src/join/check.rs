//! What must hold before this machine is changed: the control plane answers, it has the root that was named, and the
//! two clocks agree. Nothing secret is sent: a token stays unused.

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{Clock, ExpectedPeer, IdentityStore, SpiffeId, SystemClock, skew_in_words};
use isthmus_proto::identity::v1::EnrollRequest;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use tokio::time::timeout;
use tonic::Status;

use super::proof::Anchor;
use crate::connect::{self, DialError};
use crate::failure::Failure;

const LIMIT: Duration = Duration::from_secs(10);
/// Certificates are backdated by ten minutes and live for hours; half of that is what we promise to bear, and what the
/// answer took.
const MAX_SKEW_MS: u64 = (5 * 60 + 10) * 1000;

/// What was found, for the report.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) handshake: Duration,
    /// Ours minus theirs. None: the control plane's answer carried no time.
    pub(super) skew_ms: Option<i64>,
}

pub(super) async fn control_plane(anchor: &Anchor) -> Result<Found, Failure> {
    let clock = SystemClock;
    let store = IdentityStore::new(anchor.trust_domain.clone(), Arc::new(clock));
    // Whatever our clock says: that is what is to be found out.
    let expected = ExpectedPeer::PinnedClockProbe(anchor.root, SpiffeId::control_plane(&anchor.trust_domain));
    let tls = store.client_config(&[b"h2"], expected);
    let began = tokio::time::Instant::now();
    let stream = connect::dial(&anchor.address, tls, LIMIT).await.map_err(|e| explain(e, anchor))?;
    let handshake = began.elapsed();
    let channel = connect::channel(stream).await?;
    // An empty proof is refused, and the refusal carries the server's time.
    let asked = IdentityClient::new(channel);
    let status = match timeout(LIMIT, ask(asked)).await {
        Ok(status) => status,
        Err(_) => {
            return Err(Failure::timed_out(
                format!("{} shook hands and then did not answer within {LIMIT:?}", anchor.address),
                "check the control plane's log, and that its port 15012 is what the token's address leads to",
            ));
        }
    };
    let skew_ms = server_time_ms(&status).map(|theirs| clock.now_ms() - theirs);
    match skew_ms {
        Some(skew) if skew.unsigned_abs() > MAX_SKEW_MS => Err(skewed(skew)),
        _ => Ok(Found { handshake, skew_ms }),
    }
}

async fn ask(mut client: IdentityClient<tonic::transport::Channel>) -> Status {
    match client.enroll(EnrollRequest::default()).await {
        Ok(_) => Status::internal("an empty proof was accepted"),
        Err(status) => status,
    }
}

/// The HTTP `date` of the answer: whole seconds, which is plenty against minutes.
fn server_time_ms(status: &Status) -> Option<i64> {
    let date = status.metadata().get("date")?.to_str().ok()?;
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(at.as_millisecond())
}

fn skewed(skew_ms: i64) -> Failure {
    Failure::new(
        format!("{}; 5 m is the most that certificates bear", skew_in_words(skew_ms)),
        "set the clock: `timedatectl set-ntp true` where systemd is, or start chronyd; then join again",
    )
}

fn explain(error: DialError, anchor: &Anchor) -> Failure {
    let address = &anchor.address;
    match error {
        DialError::Unreachable(e) => Failure::new(
            format!("no control plane at {address}: {e}"),
            "check the route, the firewall (this machine needs 15012 out) and that the control plane runs",
        ),
        DialError::TimedOut(limit) => Failure::timed_out(
            format!("no answer from {address} within {limit:?}"),
            "a firewall is likely to drop it: this machine needs TCP 15012 out to the control plane",
        ),
        DialError::Peer(reason) => Failure::new(
            format!("{address} is not the control plane of this trust domain and root: {reason}"),
            "nothing secret was sent. Make a new token, or name its root, if the control plane was set up anew; else find out who \
             answers there. not-yet-valid and expired can also mean that this machine's clock is wrong",
        ),
        DialError::Tls(e) => Failure::new(
            format!("{address} broke the TLS handshake: {e}"),
            "check that the address leads to the control plane's port 15012 and that nothing between terminates TLS",
        ),
    }
}

#[cfg(test)]
#[path = "check_test.rs"]
mod check_test;
