//! Clock skew, named before it shows up as a TLS error.

use tracing::warn;

/// Certificates are backdated by ten minutes, so that five are tolerated; well before that an operator should know.
const WORTH_A_WARNING_MS: u64 = 30_000;

/// Our clock minus theirs, in milliseconds, taking their time as read halfway between asking and answer.
pub(super) fn skew_ms(asked_ms: i64, answered_ms: i64, theirs_ms: i64) -> i64 {
    let halfway = asked_ms.saturating_add(answered_ms.saturating_sub(asked_ms) / 2);
    halfway.saturating_sub(theirs_ms)
}

pub(super) fn warn_if_skewed(asked_ms: i64, answered_ms: i64, theirs_ms: i64) {
    let skew = skew_ms(asked_ms, answered_ms, theirs_ms);
    if theirs_ms != 0 && skew.unsigned_abs() > WORTH_A_WARNING_MS {
        let (seconds, way) = (skew.unsigned_abs() / 1_000, if skew > 0 { "ahead of" } else { "behind" });
        warn!(
            "clock: this machine is {seconds} s {way} the control plane: set one of the two right, or mTLS will fail"
        );
    }
}
