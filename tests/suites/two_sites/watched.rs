//! What an operator watches a mesh with: Debian's Prometheus, which scrapes real proxies and the control plane and is asked
//! through its own HTTP API; and, where nothing is installed at all, the last traces in the terminal.

use std::time::Duration;

use isthmus_world::apps::Daemon;
use isthmus_world::mesh::{Mesh, ORDERS_URL, resources};
use isthmus_world::{Command, Host, find};
use serde_json::Value;

use crate::decisions::{asked, ends};
use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("prometheus_scrapes_proxies_and_control_plane_and_knows_rates_quantiles_and_traces", scraped),
    ("prometheus_takes_native_histograms_of_the_same_counts", native),
    ("promtool_finds_nothing_wrong_with_any_page", linted),
];

/// These need no program of others.
pub(crate) const OWN: &[Test] =
    &[("a_trace_is_shown_in_the_terminal_though_no_collector_is_there", traced), ("tap_shows_bytes_too", tapped)];

const SOON: Duration = Duration::from_secs(60);
const REQUESTS: usize = 40;

pub(crate) fn can_run() -> bool {
    find::or_skip(&["prometheus", "promtool", "curl"], "Prometheus, promtool and curl").is_some()
}

/// Beside the control plane, whose page is on loopback.
struct Prometheus<'a> {
    host: &'a Host,
    _daemon: Daemon,
}

