//! How this proxy stands with its control plane, for the operator: is there a stream, what is served and from where, when
//! the certificate is renewed, how long all of it lasts without a control plane. Written by `control`, read by the admin
//! socket, readiness and metrics; no connection looks here.

use std::sync::{Mutex, MutexGuard, PoisonError};

use isthmus_certs::{WorkloadIdentity, span_in_words};

/// A part of a certificate's life: with less than that left, renewals have been failing for long.
const LITTLE_LEFT: i64 = 4;

/// What is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serving {
    /// Nothing: no snapshot was ever had.
    #[default]
    Nothing,
    /// What the control plane said over a stream of this process.
    Live,
    /// What an earlier process kept, as the control plane signed it then.
    LastGood { signed_ms: i64, until_ms: i64 },
    /// That is too old now, and everything is refused.
    TooOld,
}

/// What is kept on disk for the next start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Kept {
    #[default]
    Nothing,
    /// This version is there.
    Version(u64),
    /// It could not be written, or must not be.
    Failed(String),
}

/// Something that went wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    pub at_ms: i64,
    pub what: String,
}

/// Everything that is known.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub address: String,
    pub workload: String,
    pub connected: bool,
    /// Of being connected, or of not being so. 0: never tried.
    pub since_ms: i64,
    pub control_build: String,
    pub last_error: Option<Noted>,
    /// 0: not known yet.
    pub next_renewal_ms: i64,
    /// Attempts that failed since the certificate was due.
    pub renewal_failures: u32,
    pub renewal_error: Option<Noted>,
    pub serving: Serving,
    pub kept: Kept,
    /// How the files of the state directory are protected; empty: there is none.
    pub sealed: String,
    /// Why what an earlier process kept was not taken.
    pub last_good_refused: Option<String>,
}

/// The facts, shared.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Facts>);

/// What ends first when no control plane can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alone {
    pub until_ms: i64,
    pub because: &'static str,
}

impl Standing {
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Only `control` calls this.
    pub fn note(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A change that panicked left facts that are whole enough to be shown.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    /// How long this proxy can go on without a control plane. None: it serves nothing now.
    pub fn alone(&self, identity: Option<&WorkloadIdentity>) -> Option<Alone> {
        let certificate = Alone { until_ms: end_ms(identity?), because: "the certificate ends" };
        match self.serving {
            Serving::Nothing | Serving::TooOld => None,
            Serving::Live => Some(certificate),
            Serving::LastGood { until_ms, .. } if until_ms < certificate.until_ms => {
                Some(Alone { until_ms, because: "the last good snapshot is too old then" })
            }
            Serving::LastGood { .. } => Some(certificate),
        }
    }

    /// What somebody should look at, though traffic flows.
    pub fn warnings(&self, identity: Option<&WorkloadIdentity>, now_ms: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        let in_words = |ms: i64| span_in_words(ms.max(0).unsigned_abs());
        if let Some(identity) = identity {
            let (left, life) = (end_ms(identity) - now_ms, end_ms(identity) - issued_ms(identity));
            let why = self.renewal_error.as_ref().map(|error| format!(": {}", error.what)).unwrap_or_default();
            if self.renewal_failures > 0 {
                let (tries, left) = (self.renewal_failures, in_words(left));
                let s = if tries == 1 { "" } else { "s" };
                warnings.push(format!("the certificate could not be renewed, {tries} attempt{s}, {left} left{why}"));
            } else if left < life / LITTLE_LEFT {
                warnings.push(format!("the certificate ends in {} and was not renewed", in_words(left)));
            }
        }
        if let Serving::LastGood { signed_ms, until_ms } = self.serving {
            let (old, left) = (in_words(now_ms - signed_ms), in_words(until_ms - now_ms));
            warnings.push(format!("serving the last good snapshot, {old} old, for {left} more: no control plane was reached since the start"));
        }
        if !self.connected && self.since_ms > 0 {
            let why = self.last_error.as_ref().map(|error| format!(": {}", error.what)).unwrap_or_default();
            let since = in_words(now_ms - self.since_ms);
            warnings.push(format!("no stream to the control plane for {since}{why}"));
        }
        if let Kept::Failed(why) = &self.kept {
            warnings.push(format!("the snapshot is not kept on disk, and a restart needs the control plane: {why}"));
        }
        if let Some(why) = &self.last_good_refused
            && self.serving != Serving::Live
        {
            warnings.push(format!("the last good snapshot was not taken: {why}"));
        }
        warnings
    }
}

/// Milliseconds since the Unix epoch.
pub fn end_ms(identity: &WorkloadIdentity) -> i64 {
    unix_ms(identity.not_after.as_secs())
}

pub fn issued_ms(identity: &WorkloadIdentity) -> i64 {
    unix_ms(identity.issued_at().as_secs())
}

fn unix_ms(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000)
}

#[cfg(test)]
#[path = "standing_test.rs"]
mod standing_test;
