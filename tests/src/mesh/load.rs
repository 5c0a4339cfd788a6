//! Constant load from `web` to `orders`, so that a line can say "0 failed" about something.

use super::{Mesh, ORDERS_URL};
use crate::apps::{self, LoadReport, Request, RunningLoad};

/// Requests a second: enough that a gap of 10 ms is seen, little enough for two busy cores.
const RATE: u32 = 200;
const CONNECTIONS: u32 = 8;

/// Load that goes on until it is stopped.
pub struct Load(RunningLoad);

/// What became of it.
#[derive(Debug, Clone)]
pub struct LoadResult {
    pub ok: u64,
    pub failed: u64,
    first_error: Option<String>,
}

impl Mesh {
    /// Starts the load.
    pub fn load(&self) -> Load {
        self.load_on(ORDERS_URL)
    }

    /// The same on another service.
    pub fn load_on(&self, url: &str) -> Load {
        let load = apps::Load::new(Request::get(url), RATE).connections(CONNECTIONS);
        Load(load.start(self.world().host("web")))
    }
}

impl Load {
    /// Requests answered so far.
    pub fn so_far(&self) -> u64 {
        self.0.report().ok
    }

    /// Ends it in order.
    pub fn stop(self) -> LoadResult {
        let LoadReport { ok, failed, first_error, .. } = self.0.stop();
        LoadResult { ok, failed, first_error }
    }
}

impl LoadResult {
    pub fn total(&self) -> u64 {
        self.ok + self.failed
    }

    pub fn first_error(&self) -> &str {
        self.first_error.as_deref().unwrap_or("no reason given")
    }
}
