//! When to renew a certificate. Pure: times and a random number in, a time out; the caller waits and dials.
//!
//! Renewal starts at half of the life, so that half of it is left for a control plane to come back; a tenth of jitter
//! keeps a thousand workloads that were started together from renewing together.

use std::time::Duration;

/// How far around half of the life a renewal may fall, as a part of the whole life.
const JITTER: f64 = 0.1;
/// The first retry. Long enough for a control plane that is just restarting.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Retries of a fleet must not be what keeps the control plane down.
const MAX_RETRY: Duration = Duration::from_secs(300);
/// Even a certificate that is about to end is asked for no more often than this.
const MIN_RETRY: Duration = Duration::from_millis(50);
/// A wait is never longer than this part of what is left.
const PART_OF_REST: u32 = 10;

/// When to renew a certificate that was issued at `issued_ms` (not its backdated `notBefore`, see
/// [`WorkloadIdentity::issued_at`](crate::WorkloadIdentity::issued_at)) and ends at `not_after_ms`: half of its life,
/// give or take a tenth of it. All in milliseconds since the Unix epoch; `jitter` is uniform in 0..1. Never before
/// `now_ms`: an overdue renewal is due now.
pub fn next_renewal(now_ms: i64, issued_ms: i64, not_after_ms: i64, jitter: f64) -> i64 {
    let life = not_after_ms.saturating_sub(issued_ms).max(0) as f64;
    let part = 0.5 + JITTER * (2.0 * unit(jitter) - 1.0);
    issued_ms.saturating_add((life * part) as i64).max(now_ms)
}

/// A certificate that was issued this moment is not renewed before this, whatever our clock says: by a clock that is ahead
/// it may be past half of its life when it comes, and would be asked for anew without end. Half of what is left by our
/// clock, and at least a hundredth of the life.
pub fn not_again_before(now_ms: i64, issued_ms: i64, not_after_ms: i64) -> i64 {
    let (life, left) = (not_after_ms.saturating_sub(issued_ms).max(0), not_after_ms.saturating_sub(now_ms).max(0));
    let least = (left / 2).max(life / 100);
    // By a clock that is right, half of the life less its jitter comes first.
    now_ms.saturating_add(least.min((life as f64 * (0.5 - JITTER)) as i64))
}

/// When to do what all of a fleet were asked to do at `told_ms`: somewhere in `within`, by its own jitter.
pub fn spread(told_ms: i64, within: Duration, jitter: f64) -> i64 {
    told_ms.saturating_add((within.as_millis() as f64 * unit(jitter)) as i64)
}

/// How long to wait after the `failures`-th failed renewal in a row (from 1): doubling from 1 s to 5 min, half of it
/// jittered, and never more than a tenth of the time that is left, so that a short certificate gets its tries as well.
pub fn retry_after(failures: u32, now_ms: i64, not_after_ms: i64, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let left = Duration::from_millis(not_after_ms.saturating_sub(now_ms).max(0) as u64);
    // Nothing left: the certificate has ended, and only the fleet's load counts.
    let bound = if left.is_zero() { MAX_RETRY } else { (left / PART_OF_REST).max(MIN_RETRY) };
    let longest = doubled.min(MAX_RETRY).min(bound);
    longest.mul_f64(0.5 + 0.5 * unit(jitter)).max(MIN_RETRY)
}

/// A jitter from outside, made safe: not a number counts as none.
fn unit(jitter: f64) -> f64 {
    if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) }
}

#[cfg(test)]
#[path = "rotation_test.rs"]
mod rotation_test;
