//! Two machines with one identity: a VM that was cloned, or put back from a snapshot while it still runs elsewhere.
//!
//! Who has a stream keeps it; the other is refused, and both are named. An enrolment made later is an explicit act and
//! takes over: that is how a workload moves to another machine.

use isthmus_certs::span_in_words;
use isthmus_proto::identity::v1 as wire;
use std::fmt;

/// A machine that crashed and came back is another boot of the same one, and its old stream is noticed to be dead within
/// 25 s (pings). Only after that is it two.
const REBOOT_MS: i64 = 30_000;
/// For how long a refused copy is spoken of.
pub const SPOKEN_OF_MS: i64 = 3_600_000;
const SHOWN: usize = 8;

/// What is known of the machine at the other end of a stream. Claims of its own: nobody is let in by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    id: Vec<u8>,
    boot: Vec<u8>,
    name: String,
    address: String,
}

/// A machine that was refused because another has its identity in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub machine: Machine,
    pub first_ms: i64,
    pub last_ms: i64,
    pub times: u64,
    /// Not only another boot of what may be the same machine.
    pub certain: bool,
}

impl Machine {
    pub fn read(claimed: Option<wire::Machine>, address: &str) -> Self {
        let claimed = claimed.unwrap_or_default();
        let printable = |c: &char| c.is_ascii_graphic();
        Machine {
            id: claimed.id.into_iter().take(32).collect(),
            boot: claimed.boot.into_iter().take(32).collect(),
            name: claimed.name.chars().filter(printable).take(64).collect(),
            address: address.to_string(),
        }
    }

    /// Known to be another one, or at least another boot. Where nothing is known, nothing is claimed.
    pub fn differs(&self, other: &Machine) -> bool {
        self.is_another(other) || (!self.boot.is_empty() && !other.boot.is_empty() && self.boot != other.boot)
    }

    fn is_another(&self, other: &Machine) -> bool {
        !self.id.is_empty() && !other.id.is_empty() && self.id != other.id
    }
}

impl fmt::Display for Machine {
    /// `vm-a (machine 4f0a17c2…, boot 90ab12cd…, 10.20.1.10:41234)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8]| match bytes {
            [] => "unknown".to_string(),
            bytes => crate::audit::chain::hex(bytes).chars().take(SHOWN).collect(),
        };
        let name = if self.name.is_empty() { "a machine" } else { &self.name };
        write!(f, "{name} (machine {}, boot {}, {})", short(&self.id), short(&self.boot), self.address)
    }
}

/// Notes a newcomer at `holder`'s seat; what it was noted as before, if it was.
pub(super) fn note(before: Option<Copy>, holder: &Machine, newcomer: &Machine, now_ms: i64) -> Copy {
    let known = before.filter(|copy| copy.machine.id == newcomer.id && copy.machine.boot == newcomer.boot);
    let first_ms = known.as_ref().map_or(now_ms, |copy| copy.first_ms);
    Copy {
        certain: newcomer.is_another(holder) || now_ms - first_ms >= REBOOT_MS,
        machine: newcomer.clone(),
        first_ms,
        last_ms: now_ms,
        times: known.map_or(1, |copy| copy.times + 1),
    }
}

impl Copy {
    /// Whether an operator should hear of it.
    pub fn is_trouble(&self, now_ms: i64) -> bool {
        self.certain && now_ms - self.last_ms < SPOKEN_OF_MS
    }

    /// For lists.
    pub fn in_words(&self, holder: &Machine, now_ms: i64) -> String {
        let ago = span_in_words((now_ms - self.last_ms).max(0).unsigned_abs());
        format!(
            "two machines have this identity: {holder} is served, {} was refused {} times, last {ago} ago",
            self.machine, self.times
        )
    }
}

#[cfg(test)]
#[path = "copies_test.rs"]
mod copies_test;
