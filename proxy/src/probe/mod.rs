//! Whether the app beside us can take traffic: asked again and again, as the configuration says, and told to the control
//! plane, which leaves it out of every view while it cannot. In the same way [`others`] asks endpoints outside of the mesh.
//!
//! One probe at a time, each with a deadline; what an app answers is read up to a bound. A command runs without a shell,
//! with an empty environment, and is killed with all it started when its time is over.

mod command;
mod grpc;
mod http;
mod judge;
pub mod others;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::tcp::{DialOptions, dial};
use judge::Judge;

#[cfg(test)]
#[path = "probe_test.rs"]
mod probe_test;

/// What is asked, how often, and what it takes to believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub how: How,
    pub interval: Duration,
    pub timeout: Duration,
    /// So many failures in a row: not ready.
    pub failures: u32,
    /// So many successes in a row: ready again.
    pub successes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It accepts.
    Tcp(SocketAddr),
    /// It answers GET with 200 to 399.
    Http { at: SocketAddr, path: String },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc { at: SocketAddr, service: String },
    /// It ends with 0.
    Command { program: PathBuf, arguments: Vec<String> },
}

/// What is known of the app. Told on, word for word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub ready: bool,
    /// Of the last probe that failed.
    pub reason: String,
}

/// Asks until `stop`. Nothing is known before the first answer, and that is told as "not ready".
pub async fn keep(probe: Probe, options: DialOptions, told: watch::Sender<Option<Health>>, stop: CancellationToken) {
    let mut judge = Judge::new(probe.failures, probe.successes);
    told.send_replace(Some(judge.health()));
    loop {
        let next = Instant::now() + probe.interval;
        let asked = tokio::select! {
            asked = ask(&probe, options) => asked,
            () = stop.cancelled() => return,
        };
        if let Some(health) = judge.hear(asked) {
            match health.ready {
                true => tracing::info!("the app is ready"),
                false => tracing::warn!(reason = health.reason, "the app is not ready: it gets no traffic"),
            }
            told.send_replace(Some(health));
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn ask(probe: &Probe, options: DialOptions) -> Result<(), String> {
    let asked = async {
        match &probe.how {
            How::Tcp(at) => dial(*at, options).await.map(drop).map_err(|error| format!("{at}: {error}")),
            How::Http { at, path } => http::ask(*at, path, options).await,
            How::Grpc { at, service } => grpc::ask(*at, service, options).await,
            How::Command { program, arguments } => command::ask(program, arguments).await,
        }
    };
    let late = || Err(format!("{}: no answer within {} ms", probe.how, probe.timeout.as_millis()));
    timeout(probe.timeout, asked).await.unwrap_or_else(|_| late())
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            How::Tcp(at) => write!(f, "{at}"),
            How::Http { at, path } => write!(f, "GET http://{at}{path}"),
            How::Grpc { at, service } => write!(f, "gRPC health of `{service}` at {at}"),
            // Its arguments may be nobody's business.
            How::Command { program, .. } => write!(f, "{}", program.display()),
        }
    }
}
