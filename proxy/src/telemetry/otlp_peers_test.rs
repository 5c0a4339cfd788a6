//! The exporter and receivers that we did not write: Python's opentelemetry-proto under grpcio, and Python's own HTTP server.
//! Well, down, busy, restarted, slow, and refusing.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
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
    async fn start(how: &str, manner: &str) -> Option<Receiver> {
        let packages = std::env::var_os("ISTHMUS_TEST_PYTHON");
        let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        let Some(packages) = packages else {
            assert!(!ci, "CI is set and ISTHMUS_TEST_PYTHON is not");
            eprintln!("SKIPPED: OTLP to Python: ISTHMUS_TEST_PYTHON names no directory of packages");
            return None;
        };
        let mut command = Command::new("python3");
        command.args([RECEIVER, how, "0", manner]).env("PYTHONPATH", packages);
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
            let Some(mut receiver) = Receiver::start(how, "ok").await else { return };
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
            let Some(receiver) = Receiver::start(how, "refuse").await else { return };
            let exporting = export(how, receiver.port);
            exporting.record("GET");
            exporting.until("isthmus_spans_dropped_total{reason=\"refused\"}", 1).await;
            assert_eq!(exporting.count("isthmus_spans_exported_total"), 0);
            exporting.end().await;
        }
    })
    .await;
}

/// No more is held than the queue and one batch; and that nothing waits shows in that this ends, with one thread for all.
#[tokio::test]
async fn a_receiver_that_never_answers_costs_a_queue_and_no_time() {
    in_time(async {
        for how in ["grpc", "http"] {
            let Some(mut receiver) = Receiver::start(how, "slow").await else { return };
            let exporting = export(how, receiver.port);
            exporting.record("GET");
            // That one is under way, and the queue empty.
            assert_eq!(receiver.next().await, "asked");
            for _ in 0..10_000 {
                exporting.record("GET");
            }
            assert_eq!(exporting.count("isthmus_spans_dropped_total{reason=\"queue-full\"}"), 10_000 - 64);
            exporting.end().await;
        }
    })
    .await;
}

/// Where the exporter sends to: a listener that stays, whoever is behind it. No port is given away and wanted back.
struct Door {
    port: u16,
    behind: watch::Sender<Option<u16>>,
    knocks: watch::Receiver<u64>,
}

impl Door {
    async fn closed() -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (behind, seen) = watch::channel(None);
        let (knocked, knocks) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((outer, _)) = listener.accept().await {
                let mut seen = seen.clone();
                let behind = *seen.borrow_and_update();
                if let Some(port) = behind {
                    tokio::spawn(carry(outer, port, seen));
                }
                knocked.send_modify(|count| *count += 1);
            }
        });
        Door { port, behind, knocks }
    }

    /// From now on to this one, or to nobody. Connections to whoever was there before break.
    fn to(&self, receiver: Option<&Receiver>) {
        self.behind.send_replace(receiver.map(|receiver| receiver.port));
    }

    /// Somebody has tried since `before`.
    async fn knocked(&mut self, before: u64) {
        self.knocks.wait_for(|count| *count > before).await.unwrap();
    }
}

async fn carry(mut outer: TcpStream, port: u16, mut seen: watch::Receiver<Option<u16>>) {
    let Ok(mut inner) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut outer, &mut inner) => {}
        _ = seen.changed() => {}
    }
}

#[tokio::test]
async fn a_receiver_that_was_down_or_busy_or_restarted_gets_what_comes_and_what_waited() {
    const FAILED: &str = "isthmus_spans_dropped_total{reason=\"export-failed\"}";
    in_time(async {
        for how in ["grpc", "http"] {
            let Some(busy) = Receiver::start(how, "busy").await else { return };
            let (Some(mut one), Some(mut two)) = (Receiver::start(how, "ok").await, Receiver::start(how, "ok").await)
            else {
                return;
            };
            let mut door = Door::closed().await;
            let exporting = export(how, door.port);
            // Down, and then busy, for longer than it is tried: given up, and counted.
            exporting.record("GET");
            exporting.until(FAILED, 1).await;
            door.to(Some(&busy));
            exporting.record("GET");
            exporting.until(FAILED, 2).await;
            // Down for one try: what waited is there when it is back.
            door.to(None);
            let before = *door.knocks.borrow();
            let waited = exporting.record("GET");
            door.knocked(before).await;
            door.to(Some(&one));
            assert_eq!(one.next().await["spans"][0]["trace"], waited.as_str(), "{how}: nothing was lost");
            exporting.until("isthmus_spans_exported_total", 1).await;
            // Another process, and the connection to the first one gone.
            drop(one);
            door.to(Some(&two));
            let after = exporting.record("GET");
            assert_eq!(two.next().await["spans"][0]["trace"], after.as_str(), "{how}: after a restart");
            exporting.until("isthmus_spans_exported_total", 2).await;
            assert_eq!(exporting.count(FAILED), 2);
            exporting.end().await;
        }
    })
    .await;
}
