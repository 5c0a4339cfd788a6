//! Answers what operators ask of what passes now: each question over a call of its own, which ends when the control plane
//! has enough, when the question has lasted its time, or with the discovery stream that it came by.

use std::time::Duration;

use isthmus_proto::live::v1 as wire;
use isthmus_proto::live::v1::live_client::LiveClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::debug;

use super::Context;
use crate::telemetry::{Filter, Looking, Metrics};

/// Questions at once; more operators than that are told nothing.
const AT_ONCE: usize = 8;
const LONGEST: Duration = Duration::from_secs(3600);
/// Of one batch; with paths cut it stays below 1 MiB.
const MOST: usize = 500;
/// What has passed is told together.
const TOGETHER: Duration = Duration::from_millis(100);
const EDGES_EVERY: Duration = Duration::from_secs(1);
/// Batches that the control plane has not taken. Behind it, what passes is dropped and counted.
const AHEAD: usize = 2;

/// The questions of one discovery stream. They end with it.
#[derive(Default)]
pub(super) struct Answers(JoinSet<()>);

impl Answers {
    pub(super) fn begin(&mut self, context: &Context, question: wire::Question) {
        while self.0.try_join_next().is_some() {}
        let Some(channel) = context.channel.borrow().clone().filter(|_| self.0.len() < AT_ONCE) else { return };
        let lasts = Duration::from_secs(question.lasts_seconds.into()).min(LONGEST);
        let answer = answer(channel, context.metrics.clone(), context.workload.clone(), question);
        self.0.spawn(async move {
            let _ = timeout(lasts, answer).await;
        });
    }
}

async fn answer(channel: Channel, metrics: Metrics, workload: String, question: wire::Question) {
    let looking = question.passing.map(Filter::read).and_then(|filter| metrics.live().look(filter));
    let (say, batches) = mpsc::channel(AHEAD);
    let mut client = LiveClient::new(channel);
    let empty = wire::Batch { question: question.id, workload, ..wire::Batch::default() };
    tokio::select! {
        enough = client.answer(ReceiverStream::new(batches)) => {
            if let Err(status) = enough {
                debug!("a question of what passes ended: {status}");
            }
        }
        () = tell(looking, question.edges.then_some(metrics), empty, say) => {}
    }
}

/// Until nobody takes it.
async fn tell(
    mut looking: Option<Looking>,
    edges: Option<Metrics>,
    empty: wire::Batch,
    say: mpsc::Sender<wire::Batch>,
) {
    let mut again = interval(EDGES_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let batch = tokio::select! {
            mut passed = first(&mut looking) => {
                tokio::time::sleep(TOGETHER).await;
                passed.extend(looking.iter_mut().flat_map(|looking| looking.rest(MOST)));
                wire::Batch { passed, ..empty.clone() }
            }
            _ = again.tick() => match &edges {
                Some(metrics) => {
                    let (edges, bounds_us) = (metrics.edges_now(), Metrics::BOUNDS_US.to_vec());
                    wire::Batch { edges, bounds_us, ..empty.clone() }
                }
                // Empty: the control plane hears that we are there, and we that it has not enough.
                None => empty.clone(),
            },
        };
        let dropped = looking.as_ref().map_or(0, Looking::dropped);
        if say.send(wire::Batch { dropped, ..batch }).await.is_err() {
            return;
        }
    }
}

/// Loses nothing when it is given up.
async fn first(looking: &mut Option<Looking>) -> Vec<wire::Passed> {
    match looking {
        Some(looking) => looking.next(1).await,
        None => std::future::pending().await,
    }
}
