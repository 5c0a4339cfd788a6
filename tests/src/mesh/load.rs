//! Constant load from `web` to `orders`, so that a line can say "0 failed" about something.

use super::{Mesh, ORDERS_URL};
use crate::apps::load::{Generator, Outcome};

/// Requests a second: enough that a gap of 10 ms is seen, little enough for two busy cores.
const RATE: u32 = 200;
const CONNECTIONS: usize = 8;

/// Load that goes on until it is stopped.
pub struct Load(Generator);

/// What became of it.
#[derive(Debug, Clone)]
pub struct LoadResult {
    pub ok: u64,
    pub failed: u64,
    outcome: Outcome,
}

impl Mesh {
    /// Starts the load.
    pub fn load(&self) -> Result<Load, String> {
        let generator = Generator::start(self.world().host("web"), ORDERS_URL, RATE, CONNECTIONS);
        generator.map(Load).map_err(|e| e.to_string())
    }
}
