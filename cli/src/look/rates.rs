//! Rates and latencies out of counts: each proxy tells its whole counts once a second, and the difference of two is what
//! passed between them. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use isthmus_proto::live::v1::{Batch, Edge};

/// What rows are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// A service, as all its callers see it.
    Service,
    /// A caller's workload and the service that it calls.
    Edge,
    /// The site that answered, as its callers see it.
    Site,
    /// A workload and the identity that calls it, as the workload sees it.
    Caller,
}

/// What is known of every proxy.
#[derive(Debug)]
pub(crate) struct Rates {
    /// How far back a rate looks.
    window: Duration,
    proxies: BTreeMap<String, VecDeque<(Instant, Vec<Edge>)>>,
    bounds_us: Vec<u64>,
}

/// One row of a table, as rates per second.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) requests: f64,
    /// Of the answers, those that are not 5xx. None without answers.
    pub(crate) success: Option<f64>,
    /// Of the requests, those whose caller did not wait for the answer: nobody knows what that would have been. None
    /// without requests.
    pub(crate) left: Option<f64>,
    pub(crate) connections: f64,
    pub(crate) bytes: f64,
    /// p50, p95, p99 in microseconds.
    pub(crate) latency_us: Option<[u64; 3]>,
}

#[derive(Debug, Default)]
struct Sum {
    requests: f64,
    failed: f64,
    left: f64,
    connections: f64,
    bytes: f64,
    buckets: Vec<f64>,
}

impl Rates {
    pub(crate) fn new(window: Duration) -> Rates {
        Rates { window, proxies: BTreeMap::new(), bounds_us: Vec::new() }
    }

    pub(crate) fn take(&mut self, batch: Batch, now: Instant) {
        if batch.bounds_us.is_empty() {
            return;
        }
        self.bounds_us = batch.bounds_us;
        let seen = self.proxies.entry(batch.workload).or_default();
        seen.push_back((now, batch.edges));
        // One that is as old as the window stays, to look back to.
        while seen.len() > 2 && seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= self.window) {
            seen.pop_front();
        }
    }

    /// Proxies that have told twice.
    pub(crate) fn measured(&self) -> usize {
        self.proxies.values().filter(|seen| seen.len() > 1).count()
    }

    /// The busiest first.
    pub(crate) fn rows(&self, by: By) -> Vec<Row> {
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for (workload, seen) in &self.proxies {
            let (Some((from, before)), Some((to, after))) = (seen.front(), seen.back()) else { continue };
            let seconds = to.duration_since(*from).as_secs_f64();
            if seconds <= 0.0 {
                continue;
            }
            for edge in after {
                let Some(name) = name(by, workload, edge) else { continue };
                let same = |other: &&Edge| {
                    (other.inbound, &other.name, other.port, &other.site)
                        == (edge.inbound, &edge.name, edge.port, &edge.site)
                };
                sums.entry(name).or_default().add(before.iter().find(same), edge, seconds);
            }
        }
        let mut rows: Vec<Row> = sums.into_iter().map(|(name, sum)| sum.row(name, &self.bounds_us)).collect();
        rows.retain(|row| row.requests > 0.0 || row.connections > 0.0);
        rows.sort_by(|a, b| (b.requests + b.connections).total_cmp(&(a.requests + a.connections)));
        rows
    }
}

fn name(by: By, workload: &str, edge: &Edge) -> Option<String> {
    match by {
        By::Service => (!edge.inbound).then(|| format!("{}:{}", edge.name, edge.port)),
        By::Edge => (!edge.inbound).then(|| format!("{workload} -> {}:{}", edge.name, edge.port)),
        By::Site if edge.inbound => None,
        By::Site if edge.site.is_empty() => Some("no sidecar".to_owned()),
        By::Site => Some(edge.site.clone()),
        By::Caller => edge.inbound.then(|| format!("{} -> {workload}:{}", edge.name, edge.port)),
    }
}

impl Sum {
    /// A process that began anew has smaller counts: they count from 0.
    fn add(&mut self, before: Option<&Edge>, after: &Edge, seconds: f64) {
        let zero = Edge::default();
        let restarted = before.is_some_and(|before| before.requests.iter().sum::<u64>() > after.requests.iter().sum());
        let before = before.filter(|_| !restarted).unwrap_or(&zero);
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        for (class, after) in after.requests.iter().enumerate() {
            let rate = rate(before.requests.get(class).copied().unwrap_or(0), *after);
            self.requests += rate;
            match class {
                0 => self.left += rate,
                5 => self.failed += rate,
                _ => {}
            }
        }
        self.buckets.resize(self.buckets.len().max(after.buckets.len()), 0.0);
        for (at, (sum, after)) in self.buckets.iter_mut().zip(&after.buckets).enumerate() {
            *sum += rate(before.buckets.get(at).copied().unwrap_or(0), *after);
        }
        self.connections += rate(before.connections, after.connections);
        self.bytes += rate(before.to_callee, after.to_callee) + rate(before.from_callee, after.from_callee);
    }

    fn row(self, name: String, bounds_us: &[u64]) -> Row {
        let Sum { requests, failed, left, connections, bytes, buckets } = self;
        let answered = requests - left;
        Row {
            name,
            requests,
            success: (answered > 0.0).then(|| 1.0 - failed / answered),
            left: (requests > 0.0).then(|| left / requests),
            connections,
            bytes,
            latency_us: (requests > 0.0).then(|| [0.5, 0.95, 0.99].map(|part| quantile(&buckets, bounds_us, part))),
        }
    }
}

/// As Prometheus has it: evenly spread within a bucket; what is above the last bound is at it.
fn quantile(buckets: &[f64], bounds_us: &[u64], part: f64) -> u64 {
    let wanted = buckets.iter().sum::<f64>() * part;
    let (mut below, mut from) = (0.0, 0);
    for (count, bound) in buckets.iter().zip(bounds_us) {
        if below + count >= wanted && *count > 0.0 {
            return from + ((*bound - from) as f64 * (wanted - below) / count).round() as u64;
        }
        (below, from) = (below + count, *bound);
    }
    from
}

#[cfg(test)]
#[path = "rates_test.rs"]
mod rates_test;
