//! An operator looks at what passes now.

use super::{Operators, operator};
use crate::live::{Look, Reach};
use crate::operators::Caller;
use isthmus_proto::admin::v1::live_server::Live;
use isthmus_proto::admin::v1::look_event::Event;
use isthmus_proto::admin::v1::{LookEvent, LookRequest, Looking};
use isthmus_proto::live::v1 as wire;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

const USUAL: u32 = 600;
const LONGEST: u32 = 3600;
/// Behind it, the question's own bound counts what is lost.
const AHEAD: usize = 16;
/// How soon a change of who is asked is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

type Events = mpsc::Sender<Result<LookEvent, Status>>;

#[tonic::async_trait]
impl Live for Operators {
    type LookStream = ReceiverStream<Result<LookEvent, Status>>;

    async fn look(&self, request: Request<LookRequest>) -> Result<Response<Self::LookStream>, Status> {
        let caller = operator(&request)?;
        let LookRequest { of, passing, edges, lasts_seconds } = request.into_inner();
        let lasts_seconds = if lasts_seconds == 0 { USUAL } else { lasts_seconds.min(LONGEST) };
        if passing.is_none() && !edges {
            return Err(Status::invalid_argument("neither what passes nor counts were asked for"));
        }
        tracing::info!(
            operator = caller.name(),
            of,
            requests = passing.is_some(),
            edges,
            lasts_seconds,
            "looks at traffic"
        );
        let question = wire::Question { lasts_seconds, passing, edges, ..wire::Question::default() };
        let look = self.looks.begin(question, concerns(caller, of));
        let look = look.ok_or_else(|| Status::resource_exhausted("too many look at traffic now; try again later"))?;
        let (send, receive) = mpsc::channel(AHEAD);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = tell(look, &send) => {}
                () = send.closed() => {}
                () = tokio::time::sleep(Duration::from_secs(lasts_seconds.into())) => {}
                () = shutdown.cancelled() => {
                    let _ = send.try_send(Err(Status::unavailable("the control plane is stopping; look again")));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// What the caller may see, and asked for.
fn concerns(caller: Caller, of: String) -> impl Fn(&str) -> bool + Send + Sync + 'static {
    move |workload| {
        let namespace = workload.split_once('/').map_or(workload, |(namespace, _)| namespace);
        (of.is_empty() || of == workload || of == namespace) && caller.sees_workload(workload)
    }
}

async fn tell(mut look: Look, send: &Events) {
    let mut told = None;
    let mut again = tokio::time::interval(TELL_EVERY);
    loop {
        let event = tokio::select! {
            Some(batch) = look.batches.recv() => Event::Batch(batch),
            _ = again.tick() => {
                let reach = look.reach();
                if told.replace(reach) == Some(reach) {
                    continue;
                }
                let Reach { asked, cannot, dropped } = reach;
                Event::Looking(Looking { asked, cannot, dropped })
            }
        };
        if send.send(Ok(LookEvent { event: Some(event) })).await.is_err() {
            return;
        }
    }
}
