//! What the proxies used: processor time in user and kernel mode from `/proc/PID/stat`. The kernel scales the two to its
//! exact sum of run time, so that only the split is sampled; a tick (10 ms) is small against seconds of load.

use std::fs;
use std::ops::Sub;

use isthmus_world::Process;
use rustix::param::clock_ticks_per_second;

/// Processor time in seconds, of all threads of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CpuSeconds {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl CpuSeconds {
    pub(crate) fn of(process: &Process) -> Result<Self, String> {
        let path = format!("/proc/{}/stat", process.id());
        let stat =
            fs::read_to_string(&path).map_err(|error| format!("{} has ended ({path}: {error})", process.label()))?;
        parse(&stat, clock_ticks_per_second()).ok_or_else(|| format!("{path} is not as proc_pid_stat(5) says: {stat}"))
    }

    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Sub for CpuSeconds {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }
}

/// Fields 14 and 15; the second field is a name in parentheses that may itself hold spaces and parentheses.
fn parse(stat: &str, ticks_per_second: u64) -> Option<CpuSeconds> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut seconds = || -> Option<f64> { Some(fields.next()?.parse::<u32>().ok()? as f64 / ticks_per_second as f64) };
    Some(CpuSeconds { user: seconds()?, system: seconds()? })
}

#[cfg(test)]
#[path = "usage_test.rs"]
mod usage_test;
