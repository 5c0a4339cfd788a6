//! The exporter and receivers that we did not write: Python's opentelemetry-proto under grpcio, and Python's own HTTP server.
//! Well, slow, and refusing.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::super::metrics::Metrics;
use super::super::span::Kind;
use super::super::tracer::{ExportTarget, Tracer};
use super::run_exporter;
use crate::tcp::DialOptions;

const RECEIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/otlp_receiver.py");

struct Receiver {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Receiver {
    /// `None`: Python or its packages are missing, which proves nothing, and is said.
    async fn start(how: &str, port: u16, manner: &str) -> Option<Receiver> {
        let packages = std::env::var_os("ISTHMUS_TEST_PYTHON");
        let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        let Some(packages) = packages else {
            assert!(!ci, "CI is set and ISTHMUS_TEST_PYTHON is not");
            eprintln!("SKIPPED: OTLP to Python: ISTHMUS_TEST_PYTHON names no directory of packages");
            return None;
        };
        let mut command = Command::new("python3");
        command.arg(RECEIVER).arg(how).arg(port.to_string()).arg(manner).env("PYTHONPATH", packages);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("python3 runs");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap().expect("the receiver begins: its stderr says why not");
        let port = first.strip_prefix("listening ").unwrap().parse().unwrap();
        Some(Receiver { _child: child, lines, port })
    }

    async fn next(&mut self) -> Json {
        serde_json::from_str(&self.lines.next_line().await.unwrap().expect("an export")).unwrap()
    }
}

struct Exporting {
    metrics: Metrics,
    tracer: Tracer,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn export(how: &str, port: u16) -> Exporting {
    let metrics = Metrics::new(1);
    let (tracer, queue) = Tracer::with_capacity(&metrics, 64);
    let path = if how == "http" { "/v1/traces" } else { "" };
    let endpoint = Some(format!("http://127.0.0.1:{port}{path}").parse().unwrap());
    let resource = vec![("service.name".into(), "web".to_owned())];
    tracer.configure(ExportTarget { endpoint, sampling: 1.0, resource, ..ExportTarget::default() });
    let stop = CancellationToken::new();
    let task = tokio::spawn(run_exporter(queue, DialOptions::default(), stop.clone()));
    Exporting { metrics, tracer, stop, task }
}

impl Exporting {
    fn record(&self, name: &'static str) -> String {
        let root = self.tracer.root();
        let mut span = root.child().span(Kind::Server, name, self.tracer.now_ns()).unwrap();
        span.set("url.path", "/a");
        span.set("http.response.status_code", 500u16);
        span.set("tls.established", true);
        span.fail("timeout");
        span.end_ns = self.tracer.now_ns();
        self.tracer.record(span);
        root.trace_id.to_string()
    }

    fn count(&self, series: &str) -> u64 {
        let page = self.metrics.render();
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap()
    }

    async fn until(&self, series: &str, least: u64) {
        while self.count(series) < least {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(90), test).await.expect("in time");
}

#[tokio::test]
async fn another_ones_receiver_reads_every_span() {
    in_time(async {
        for how in ["grpc", "http"] {
            let Some(mut receiver) = Receiver::start(how, 0, "ok").await else { return };
            let exporting = export(how, receiver.port);
            let trace = exporting.record("GET");
            let got = receiver.next().await;
            // grpcio takes it off without a word.
            assert!(how == "grpc" || got["encoding"] == "gzip", "{got}");
            assert_eq!(got["resource"]["service.name"], "web");
            let span = &got["spans"][0];
            assert_eq!((&span["trace"], &span["name"]), (&Json::from(trace), &Json::from("GET")));
            assert_eq!((&span["kind"], &span["status"]), (&Json::from(2), &Json::from(2)), "server, error");
            assert_eq!(span["parent"].as_str().unwrap().len(), 16);
            assert!(span["end"].as_u64() >= span["start"].as_u64());
            let attributes = &span["attributes"];
            assert_eq!(attributes["http.response.status_code"], 500);
            assert_eq!(
                (&attributes["tls.established"], &attributes["url.path"]),
                (&Json::from(true), &Json::from("/a"))
            );
            exporting.until("isthmus_spans_exported_total", 1).await;
            exporting.end().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_receiver_that_refuses_is_asked_once_and_what_it_refused_is_counted() {
    in_time(async {
        for how in ["grpc", "http"] {
            let Some(receiver) = Receiver::start(how, 0, "refuse").await else { return };
            let exporting = export(how, receiver.port);
            exporting.record("GET");
            exporting.until("isthmus_spans_dropped_total{reason=\"refused\"}", 1).await;
            assert_eq!(exporting.count("isthmus_spans_exported_total"), 0);
            exporting.end().await;
        }
    })
    .await;
}

/// What is recorded never waits, and no more is held than the queue and one batch.
#[tokio::test]
async fn a_receiver_that_never_answers_costs_a_queue_and_no_time() {
    in_time(async {
        for how in ["grpc", "http"] {
            let Some(receiver) = Receiver::start(how, 0, "slow").await else { return };
            let exporting = export(how, receiver.port);
            // The first ones are under way; the queue holds 64 more.
            exporting.record("GET");
            tokio::time::sleep(Duration::from_millis(600)).await;
            let began = std::time::Instant::now();
            for _ in 0..10_000 {
                exporting.record("GET");
            }
            assert!(began.elapsed() < Duration::from_secs(5), "{how}: {:?}", began.elapsed());
            assert_eq!(exporting.count("isthmus_spans_dropped_total{reason=\"queue-full\"}"), 10_000 - 64);
            let began = std::time::Instant::now();
            exporting.end().await;
            assert!(began.elapsed() < Duration::from_secs(8), "stopping does not wait for it: {:?}", began.elapsed());
        }
    })
    .await;
}