impl<'a> Prometheus<'a> {
    fn start(mesh: &'a Mesh, features: &str) -> Result<Prometheus<'a>, String> {
        let host = mesh.world().host("control");
        let job = |name: &str, target: &str| {
            format!("  - {{ job_name: {name}, static_configs: [{{ targets: [\"{target}\"] }}] }}\n")
        };
        let at = |workload: &str| mesh.world().host(workload).socket(15_020).to_string();
        let jobs = job("web", &at("web")) + &job("orders", &at("orders")) + &job("control", "127.0.0.1:15014");
        let configuration =
            format!("global: {{ scrape_interval: 500ms, scrape_timeout: 400ms }}\nscrape_configs:\n{jobs}");
        let daemon = Daemon::start(host, 9090, |directory| {
            let file = directory.join("prometheus.yml");
            std::fs::write(&file, configuration)
                .map_err(|e| isthmus_world::Error::system("writing prometheus.yml", e))?;
            let option = |name: &str, value: String| format!("--{name}={value}");
            Ok(Command::new("prometheus").args([
                option("config.file", file.display().to_string()),
                option("storage.tsdb.path", directory.join("data").display().to_string()),
                option("web.listen-address", "127.0.0.1:9090".to_owned()),
                option("enable-feature", features.to_owned()),
            ]))
        });
        Ok(Prometheus { host, _daemon: daemon.map_err(|e| e.to_string())? })
    }

    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let mut command = Command::new("curl").args(["-sS", "--max-time", "10", "-G"]);
        for (name, value) in parameters {
            command = command.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        let command = command.arg(format!("http://127.0.0.1:9090{path}"));
        let done = self.host.output(command, Duration::from_secs(20)).map_err(|e| e.to_string())?;
        // It has only begun.
        if done.stdout.trim() == "Service Unavailable" {
            return Ok(Value::Null);
        }
        let value: Value = serde_json::from_str(&done.stdout).map_err(|e| format!("{path}: {e}: {done:?}"))?;
        require(value["status"] == "success", || format!("{path} {parameters:?}: {value}"))?;
        Ok(value["data"].clone())
    }

    /// The one number that a query has; none while there is nothing, or it is not a number yet.
    fn number(&self, query: &str) -> Result<Option<f64>, String> {
        let data = self.ask("/api/v1/query", &[("query", query)])?;
        let value = data["result"][0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
        Ok(value.filter(|number| number.is_finite()))
    }

    fn until(&self, mesh: &Mesh, query: &str, is: impl Fn(f64) -> bool) -> Result<f64, String> {
        let mut last = None;
        let found = mesh.until(SOON, query, |_| {
            last = self.number(query)?;
            Ok(last.filter(|number| is(*number)))
        });
        found.map_err(|error| format!("{error}; it is {last:?}"))
    }
}

fn requests(mesh: &Mesh, from: usize) -> Result<Vec<String>, String> {
    let traces = (from..from + REQUESTS).map(|number| format!("{:032x}", 0xfeed_0000 + number));
    let traces: Vec<String> = traces.collect();
    for trace in &traces {
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let answer = mesh.get_with("web", ORDERS_URL, &[("traceparent", &parent)])?;
        require(answer.status == 200, || format!("{} {}", answer.status, answer.body))?;
    }
    Ok(traces)
}

fn scraped(mesh: &mut Mesh) -> Result<(), String> {
    let prometheus = Prometheus::start(mesh, "exemplar-storage")?;
    prometheus.until(mesh, "sum(up)", |up| up == 3.0)?;
    let traces = requests(mesh, 0)?;
    prometheus.until(mesh, r#"sum(isthmus_requests_total{job="web",direction="outbound",status="2xx"})"#, |count| {
        count == REQUESTS as f64
    })?;
    // A rate needs two scrapes with something between them.
    let rate = r#"sum(rate(isthmus_service_requests_total{job="web",service="shop/orders",site="dc1"}[10s]))"#;
    prometheus.until(mesh, r#"sum(isthmus_service_requests_total{job="web",service="shop/orders"})"#, |n| n > 0.0)?;
    requests(mesh, 1_000)?;
    prometheus.until(mesh, rate, |rate| rate > 0.0)?;
    let p99 = r#"histogram_quantile(0.99, sum by (le) (rate(isthmus_request_duration_seconds_bucket{job="web",direction="outbound"}[30s])))"#;
    prometheus.until(mesh, p99, |p99| (0.000_1..10.0).contains(&p99))?;
    prometheus.until(mesh, "isthmus_controlplane_proxies_connected", |count| count == 3.0)?;
    let lag = r#"max(isthmus_controlplane_revision) - max(isthmus_control_version{job="web"})"#;
    prometheus.until(mesh, lag, |lag| lag == 0.0)?;
    for lag in ["max(isthmus_control_lag_seconds)", "max(isthmus_controlplane_lag_seconds)"] {
        prometheus.until(mesh, lag, |lag| lag == 0.0)?;
    }
    let left = r#"min(isthmus_certificate_expiry_timestamp_seconds) - time()"#;
    prometheus.until(mesh, left, |left| left > 0.0 && left < 2.0 * 86_400.0)?;
    prometheus.until(mesh, r#"sum(isthmus_mesh_tls_total{version="1.3"})"#, |count| count >= 2.0)?;
    prometheus.until(mesh, r#"sum by (site) (isthmus_link_rtt_seconds{job="web",site="dc1"})"#, |rtt| rtt > 0.001)?;
    prometheus.until(mesh, "count(process_cpu_seconds_total)", |count| count >= 2.0)?;
    // The control arm: a metric that nobody has.
    require(prometheus.number("isthmus_no_such_total")?.is_none(), || "answers what was not asked".to_owned())?;
    let query = [("query", "isthmus_request_duration_seconds_bucket"), ("start", "0"), ("end", "4000000000")];
    mesh.until(SOON, "an exemplar names a trace of ours", |_| {
        let told = prometheus.ask("/api/v1/query_exemplars", &query)?.to_string();
        Ok(traces.iter().any(|trace| told.contains(trace.as_str())).then_some(()))
    })
}

fn native(mesh: &mut Mesh) -> Result<(), String> {
    let prometheus = Prometheus::start(mesh, "native-histograms,exemplar-storage")?;
    prometheus.until(mesh, "sum(up)", |up| up == 3.0)?;
    requests(mesh, 0)?;
    let series = r#"isthmus_request_duration_seconds{job="web",direction="outbound"}"#;
    let requests_total = r#"sum(isthmus_requests_total{job="web",direction="outbound"})"#;
    let whole = REQUESTS as f64;
    prometheus.until(mesh, requests_total, |count| count == whole)?;
    prometheus.until(mesh, &format!("histogram_count({series})"), |count| count == whole)?;
    let median = prometheus.until(mesh, &format!("histogram_quantile(0.5, {series})"), |p50| p50 > 0.0)?;
    let mean =
        prometheus.until(mesh, &format!("histogram_sum({series}) / histogram_count({series})"), |of| of > 0.0)?;
    // A link of 4 ms: between that and what a loaded machine makes of it.
    require((0.003..5.0).contains(&median) && (0.003..5.0).contains(&mean), || format!("p50 {median}, mean {mean}"))?;
    let none = prometheus.number(r#"sum(isthmus_request_duration_seconds_bucket{job="web"})"#)?;
    require(none.is_none(), || "a native histogram has no series of buckets".to_owned())
}

fn linted(mesh: &mut Mesh) -> Result<(), String> {
    requests(mesh, 0)?;
    let page = |host: &Host, url: &str, accept: &str| {
        let command = Command::new("curl").args(["-sS", "--max-time", "10", "-H", &format!("Accept: {accept}"), url]);
        host.output(command, Duration::from_secs(20)).map(|done| done.stdout).map_err(|e| e.to_string())
    };
    let control = mesh.world().host("control");
    let lint = |what: &str, page: String| {
        let lines = page.lines().count();
        require(lines > 20, || format!("{what}: {lines} lines: {page}"))?;
        let command = Command::new("promtool").args(["check", "metrics"]).input(page);
        let done = control.output(command, Duration::from_secs(20)).map_err(|e| e.to_string())?;
        require(done.status.success() && done.stdout.trim().is_empty() && done.stderr.trim().is_empty(), || {
            format!("{what}: {done:?}")
        })
    };
    for workload in ["web", "orders"] {
        let host = mesh.world().host(workload);
        lint(workload, page(host, "http://127.0.0.1:15020/metrics", "text/plain")?)?;
        let open = page(host, "http://127.0.0.1:15020/metrics", "application/openmetrics-text; version=1.0.0")?;
        require(open.ends_with("# EOF\n") && open.contains("# {trace_id=\""), || open.clone())?;
    }
    lint("control plane", page(control, "http://127.0.0.1:15014/metrics", "text/plain")?)
}

/// What a first user does: a request, and then a look at where its time went.
fn traced(mesh: &mut Mesh) -> Result<(), String> {
    let (_, listed) = asked(mesh, &["trace", "--json"], "")?;
    require(listed["traces"] == serde_json::json!([]) && listed["collector"] == mesh.collector_url().as_str(), || {
        format!("with a collector nothing is kept: {listed}")
    })?;
    mesh.apply(resources::MESH)?;
    let whole = |trace: &Value| trace["spans"].as_u64() >= Some(3) && trace["workload"] == "shop/web";
    let listed = mesh.until(SOON, "a trace of a request is kept", |mesh| {
        let answer = mesh.get("web", ORDERS_URL)?;
        require(answer.status == 200, || format!("{answer:?}"))?;
        let (_, listed) = asked(mesh, &["trace", "--of", "shop/web", "--json"], "")?;
        Ok(listed["traces"].as_array().and_then(|all| all.iter().find(|trace| whole(trace)).cloned()))
    })?;
    let id = listed["traceId"].as_str().unwrap_or_default().to_owned();
    let text = mesh.isthmus(&["trace", &id])?;
    for part in [id.as_str(), "shop/web (azure-eastus)", "shop/orders (dc1)", "where the time went: app ", ", link "] {
        require(text.contains(part), || format!("no `{part}` in\n{text}"))?;
    }
    let (_, trace) = asked(mesh, &["trace", &id[..12], "--json"], "")?;
    let spans = trace["spans"].as_array().cloned().unwrap_or_default();
    let of = |workload: &str| spans.iter().filter(|span| span["workload"] == workload).count();
    require(of("shop/web") >= 2 && of("shop/orders") >= 1, || trace.to_string())?;
    // Each span but the first has its parent among the others.
    let ids: Vec<_> = spans.iter().map(|span| span["spanId"].clone()).collect();
    let rootless = spans.iter().filter(|span| !ids.contains(&span["parentId"])).count();
    require(rootless == 1, || trace.to_string())?;
    // What failed comes first.
    mesh.until(SOON, "a refusal is kept, and listed first", |mesh| {
        require(mesh.get("batch", ORDERS_URL)?.status == 403, || "batch is let in".to_owned())?;
        let (_, listed) = asked(mesh, &["trace", "--json"], "")?;
        Ok((listed["traces"][0]["error"] == "not-allowed").then_some(()))
    })?;
    let (code, _) = mesh.isthmus_with(&["trace", "ffffffffffffffffffffffffffffffff"], "")?;
    ends(code, 1, &Value::Null)
}

/// A connection that is no HTTP, from its end on the callee's side.
fn tapped(mesh: &mut Mesh) -> Result<(), String> {
    let control = mesh.control();
    let command = control.command(&["tap", "--for", "60s", "--json"]);
    let tap = control.host().spawn(command).map_err(|e| e.to_string())?;
    tap.wait_for_line("tap asks", SOON, |line| line.contains("asking 3 proxies")).map_err(|e| e.to_string())?;
    let seen = mesh.until(SOON, "a connection of bytes", |mesh| {
        // Nothing is there: refused on the way, and a connection of bytes all the same.
        let _ = mesh.world().host("batch").run(|| {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(("10.96.0.12", 5432))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"hello")?;
            stream.read(&mut [0; 16])
        });
        let lines = tap.logs();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(events.into_iter().find(|event| event["protocol"] == "tcp" && event["direction"] == "outbound"))
    })?;
    require(seen["caller"].as_str().is_some_and(|caller| caller.ends_with("/sa/batch")), || seen.to_string())?;
    require(seen["callee"] == "shop/orders-db" && seen["reason"] != "", || seen.to_string())
}
