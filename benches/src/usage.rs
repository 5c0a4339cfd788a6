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

/// What the proxies used during a load: one after the other as they are given.
pub(crate) fn during<T>(
    proxies: &[Process],
    load: impl FnOnce() -> Result<T, String>,
) -> Result<(T, Vec<CpuSeconds>), String> {
    let look = || proxies.iter().map(CpuSeconds::of).collect::<Result<Vec<_>, _>>();
    let before = look()?;
    let result = load()?;
    let used = look()?.into_iter().zip(before).map(|(after, before)| after - before).collect();
    Ok((result, used))
}

/// Of all of them.
pub(crate) fn total(used: &[CpuSeconds]) -> f64 {
    used.iter().map(|one| one.total()).sum()
}

/// The share of it that was spent in user mode; none where nothing was used.
pub(crate) fn user_share(used: &[CpuSeconds]) -> Option<f64> {
    let total = total(used);
    (total > 0.0).then(|| used.iter().map(|one| one.user).sum::<f64>() / total)
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
