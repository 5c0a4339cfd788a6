//! Keeps the certificate fresh. Never stops: a certificate that has ended is still asked for, and said so.
//!
//! Each renewal makes a new key. The new identity is used from the next handshake on; live connections keep theirs.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use isthmus_certs::{IdentityStore, WorkloadIdentity, csr, rotation};
use isthmus_proto::identity::v1::RenewRequest;
use isthmus_proto::identity::v1::identity_client::IdentityClient;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::enroll::{answer_in_time, expires_in, issued};
use super::passage::{Jump, next_jump};
use super::{Context, ControlError, machine};
use crate::state::State;
use crate::state::standing::{Noted, Standing, end_ms, issued_ms};
use crate::telemetry::Metrics;

/// A wall clock can be set in small steps, so the time that is left is looked at again this often.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Machines that woke together do not ask together.
const AFTER_JUMP: Duration = Duration::from_secs(1);

/// Asks for a new certificate, in place of this one.
pub(super) type Ask<'a> = dyn Fn(Arc<WorkloadIdentity>) -> BoxFuture<'a, Result<(), ControlError>> + Send + Sync + 'a;

/// What the timing of renewals hangs on.
pub(super) struct Renewals<'a> {
    pub(super) identities: &'a Arc<IdentityStore>,
    pub(super) state: &'a Arc<State>,
    pub(super) standing: &'a Standing,
    pub(super) metrics: &'a Metrics,
    /// The operator of this host wants a new one.
    pub(super) renew_now: &'a Notify,
    /// The control plane was reached otherwise: what failed may work now.
    pub(super) reached: &'a Notify,
}

/// What the control plane has said that makes a certificate due out of turn. Each is followed once: where the next
/// certificate is not as was said either, the control plane does not do as it says, and is not asked without end.
#[derive(Debug, Default)]
struct Told {
    /// Another root issues now.
    root: Option<[u8; 32]>,
    at_ms: i64,
    root_done: bool,
    /// Certificates live no longer than this.
    life: Option<Duration>,
    life_done: bool,
}

pub(super) async fn keep_fresh(context: &Context) {
    let renewals = Renewals {
        identities: &context.identities,
        state: &context.state,
        standing: context.start.standing(),
        metrics: &context.metrics,
        renew_now: context.start.renew_now(),
        reached: &context.reached,
    };
    let ask = |current: Arc<WorkloadIdentity>| -> BoxFuture<'_, _> {
        Box::pin(async move {
            match renew(context, &current).await {
                Ok(()) => Ok(()),
                Err(error) => Err(context.named(error).await),
            }
        })
    };
    renewals.keep_fresh(&ask).await;
}

