//! What time it is. Libraries take a [`Clock`] and never ask the system, so tests move time and binaries need no switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// A source of wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// Whole seconds since the Unix epoch, rounded down, as certificates count.
    fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.now_ms().max(0) as u64 / 1000))
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the real clock is read")]
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // Before 1970: no certificate is valid then, and that is the error the operator will see.
            Err(_) => 0,
        }
    }
}

/// How long something lasts, or how far two clocks are apart, in the two units that matter: `17 m 3 s`, `3 h 0 m`,
/// `2 d 4 h`.
pub fn span_in_words(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} m {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} m"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

/// `clock skew 17 m 3 s: this machine is ahead of the control plane`. `skew_ms` is this machine's clock minus the
/// control plane's. The same words wherever skew is met, so that one search finds them all.
pub fn skew_in_words(skew_ms: i64) -> String {
    let side = if skew_ms > 0 { "ahead of" } else { "behind" };
    format!("clock skew {}: this machine is {side} the control plane", span_in_words(skew_ms.unsigned_abs()))
}

/// A clock that stands still until it is moved. Clones share their time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    pub fn at_ms(ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(ms)))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as i64, Ordering::SeqCst);
    }

    pub fn set_ms(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now_ms(&self) -> i64 {
        (**self).now_ms()
    }
}

/// Hands our clock to rustls.
pub(crate) struct TlsClock(pub(crate) Arc<dyn Clock>);

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0.now())
    }
}

impl std::fmt::Debug for TlsClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClock")
    }
}

#[cfg(test)]
#[path = "clock_test.rs"]
mod clock_test;
