//! From single answers to a state that does not flap. Pure.

use super::Health;

/// What has been heard so far.
#[derive(Debug)]
pub(super) struct Judge {
    failures: u32,
    successes: u32,
    ready: bool,
    reason: String,
    /// Answers in a row that speak against the present state.
    against: u32,
    /// The first answer decides alone: an app that is up gets its traffic at once.
    heard: bool,
}

impl Judge {
    pub(super) fn new(failures: u32, successes: u32) -> Self {
        let reason = "not asked yet".to_owned();
        Judge { failures: failures.max(1), successes: successes.max(1), ready: false, reason, against: 0, heard: false }
    }

    pub(super) fn has_heard(&self) -> bool {
        self.heard
    }

    pub(super) fn health(&self) -> Health {
        Health { ready: self.ready, reason: if self.ready { String::new() } else { self.reason.clone() } }
    }

    /// Takes one answer in; the new state if it changed.
    pub(super) fn hear(&mut self, answer: Result<(), String>) -> Option<Health> {
        let good = answer.is_ok();
        let first = !std::mem::replace(&mut self.heard, true);
        if let Err(reason) = answer {
            self.reason = reason;
        }
        if good == self.ready {
            self.against = 0;
            return first.then(|| self.health());
        }
        self.against += 1;
        let needed = if good { self.successes } else { self.failures };
        if self.against < needed && !first {
            return None;
        }
        (self.ready, self.against) = (good, 0);
        Some(self.health())
    }
}