impl Renewals<'_> {
    /// `ask` replaces the identity, or says why not.
    pub(super) async fn keep_fresh(&self, ask: &Ask<'_>) {
        let mut told = Told::default();
        let mut fresh = false;
        while let Some(current) = self.identities.current() {
            self.metrics.certificate_expiry(end_ms(&current) / 1_000);
            let not_before = if fresh {
                rotation::not_again_before(self.now_ms(), issued_ms(&current), end_ms(&current))
            } else {
                i64::MIN
            };
            self.until_due(&current, &mut told, not_before).await;
            fresh = true;
            self.renew_until_done(&current, ask).await;
            (told.root_done, told.life_done) = (true, true);
        }
        // Enrolment comes first, and nothing takes an identity away.
        error!("renewal: no identity to renew");
    }

    /// Waits until the certificate is due: by its own life, by a shorter one that the control plane has asked for since,
    /// because another root issues now, because time passed without us, or because the operator of this host says so.
    async fn until_due(&self, current: &WorkloadIdentity, told: &mut Told, not_before_ms: i64) {
        let jitter = rand::random::<f64>();
        let mut published = self.state.subscribe();
        let jumped = next_jump(&**self.identities.clock(), life(current));
        tokio::pin!(jumped);
        loop {
            let now = self.now_ms();
            let due = self.due_ms(current, (now, not_before_ms), jitter, told);
            self.standing.note(|facts| facts.next_renewal_ms = due);
            if due <= now {
                return;
            }
            let wait = Duration::from_millis(due.saturating_sub(now).unsigned_abs()).min(LONGEST_WAIT);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Ok(()) = published.changed() => {}
                jump = &mut jumped => {
                    say(jump);
                    return tokio::time::sleep(AFTER_JUMP.mul_f64(jitter)).await;
                }
                () = self.renew_now.notified() => return,
            }
        }
    }

    fn now_ms(&self) -> i64 {
        self.identities.clock().now_ms()
    }

    fn due_ms(
        &self,
        current: &WorkloadIdentity,
        (now_ms, not_before_ms): (i64, i64),
        jitter: f64,
        told: &mut Told,
    ) -> i64 {
        let (issued, ends) = (issued_ms(current), end_ms(current));
        let mut due = rotation::next_renewal(now_ms, issued, ends, jitter).max(not_before_ms);
        let snapshot = self.state.snapshot();
        if told.life != snapshot.leaf_lifetime() {
            (told.life, told.life_done) = (snapshot.leaf_lifetime(), false);
        }
        let shorter = told.life.map(|life| issued.saturating_add(i64::try_from(life.as_millis()).unwrap_or(i64::MAX)));
        if let Some(shorter) = shorter.filter(|shorter| *shorter < ends && !told.life_done) {
            due = due.min(rotation::next_renewal(now_ms, issued, shorter, jitter));
        }
        let upkeep = snapshot.upkeep();
        if upkeep.issuing_root.is_none_or(|root| root == *current.root_fingerprint().as_bytes()) {
            return due;
        }
        if told.root != upkeep.issuing_root {
            info!("another root issues now: renewing within {} s", upkeep.renew_within.as_secs());
            (told.root, told.at_ms, told.root_done) = (upkeep.issuing_root, now_ms, false);
        }
        let soon = rotation::spread(told.at_ms, upkeep.renew_within, jitter).max(now_ms);
        if told.root_done { due } else { due.min(soon) }
    }

    async fn renew_until_done(&self, current: &Arc<WorkloadIdentity>, ask: &Ask<'_>) {
        let mut failures = 0;
        let (clock, ends) = (self.identities.clock(), end_ms(current));
        loop {
            let Err(error) = ask(Arc::clone(current)).await else { break };
            failures += 1;
            self.metrics.certificate_renewal(false);
            let now = clock.now_ms();
            let wait = rotation::retry_after(failures, now, ends, rand::random::<f64>());
            let (left, wait_ms) = ((ends - now) / 1_000, wait.as_millis());
            if left > 0 {
                warn!("renewal failed, {left} s of the certificate left: {error}; trying again in {wait_ms} ms");
            } else if matches!(error, ControlError::ClockSkew(_)) {
                error!("by this machine's clock the certificate has ended: {error}; trying again in {wait_ms} ms");
            } else {
                error!(
                    "the certificate has ended and peers refuse us: {error}; trying again in {wait_ms} ms. If the control plane is up, join again with a new token"
                );
            }
            self.standing.note(|facts| {
                facts.renewal_failures = failures;
                facts.renewal_error = Some(Noted { at_ms: now, what: error.to_string() });
                facts.next_renewal_ms = now.saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX));
            });
            self.metrics.certificate_renewal_failing(failures);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.renew_now.notified() => {}
                () = self.reached.notified() => {}
                jump = next_jump(&**clock, life(current)) => say(jump),
            }
        }
        self.metrics.certificate_renewal(true);
        self.metrics.certificate_renewal_failing(0);
        self.standing.note(|facts| {
            facts.renewal_failures = 0;
            facts.renewal_error = None;
        });
    }
}

fn life(of: &WorkloadIdentity) -> Duration {
    Duration::from_millis(u64::try_from(end_ms(of) - issued_ms(of)).unwrap_or(0))
}

fn say(jump: Jump) {
    match jump {
        Jump::Slept(time) => info!("this machine slept for {} s: renewing now", time.as_secs()),
        Jump::Set(by_ms) => warn!("the wall clock was set by {} s: renewing now", by_ms / 1_000),
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
    info!("renewed old={} new={serial} {expires}", current.serial);
    Ok(())
}

#[cfg(test)]
#[path = "renew_test.rs"]
mod renew_test;
