//! Refusals in the log, so many per second and reason: a flood that is refused must not become a flood of lines. What was
//! left out is counted, and said with the next line of its reason; the metric counts all.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::reason::Reason;

/// Lines per reason and [`PERIOD`], in one direction of one worker.
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// What one worker has said in one direction.
#[derive(Debug, Default)]
pub struct RefusalLog {
    reasons: [Said; Reason::ALL.len()],
}

#[derive(Debug, Default)]
struct Said {
    since: Cell<Option<Instant>>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl RefusalLog {
    /// Whether a line may be written now, and how many of its kind were left out before it.
    pub fn may_say(&self, reason: Reason) -> Option<u64> {
        let said = &self.reasons[reason.index()];
        let now = Instant::now();
        if said.since.get().is_none_or(|since| now.duration_since(since) >= PERIOD) {
            said.since.set(Some(now));
            said.lines.set(0);
        }
        if said.lines.get() >= LINES {
            said.left_out.set(said.left_out.get() + 1);
            return None;
        }
        said.lines.set(said.lines.get() + 1);
        Some(said.left_out.take())
    }
}

#[cfg(test)]
#[path = "refusal_log_test.rs"]
mod refusal_log_test;
