//! Keeps the certificate fresh. Never stops: a certificate that has ended is still asked for, and said so.
//!
//! Each renewal makes a new key. The new identity is used from the next handshake on; live connections keep theirs.

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{Clock, WorkloadIdentity, csr, rotation};
use isthmus_proto::identity::v1::RenewRequest;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use tracing::{error, info, warn};

use super::enroll::{answer_in_time, expires_in, issued};
use super::{Context, ControlError, machine};

/// A wall clock can jump and a machine can sleep, so the time that is left is looked at again this often.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) async fn keep_fresh(context: &Context) {
    while let Some(current) = context.identities.current() {
        context.metrics.certificate_expiry(i64::try_from(current.not_after.as_secs()).unwrap_or(i64::MAX));
        until_due(context, &current).await;
        renew_until_done(context, &current).await;
    }
    // Enrolment comes first, and nothing takes an identity away.
    error!("renewal: no identity to renew");
}

/// Waits until the certificate is due: by its own life, by a shorter one that the control plane has asked for since, or
/// because the operator of this host says so.
async fn until_due(context: &Context, current: &WorkloadIdentity) {
    let jitter = rand::random::<f64>();
    let mut published = context.state.subscribe();
    loop {
        let now = context.identities.clock().now_ms();
        let due = due_ms(context, current, now, jitter);
        if due <= now {
            return;
        }
        let wait = Duration::from_millis(due.saturating_sub(now).unsigned_abs()).min(LONGEST_WAIT);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = published.changed() => {}
            () = context.start.renew_now().notified() => return,
        }
    }
}

fn due_ms(context: &Context, current: &WorkloadIdentity, now_ms: i64, jitter: f64) -> i64 {
    let issued = unix_ms(current.issued_at().as_secs());
    let ends = unix_ms(current.not_after.as_secs());
    let asked_for = context.state.snapshot().leaf_lifetime();
    let shortened = asked_for.map(|life| issued.saturating_add(i64::try_from(life.as_millis()).unwrap_or(i64::MAX)));
    rotation::next_renewal(now_ms, issued, shortened.map_or(ends, |s| s.min(ends)), jitter)
}

fn unix_ms(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000)
}

async fn renew_until_done(context: &Context, current: &Arc<WorkloadIdentity>) {
    let mut failures = 0;
    loop {
        let error = match renew(context, current).await {
            Ok(()) => return,
            Err(error) => context.named(error).await,
        };
        failures += 1;
        context.metrics.certificate_renewal(false);
        let now = context.identities.clock().now_ms();
        let ends = unix_ms(current.not_after.as_secs());
        let wait = rotation::retry_after(failures, now, ends, rand::random::<f64>());
        let (left, wait_ms) = ((ends - now) / 1_000, wait.as_millis());
        if left > 0 {
            warn!("renewal failed, {left} s of the certificate left: {error}; trying again in {wait_ms} ms");
        } else {
            error!(
                "the certificate has ended and peers refuse us: {error}; trying again in {wait_ms} ms. If the control plane is up, join again with a new token"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = context.start.renew_now().notified() => {}
        }
    }
}

async fn renew(context: &Context, current: &WorkloadIdentity) -> Result<(), ControlError> {
    let clock = context.identities.clock();
    let key = csr::new_key()?;
    let channel = context.connect().await?;
    let asked_ms = clock.now_ms();
    let request =
        RenewRequest { csr_der: csr::request(&key)?, client_time_unix_ms: asked_ms, machine: Some(machine::this()) };
    let answer = answer_in_time(IdentityClient::new(channel).renew(request)).await?;
    let renewed = issued(answer.certificate, &key, clock.as_ref(), asked_ms)?;
    let (serial, expires) = (renewed.serial, expires_in(&context.start, &renewed));
    // A full disk must not cost the identity: it is used all the same, and a restart finds the old one.
    if let Err(e) = context.start.save(&renewed).await {
        warn!("the renewed identity is in memory only: {e}");
    }
    context.identities.replace(renewed)?;
    context.metrics.certificate_renewal(true);
    info!("renewed old={} new={serial} {expires}", current.serial);
    Ok(())
}
