//! What passes now: operators' questions down to the proxies concerned, their answers up to the operator. Nothing is kept.
//!
//! [`Looks::begin`] → every stream of [`crate::push`] hears of the question and passes it on where its proxy is concerned
//! and can answer → the proxy calls [`Intake`] → the operator's [`Look`]. An operator who reads slowly loses batches,
//! which are counted; neither proxies nor the others notice.

use crate::ledger::Ledger;
use crate::serve::{Peer, required_identity};
use crate::speaks::speaks_for;
use isthmus_proto::live::v1 as wire;
use isthmus_proto::live::v1::live_server::Live;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

#[cfg(test)]
#[path = "live_test.rs"]
mod live_test;

/// Operators who look at once. Each asks up to the whole mesh.
const MOST_LOOKS: usize = 16;
/// Batches ahead of an operator: at the design size a second of everybody's.
const AHEAD: usize = 2_048;
/// Batches of one call: a proxy sends a few a second.
pub const MOST_BATCH: usize = 4 << 20;

/// By their ids.
pub type Questions = BTreeMap<u64, Arc<Question>>;

/// All questions that are open.
#[derive(Debug)]
pub struct Looks(watch::Sender<Arc<Questions>>);

/// One, as the streams and the intake see it.
pub struct Question {
    pub wire: wire::Question,
    /// Whose proxies are asked, by `<namespace>/<name>`.
    concerns: Box<dyn Fn(&str) -> bool + Send + Sync>,
    to: mpsc::Sender<wire::Batch>,
    ended: CancellationToken,
    asked: AtomicU32,
    cannot: AtomicU32,
    dropped: AtomicU64,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// An operator's end of a question, which ends with it.
#[derive(Debug)]
pub struct Look {
    looks: Arc<Looks>,
    question: Arc<Question>,
    pub batches: mpsc::Receiver<wire::Batch>,
}

/// How far a question got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    pub asked: u32,
    /// Proxies that are too old to be asked.
    pub cannot: u32,
    /// Batches that the operator did not read in time.
    pub dropped: u64,
}

impl Default for Looks {
    fn default() -> Self {
        Looks(watch::Sender::new(Arc::default()))
    }
}

impl Looks {
    /// Asks. Nothing where too many ask already.
    pub fn begin(
        self: &Arc<Self>,
        mut wire: wire::Question,
        concerns: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Option<Look> {
        let (to, batches) = mpsc::channel(AHEAD);
        // Nobody can answer a question that they were not asked.
        wire.id = rand::random();
        let question = Arc::new(Question {
            wire,
            concerns: Box::new(concerns),
            to,
            ended: CancellationToken::new(),
            asked: AtomicU32::new(0),
            cannot: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
        });
        let begun = self.0.send_if_modified(|questions| {
            let room = questions.len() < MOST_LOOKS;
            if room {
                Arc::make_mut(questions).insert(question.wire.id, question.clone());
            }
            room
        });
        begun.then(|| Look { looks: self.clone(), question, batches })
    }

    /// Told whenever a question begins or ends; at once, if there are any.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Questions>> {
        let mut questions = self.0.subscribe();
        questions.mark_changed();
        questions
    }

    fn find(&self, id: u64) -> Option<Arc<Question>> {
        self.0.borrow().get(&id).cloned()
    }
}

impl Question {
    /// Whether this proxy is to be asked; counts it either way.
    pub fn asks(&self, workload: &str, can_answer: bool) -> bool {
        if !(self.concerns)(workload) {
            return false;
        }
        let count = if can_answer { &self.asked } else { &self.cannot };
        count.fetch_add(1, Relaxed);
        can_answer
    }

    fn take(&self, batch: wire::Batch) {
        if self.to.try_send(batch).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Look {
    pub fn reach(&self) -> Reach {
        let Question { asked, cannot, dropped, .. } = &*self.question;
        Reach { asked: asked.load(Relaxed), cannot: cannot.load(Relaxed), dropped: dropped.load(Relaxed) }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.question.ended.cancel();
        self.looks.0.send_modify(|questions| {
            Arc::make_mut(questions).remove(&self.question.wire.id);
        });
    }
}

/// The service that proxies answer to.
#[derive(Clone, Debug)]
pub struct Intake {
    pub ledger: Arc<Ledger>,
    pub looks: Arc<Looks>,
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Live for Intake {
    async fn answer(&self, request: Request<Streaming<wire::Batch>>) -> Result<Response<wire::Enough>, Status> {
        let peer = required_identity(request.extensions().get::<Peer>())?;
        let mut batches = request.into_inner();
        let mut ended = CancellationToken::new();
        loop {
            let batch = tokio::select! {
                batch = batches.message() => batch?,
                () = ended.cancelled() => None,
                () = self.shutdown.cancelled() => None,
            };
            let Some(batch) = batch else { break };
            speaks_for(&self.ledger, &peer, &batch.workload)?;
            let Some(question) = self.looks.find(batch.question) else { break };
            if !(question.concerns)(&batch.workload) {
                return Err(Status::permission_denied("this proxy was not asked"));
            }
            ended = question.ended.clone();
            question.take(batch);
        }
        Ok(Response::new(wire::Enough {}))
    }
}
