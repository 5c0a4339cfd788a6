//! What the proxies decided, kept for a while: reports in, answers about the past out.
//!
//! In the order of a report: [`Intake`] (is it the proxy's own workload, can it be read) → one writer, which puts what
//! came together into one transaction and answers when it is on disk → [`store`]. [`query`] reads. What is kept is bounded
//! by age, count and bytes, and lives in a file of its own: a damaged one is put aside and costs the past, not the policy.

mod open;
pub mod query;
pub mod store;

use crate::ledger::{Ledger, World};
use crate::push::registry::Registry;
use crate::serve::{Peer, required_identity};
use crate::speaks::speaks_for;
use crate::validate::resource::{Kept, Spec};
use ipnet::IpNet;
use isthmus_proto::flows::v1 as wire;
use isthmus_proto::flows::v1::flows_server::Flows;
use isthmus_proto::model::flow::Report;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use store::FlowStore;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

#[cfg(test)]
#[path = "flows_test.rs"]
mod flows_test;

/// Reports that wait for the disk. One more is told to come again.
const WAITING: usize = 256;
/// Reports of one transaction.
const TOGETHER: usize = 64;
/// So many reports a second are taken from the whole mesh: with more proxies each is asked to report less often.
const REPORTS_PER_SECOND: u32 = 200;
const SHORTEST_MS: u32 = 10_000;
const LONGEST_MS: u32 = 300_000;
/// Between two looks for what is too old.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// One report on its way to the disk.
#[derive(Debug)]
pub struct Taken {
    pub workload: String,
    pub life: u64,
    pub sequence: u64,
    pub dropped: u64,
    pub report: Report,
}

struct Waiting {
    taken: Taken,
    written: oneshot::Sender<Result<(), String>>,
}

/// The service that is registered with tonic.
#[derive(Clone)]
pub struct Intake {
    ledger: Arc<Ledger>,
    registry: Arc<Registry>,
    to_writer: mpsc::Sender<Waiting>,
}

impl Intake {
    /// The service, and the writer that must run beside it.
    pub fn new(
        ledger: Arc<Ledger>,
        registry: Arc<Registry>,
        store: Arc<FlowStore>,
    ) -> (Intake, impl Future<Output = ()> + Send + 'static) {
        let (to_writer, waiting) = mpsc::channel(WAITING);
        (Intake { ledger: ledger.clone(), registry, to_writer }, write_all(ledger, store, waiting))
    }

    fn next_ms(&self) -> u32 {
        let proxies = u32::try_from(self.registry.connected()).unwrap_or(u32::MAX);
        (proxies.saturating_mul(1000) / REPORTS_PER_SECOND).clamp(SHORTEST_MS, LONGEST_MS)
    }
}

#[tonic::async_trait]
impl Flows for Intake {
    async fn report(&self, request: Request<wire::ReportRequest>) -> Result<Response<wire::ReportResponse>, Status> {
        let peer = required_identity(request.extensions().get::<Peer>())?;
        let request = request.into_inner();
        speaks_for(&self.ledger, &peer, &request.workload)?;
        let world = self.ledger.world();
        let mut report = Report::read(&request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now_ms = self.ledger.clock().now_ms();
        let keep_ms = i64::try_from(world.mesh.flows.keep.as_millis()).unwrap_or(i64::MAX);
        report.flows.iter_mut().for_each(|flow| settle(flow, &world, now_ms, keep_ms));
        for left in &mut report.departures {
            left.last_seen_unix_ms = left.last_seen_unix_ms.clamp(now_ms - keep_ms, now_ms);
            left.first_seen_unix_ms = left.first_seen_unix_ms.clamp(now_ms - keep_ms, left.last_seen_unix_ms);
        }
        report.refusals.iter_mut().for_each(|r| r.at_unix_ms = r.at_unix_ms.clamp(now_ms - keep_ms, now_ms));
        let dropped = request.flows_dropped.saturating_add(report.unreadable);
        let taken =
            Taken { workload: request.workload, life: request.life, sequence: request.sequence, dropped, report };
        let (written, answer) = oneshot::channel();
        let busy = |_| Status::resource_exhausted("too many reports at once; send it again");
        self.to_writer.try_send(Waiting { taken, written }).map_err(busy)?;
        match answer.await {
            Ok(Ok(())) => Ok(Response::new(wire::ReportResponse { next_ms: self.next_ms() })),
            Ok(Err(error)) => Err(Status::unavailable(error)),
            Err(_) => Err(Status::unavailable("the control plane is stopping; send it again")),
        }
    }
}

/// A proxy's clock may be off; its site is what the mesh says of the address.
fn settle(flow: &mut wire::Flow, world: &World, now_ms: i64, keep_ms: i64) {
    flow.last_seen_unix_ms = flow.last_seen_unix_ms.clamp(now_ms - keep_ms, now_ms);
    flow.first_seen_unix_ms = flow.first_seen_unix_ms.clamp(now_ms - keep_ms, flow.last_seen_unix_ms);
    flow.site = flow.address.parse().ok().and_then(|ip| site_of(world, ip)).unwrap_or_default();
}

fn site_of(world: &World, ip: IpAddr) -> Option<String> {
    let sites = world.resources.values().filter_map(|resource| match &resource.spec {
        Spec::Site(site) => Some((&resource.key.name, site)),
        _ => None,
    });
    // What a site is seen as counts before whose range the address is in.
    let longest = |ranges: &[IpNet]| ranges.iter().filter(|r| r.contains(&ip)).map(IpNet::prefix_len).max();
    let holding = sites.filter_map(|(name, site)| {
        let (seen_as, range) = (longest(&site.seen_as), longest(&site.ranges));
        seen_as.or(range).map(|length| ((seen_as.is_some(), length), name))
    });
    holding.max_by_key(|(longest, _)| *longest).map(|(_, name)| name.clone())
}

/// Until the service is gone.
async fn write_all(ledger: Arc<Ledger>, store: Arc<FlowStore>, mut waiting: mpsc::Receiver<Waiting>) {
    let mut tidy = tokio::time::interval(TIDY_EVERY);
    let mut together = Vec::new();
    loop {
        tokio::select! {
            count = waiting.recv_many(&mut together, TOGETHER) => {
                if count == 0 {
                    return;
                }
                let kept = ledger.world().mesh.flows;
                let batch = std::mem::take(&mut together);
                write_batch(&store, batch, kept).await;
            }
            _ = tidy.tick() => {
                let (store, kept, now_ms) = (store.clone(), ledger.world().mesh.flows, ledger.clock().now_ms());
                let tidied = tokio::task::spawn_blocking(move || store.tidy(now_ms, &kept)).await;
                if let Ok(Err(error)) = tidied {
                    tracing::error!(%error, "flow records not tidied");
                }
            }
        }
    }
}

async fn write_batch(store: &Arc<FlowStore>, batch: Vec<Waiting>, kept: Kept) {
    let (taken, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.taken, w.written)).unzip();
    let store = store.clone();
    let written = tokio::task::spawn_blocking(move || store.write(&taken, &kept)).await;
    let result = match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("a bug stopped the writer of flow records; see the log".to_string()),
    };
    if let Err(error) = &result {
        tracing::error!(%error, "flow records not written");
    }
    for answer in answers {
        // A proxy that went away sends it again, and it counts once.
        let _ = answer.send(result.clone());
    }
}
