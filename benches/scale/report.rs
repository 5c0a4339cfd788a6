//! What was measured, for people, for RESULTS.md and for machines.

use std::time::Duration;

use serde_json::json;

use crate::Arguments;

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) empty_bytes: u64,
    pub(crate) apply: Duration,
    pub(crate) loaded_bytes: u64,
    pub(crate) store_bytes: u64,
    pub(crate) first_connect: Duration,
    pub(crate) first_sync_bytes: usize,
    pub(crate) connected_bytes: u64,
    pub(crate) unused: Changes,
    pub(crate) few: Changes,
    pub(crate) all: Changes,
    pub(crate) after_changes_bytes: u64,
    pub(crate) storm: Duration,
    pub(crate) storm_cpu: Duration,
    pub(crate) cold_start: Duration,
    pub(crate) cold_start_all: Duration,
    pub(crate) restarted_bytes: u64,
}

/// Of one sort of change.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Until the operator had the answer: stored, on disk.
    pub(crate) acknowledged: Vec<Duration>,
    /// Until a proxy had it; one for each proxy and change.
    pub(crate) reached: Vec<Duration>,
    pub(crate) bytes: usize,
    pub(crate) cpu: Duration,
}

/// The target of one proxy, and those of times.
const PROXY_BYTES: u64 = 32 << 10;
const P99: Duration = Duration::from_millis(250);
const STORM: Duration = Duration::from_secs(10);

impl Report {
    pub(crate) fn text(&self, arguments: &Arguments) -> String {
        if arguments.json {
            return self.json(arguments).to_string();
        }
        let rows = self.rows(arguments);
        if arguments.markdown {
            let lines: Vec<String> =
                rows.iter().map(|(what, value, target)| format!("| {what} | {value} | {target} |")).collect();
            return format!("| what | measured | target |\n|---|---|---|\n{}", lines.join("\n"));
        }
        let width = rows.iter().map(|(what, ..)| what.chars().count()).max().unwrap_or(0);
        let line = |(what, value, target): &(String, String, String)| {
            format!(
                "{what:<width$}  {value}{}",
                if target.is_empty() { String::new() } else { format!("  (target {target})") }
            )
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn per_resource(&self, arguments: &Arguments) -> u64 {
        self.loaded_bytes.saturating_sub(self.empty_bytes) / (arguments.services + arguments.endpoints) as u64
    }

    fn per_proxy(&self, arguments: &Arguments) -> u64 {
        self.connected_bytes.saturating_sub(self.loaded_bytes) / arguments.proxies.max(1) as u64
    }

    fn rows(&self, arguments: &Arguments) -> Vec<(String, String, String)> {
        let row = |what: &str, value: String, target: String| (what.to_owned(), value, target);
        let none = String::new;
        let mut rows = vec![
            row(
                "services, endpoints, proxies",
                format!("{}, {}, {}", arguments.services, arguments.endpoints, arguments.proxies),
                none(),
            ),
            row("all resources as one apply", time(self.apply), none()),
            row("memory per resource", bytes(self.per_resource(arguments)), none()),
            row("memory with all resources", bytes(self.loaded_bytes), none()),
            row("store on disk", bytes(self.store_bytes), none()),
            row("all proxies connect for the first time", time(self.first_connect), none()),
            row("first view of a proxy", bytes((self.first_sync_bytes / arguments.proxies.max(1)) as u64), none()),
            row("memory per idle connected proxy", bytes(self.per_proxy(arguments)), bytes(PROXY_BYTES)),
        ];
        let sorts = [("nobody uses", &self.unused), ("a few use", &self.few), ("all use", &self.all)];
        for (who, changes) in sorts {
            let count = changes.acknowledged.len().max(1);
            rows.push(row(
                &format!("a change that {who}: stored, p50 / p99"),
                percentiles(&changes.acknowledged),
                none(),
            ));
            if !changes.reached.is_empty() {
                let reached =
                    format!("{} ({} proxies each)", percentiles(&changes.reached), changes.reached.len() / count);
                rows.push(row(&format!("a change that {who}: at the proxies, p50 / p99"), reached, time(P99)));
                let each = bytes((changes.bytes / changes.reached.len()) as u64);
                rows.push(row(&format!("a change that {who}: a push"), each, none()));
            }
            let cpu = changes.cpu / u32::try_from(count).unwrap_or(1);
            rows.push(row(&format!("a change that {who}: processor time"), time(cpu), none()));
        }
        rows.extend([
            row("memory after these changes", bytes(self.after_changes_bytes), none()),
            row("all proxies reconnect at once", time(self.storm), time(STORM)),
            row("its processor time", time(self.storm_cpu), none()),
            row("after a crash: from start to ready", time(self.cold_start), none()),
            row("after a crash: until all proxies have their view", time(self.cold_start_all), none()),
            row("memory after that", bytes(self.restarted_bytes), none()),
        ]);
        rows
    }

    fn json(&self, arguments: &Arguments) -> serde_json::Value {
        let both = |all: &[Duration]| [millis(quantile(all, 50)), millis(quantile(all, 99))];
        let changes = |changes: &Changes| {
            json!({
                "storedMs": both(&changes.acknowledged),
                "reachedMs": both(&changes.reached),
                "pushes": changes.reached.len(),
                "pushedBytes": changes.bytes,
                "cpuMs": millis(changes.cpu),
                "changes": changes.acknowledged.len(),
            })
        };
        json!({
            "services": arguments.services, "endpoints": arguments.endpoints, "proxies": arguments.proxies,
            "applyMs": millis(self.apply),
            "bytesPerResource": self.per_resource(arguments),
            "loadedBytes": self.loaded_bytes, "storeBytes": self.store_bytes,
            "firstConnectMs": millis(self.first_connect),
            "bytesPerProxy": self.per_proxy(arguments),
            "unused": changes(&self.unused), "few": changes(&self.few), "all": changes(&self.all),
            "stormMs": millis(self.storm), "stormCpuMs": millis(self.storm_cpu),
            "coldStartMs": millis(self.cold_start), "coldStartAllMs": millis(self.cold_start_all),
        })
    }
}

fn percentiles(all: &[Duration]) -> String {
    format!("{} / {}", time(quantile(all, 50)), time(quantile(all, 99)))
}

/// The smallest that at least so many percent do not exceed.
fn quantile(all: &[Duration], percent: usize) -> Duration {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.2} s"),
        s => format!("{:.2} ms", s * 1000.0),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        b if b >= 10 << 20 => format!("{} MiB", b >> 20),
        b => format!("{:.1} KiB", b as f64 / 1024.0),
    }
}
