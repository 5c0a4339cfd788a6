//! A load of constant rate over keep-alive connections. Open loop: requests are due by the clock, whatever became of the
//! ones before, and a latency counts from when the request was due. So a stall shows in every request that it delayed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::client::{Connection, Request};
use crate::host::{Host, Task};

/// Latencies that are kept: at 1,000 requests per second a quarter of an hour.
const KEPT: usize = 1_000_000;

/// A constant rate of one request.
#[derive(Debug, Clone)]
pub struct Load {
    request: Request,
    per_second: u32,
    connections: u32,
    deadline: Duration,
}

/// A load while it runs. Dropping it ends it.
pub struct RunningLoad {
    host: Host,
    seen: Arc<Mutex<LoadReport>>,
    stop: watch::Sender<bool>,
    connections: Vec<Task<()>>,
}

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Requests answered 200.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// The first failure, with its cause.
    pub first_error: Option<String>,
    /// Latencies of the answered ones, sorted.
    pub latencies: Vec<Duration>,
}

impl Load {
    /// `per_second` times this request, spread over 4 connections, each answer due within 5 s.
    pub fn new(request: Request, per_second: u32) -> Self {
        Self { request, per_second: per_second.max(1), connections: 4, deadline: Duration::from_secs(5) }
    }

    /// Over that many connections.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// An answer that takes longer is a failure.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts it in `host`.
    pub fn start(self, host: &Host) -> RunningLoad {
        let seen = Arc::new(Mutex::new(LoadReport::default()));
        let (stop, stopped) = watch::channel(false);
        let connections = (0..self.connections)
            .map(|number| host.tokio(drive(self.clone(), number, Arc::clone(&seen), stopped.clone())))
            .collect();
        RunningLoad { host: host.clone(), seen, stop, connections }
    }
}

impl RunningLoad {
    /// What came of it so far.
    pub fn report(&self) -> LoadReport {
        sorted(lock(&self.seen).clone())
    }

    /// Sends nothing more, waits for the answers that are due, and reports.
    pub fn stop(mut self) -> LoadReport {
        // The receivers live in the tasks; without tasks there is nothing to stop.
        let _ = self.stop.send(true);
        let connections = std::mem::take(&mut self.connections);
        self.host.block_on(async move {
            for connection in connections {
                connection.join().await;
            }
        });
        self.report()
    }
}

impl LoadReport {
    /// The latency that this part (0 to 1) of the requests did not exceed.
    pub fn percentile(&self, part: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        // A position in a list: between 0 and its length.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=last")]
        let position = ((last as f64 * part.clamp(0.0, 1.0)).round() as usize).min(last);
        self.latencies.get(position).copied().unwrap_or_default()
    }
}

/// One connection's share: opened when needed, kept while it works.
async fn drive(load: Load, number: u32, seen: Arc<Mutex<LoadReport>>, mut stopped: watch::Receiver<bool>) {
    let period = Duration::from_secs(1) * load.connections / load.per_second;
    // Each connection starts at its own part of the period, so that the whole is even.
    let mut due = interval_at(Instant::now() + period * number / load.connections, period);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut connection = None;
    loop {
        let scheduled = tokio::select! {
            biased;
            _ = stopped.changed() => return,
            scheduled = due.tick() => scheduled,
        };
        let result = match timeout(load.deadline, request(&load.request, &mut connection)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", load.deadline.as_millis())),
        };
        // A bad answer is no reason to leave the connection; a lost one is, and one that answers too late.
        let result = result.unwrap_or_else(|broken| {
            connection = None;
            Err(broken)
        });
        record(&seen, result, scheduled.elapsed());
    }
}

/// The outer error is of the connection, the inner one of the answer.
async fn request(request: &Request, connection: &mut Option<Connection>) -> Result<Result<(), String>, String> {
    let uri = request.uri()?;
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Box::pin(Connection::open(&uri, request.target(), None)).await?),
    };
    let response = open.send(&request.as_hyper(&uri)?).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("body: {error}"))?.to_bytes();
    if head.status != hyper::StatusCode::OK {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        return Ok(Err(format!("status {}: {text}", head.status)));
    }
    Ok(Ok(()))
}

fn record(seen: &Mutex<LoadReport>, result: Result<(), String>, latency: Duration) {
    let mut report = lock(seen);
    match result {
        Ok(()) => {
            report.ok += 1;
            if report.latencies.len() < KEPT {
                report.latencies.push(latency);
            }
        }
        Err(error) => {
            report.failed += 1;
            report.first_error.get_or_insert(error);
        }
    }
}

fn sorted(mut report: LoadReport) -> LoadReport {
    report.latencies.sort_unstable();
    report
}

fn lock(seen: &Mutex<LoadReport>) -> MutexGuard<'_, LoadReport> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
