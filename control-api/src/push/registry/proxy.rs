//! One proxy as others are told of it: where it came from, and how far it has got. Refused: a second machine that comes with
//! an identity in use.

use super::super::copies::{self, Copy, Machine};
use tokio::time::Instant;

/// What is known of one workload's proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub workload: String,
    pub spiffe_id: String,
    pub build_version: String,
    pub connected: bool,
    pub sent: u64,
    /// Acknowledged: in force there.
    pub acked: u64,
    /// Refused: the proxy keeps its last good view.
    pub nacked: u64,
    pub last_error: String,
    pub last_seen_unix_ms: i64,
    pub serial: String,
    pub not_after_unix_ms: i64,
    /// Its clock minus ours, when it last said. The time on the way counts as if it were ahead of us.
    pub skew_ms: i64,
    /// Why its app takes no traffic, by the last probe.
    pub unready: Option<String>,
    /// Since when something that concerns it is not in force there.
    pub behind_since: Option<Instant>,
    pub arrival: Arrival,
    /// Another machine that came with the same identity.
    pub copy: Option<Copy>,
}

/// Where a stream comes from.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    pub machine: Machine,
    /// When and with which certificate its line of certificates began; the later one is an operator's word.
    pub enrolment: (i64, String),
}

/// Another machine has this identity in use.
#[derive(Debug)]
pub struct Refused {
    pub holder: Machine,
    pub copy: Copy,
}

/// How far a revision has got with one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Acknowledged,
    Waiting,
    Refused(String),
    Offline,
}

impl Proxy {
    /// Notes the newcomer if it has to be refused.
    pub(super) fn refuse(&mut self, newcomer: &Arrival, now_ms: i64) -> Option<Box<Refused>> {
        let holder = &self.arrival;
        if !self.connected || !newcomer.machine.differs(&holder.machine) || newcomer.enrolment.0 > holder.enrolment.0 {
            return None;
        }
        let copy = copies::note(self.copy.take(), &holder.machine, &newcomer.machine, now_ms);
        self.copy = Some(copy.clone());
        Some(Box::new(Refused { holder: holder.machine.clone(), copy }))
    }

    pub(super) fn progress(&self, revision: u64) -> Progress {
        if self.nacked >= revision && self.acked < self.nacked {
            Progress::Refused(self.last_error.clone())
        } else if self.acked >= revision {
            Progress::Acknowledged
        } else if self.connected {
            Progress::Waiting
        } else {
            Progress::Offline
        }
    }
}
