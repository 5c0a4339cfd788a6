//! The page's part about this process, by the names that every Prometheus client uses. Read from /proc at a scrape; what
//! cannot be read is left out.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::names;
use super::page::Page;

pub(super) fn render(page: &mut Page) {
    if let Some(times) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Times::read) {
        page.single(names::PROCESS_CPU, hundredths(times.cpu));
        if let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time) {
            page.single(names::PROCESS_START, hundredths(boot + times.started));
        }
    }
    if let Some(pages) = fs::read_to_string("/proc/self/statm").ok().as_deref().and_then(resident) {
        page.single(names::PROCESS_MEMORY, pages.saturating_mul(page_size() as u64));
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The directory itself is open while it is read.
        page.single(names::PROCESS_FDS, open.count().saturating_sub(1));
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        page.single(names::PROCESS_MAX_FDS, most);
    }
}

/// The kernel counts in no smaller ones.
fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

/// In seconds; the start is counted from boot.
struct Times {
    cpu: f64,
    started: f64,
}

impl Times {
    /// proc_pid_stat(5): utime, stime and starttime are fields 14, 15 and 22. The second, the command's name, may hold
    /// anything and ends with the last parenthesis.
    fn read(stat: &str) -> Option<Times> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let (user, system): (u64, u64) = (fields.nth(11)?.parse().ok()?, fields.next()?.parse().ok()?);
        let started: u64 = fields.nth(6)?.parse().ok()?;
        let per_second = clock_ticks_per_second() as f64;
        Some(Times { cpu: (user + system) as f64 / per_second, started: started as f64 / per_second })
    }
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// proc_pid_statm(5): the second field, in pages.
fn resident(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
#[path = "process_page_test.rs"]
mod process_page_test;
