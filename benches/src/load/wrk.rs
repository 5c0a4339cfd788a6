//! wrk with one thread and 64 connections, closed loop, and its report read back. An error in the load makes
//! the turn worthless and is told as such.

use std::path::Path;
use std::time::Duration;

use isthmus_world::{Command, Host};

/// Beyond the load's own length: start, end and the slowest answer.
const SLACK: Duration = Duration::from_secs(20);

/// What wrk saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Runs wrk on `host` against `url`.
pub(crate) fn wrk(program: &Path, host: &Host, url: &str, connections: u32, length: Duration) -> Result<Load, String> {
    let command = Command::new(program)
        .args(["-t1", "--latency"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{}s", length.as_secs().max(1)))
        .arg(url);
    let done = host.output(command, length + SLACK).map_err(|error| error.to_string())?;
    if !done.status.success() {
        return Err(format!("wrk {url}: {}: {}{}", done.status, done.stdout, done.stderr));
    }
    parse(&done.stdout).map_err(|error| format!("wrk {url}: {error}:\n{}", done.stdout))
}

fn parse(report: &str) -> Result<Load, String> {
    for wrong in ["Socket errors:", "Non-2xx or 3xx responses:"] {
        if let Some(line) = report.lines().find(|line| line.trim_start().starts_with(wrong)) {
            return Err(format!("requests failed ({})", line.trim()));
        }
    }
    let missing = |what: &str| format!("no {what} in its report");
    let requests = number_before(report, " requests in ").ok_or_else(|| missing("number of requests"))?;
    let rate = report.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    let requests_per_second = rate.and_then(|text| text.trim().parse().ok()).ok_or_else(|| missing("rate"))?;
    let percentile = |percent: &str| {
        let value = report.lines().find_map(|line| line.trim_start().strip_prefix(percent));
        value.and_then(|text| microseconds(text.trim())).ok_or_else(|| missing(percent))
    };
    if requests < 1.0 {
        return Err("no request was answered".to_owned());
    }
    Ok(Load { requests, requests_per_second, p50_us: percentile("50%")?, p99_us: percentile("99%")? })
}

fn number_before(report: &str, word: &str) -> Option<f64> {
    report.lines().find_map(|line| line.split_once(word)?.0.trim().parse().ok())
}

/// wrk's way to write a time: `512.00us`, `1.41ms`, `1.02s`, `2.00m`.
fn microseconds(text: &str) -> Option<f64> {
    // `ms` before `s`: it ends with one.
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
#[path = "wrk_test.rs"]
mod wrk_test;
