//! The last traces, for `isthmus trace`: kept in memory while no collector is configured, so that a first user sees where
//! the time went without installing one. Never on disk, and never a replacement of a collector.
//!
//! In the order of a report: [`Intake`] (does the proxy speak for its workload, can it be read) → [`store`], which is
//! bounded by count, bytes and age → [`crate::admin`], which shows an operator what a role allows.

pub mod store;

use crate::ledger::Ledger;
use crate::push::registry::Registry;
use crate::serve::{Peer, required_identity};
use crate::speaks::speaks_for;
use isthmus_proto::traces::v1 as wire;
use isthmus_proto::traces::v1::traces_server::Traces;
use std::sync::Arc;
use store::{Refused, TraceStore};
use tonic::{Request, Response, Status};

/// Of one call: 1,024 spans of about 1 KiB.
pub const MOST_REPORT: usize = 2 << 20;
/// So many reports a second are taken from the whole mesh: with more proxies each is asked to report less often.
const REPORTS_PER_SECOND: u32 = 500;
const SHORTEST_MS: u32 = 1_000;
const LONGEST_MS: u32 = 60_000;
const MOST_SPANS: u32 = 512;

/// The service that proxies tell their spans to.
#[derive(Clone, Debug)]
pub struct Intake {
    pub ledger: Arc<Ledger>,
    pub registry: Arc<Registry>,
    pub store: Arc<TraceStore>,
}

#[tonic::async_trait]
impl Traces for Intake {
    async fn report(&self, request: Request<wire::ReportRequest>) -> Result<Response<wire::ReportResponse>, Status> {
        let peer = required_identity(request.extensions().get::<Peer>())?;
        let wire::ReportRequest { workload, spans } = request.into_inner();
        speaks_for(&self.ledger, &peer, &workload)?;
        if !self.ledger.world().mesh.otlp.is_empty() {
            return Err(Status::failed_precondition("a collector is configured: spans go there"));
        }
        self.store.take(&workload, spans, self.ledger.clock().now_ms());
        Ok(Response::new(wire::ReportResponse { next_ms: self.next_ms(), most: MOST_SPANS }))
    }
}

impl Intake {
    fn next_ms(&self) -> u32 {
        let proxies = u32::try_from(self.registry.connected()).unwrap_or(u32::MAX);
        (proxies.saturating_mul(1_000) / REPORTS_PER_SECOND).clamp(SHORTEST_MS, LONGEST_MS)
    }
}

/// A trace that was asked for, by its id or how that begins.
pub(crate) fn status_of(refused: Refused, asked: &str) -> Status {
    match refused {
        Refused::NoId => Status::invalid_argument(format!("`{asked}` is no trace id: 4 to 32 hexadecimal digits")),
        Refused::Unknown => Status::not_found(format!(
            "no trace {asked} is kept here; the last ones are (isthmus trace lists them), for an hour at most"
        )),
        Refused::Several => {
            Status::invalid_argument(format!("more than one trace begins with {asked}; write more of it"))
        }
    }
}
