//! How far a revision has got, until every connected proxy that it concerns has answered.

use super::Operators;
use crate::ledger::Committed;
use crate::operators::Caller;
use crate::push::registry::Progress;
use isthmus_proto::admin::v1::{InForce, PendingProxy};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// A client that waits forever for a proxy that never answers holds a stream; the proxy itself is let go after 60 s.
const AT_MOST: Duration = Duration::from_secs(600);

const OFFLINE: &str = "offline";

/// The longest pause between two counts.
const COUNT_EVERY: Duration = Duration::from_millis(100);

pub(super) fn start(
    this: &Operators,
    caller: Caller,
    revision: u64,
) -> Result<ReceiverStream<Result<InForce, Status>>, Status> {
    let commit = find(this, revision)?;
    let (send, receive) = mpsc::channel(1);
    let this = this.clone();
    this.tasks.clone().spawn(async move {
        let ended = tokio::select! {
            ended = report(&this, &caller, &commit, &send) => ended,
            () = this.shutdown.cancelled() => Err(Status::unavailable("the control plane is stopping")),
            () = tokio::time::sleep(AT_MOST) => Err(Status::deadline_exceeded("not in force everywhere within 10 minutes")),
            () = send.closed() => return,
        };
        if let Err(status) = ended {
            let _ = send.try_send(Err(status));
        }
    });
    Ok(ReceiverStream::new(receive))
}

/// A revision that this process did not make (it is from before a restart, or long past) concerns all that are here: a
/// proxy is told the present on connecting, so its answer to that is the answer to all before.
pub(super) fn find(this: &Operators, revision: u64) -> Result<Committed, Status> {
    let present = this.ledger.world().revision;
    if revision > present {
        return Err(Status::out_of_range(format!(
            "revision {revision} does not exist yet; the present one is {present}"
        )));
    }
    let everybody = || crate::index::Changed { mesh: true, ..Default::default() };
    let unknown = || {
        let (at, changed) = (tokio::time::Instant::now(), Arc::new(everybody()));
        Committed { revision, turn: 0, at, changed, touched: Arc::default() }
    };
    Ok(this.ledger.committed(revision).unwrap_or_else(unknown))
}

async fn report(
    this: &Operators,
    caller: &Caller,
    commit: &Committed,
    send: &mpsc::Sender<Result<InForce, Status>>,
) -> Result<(), Status> {
    let mut changes = this.registry.watch();
    let mut last = None;
    loop {
        changes.borrow_and_update();
        let began = tokio::time::Instant::now();
        let mut message = in_force(this, commit);
        // The numbers are those of all, so that "complete" is true; names are those that the caller sees.
        message.pending.retain(|pending| caller.sees_workload(&pending.workload));
        note_since(this, &mut message);
        let counted = began.elapsed();
        let complete = message.complete;
        let shown = (message.acknowledged, message.pending.clone(), message.silent.clone());
        if complete || last.as_ref() != Some(&shown) {
            last = Some(shown);
            send.send(Ok(message)).await.map_err(|_| Status::cancelled("the operator is gone"))?;
        }
        if complete {
            return Ok(());
        }
        // Counting costs in proportion to all proxies: with thousands of answers a second, most are counted together.
        tokio::time::sleep((counted * 4).min(COUNT_EVERY)).await;
        changes.changed().await.map_err(|_| Status::unavailable("the control plane is stopping"))?;
    }
}

/// Since when those are away that are.
fn note_since(this: &Operators, message: &mut InForce) {
    let mut away = message.pending.iter_mut().filter(|pending| pending.state == OFFLINE).peekable();
    if away.peek().is_none() {
        return;
    }
    let heard = this.registry.everywhere(this.ledger.clock().now_ms());
    away.for_each(|pending| {
        pending.since_unix_ms = heard.get(&pending.workload).map(|(_, proxy)| proxy.last_seen_unix_ms).unwrap_or(0);
    });
}

fn in_force(this: &Operators, commit: &Committed) -> InForce {
    let (progress, silent) = this.registry.progress_everywhere(commit, this.ledger.clock().now_ms());
    let mut message = InForce {
        revision: commit.revision,
        affected: 0,
        acknowledged: 0,
        pending: Vec::new(),
        elapsed_us: u64::try_from(commit.at.elapsed().as_micros()).unwrap_or(u64::MAX),
        // What their proxies have is not known before they say so.
        complete: silent.is_empty(),
        silent,
    };
    for (workload, progress) in progress {
        // Offline proxies are named, but neither counted nor waited for: they get the present when they come back.
        message.affected += u32::from(progress != Progress::Offline);
        let state = match progress {
            Progress::Acknowledged => {
                message.acknowledged += 1;
                continue;
            }
            Progress::Waiting => {
                message.complete = false;
                "connected".to_string()
            }
            Progress::Refused(reason) => format!("refused: {reason}"),
            Progress::Offline => OFFLINE.to_string(),
        };
        message.pending.push(PendingProxy { workload, state, since_unix_ms: 0 });
    }
    message
}
