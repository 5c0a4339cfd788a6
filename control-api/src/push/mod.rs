//! The Discovery service: each proxy's view, as deltas, over one stream per proxy.
//!
//! hello → is it who its certificate says? → a seat in the [`registry`] → [`stream`] until one side ends it. Refused: no
//! certificate, a workload that does not exist or has another identity, another protocol version.

pub mod lease;
pub mod registry;
mod signed;
mod stream;
pub mod wake;

use crate::ledger::Ledger;
use crate::serve::{Peer, required_identity};
use isthmus_certs::{IdentityStore, PeerIdentity, skew_in_words};
use isthmus_proto::PROTOCOL;
use isthmus_proto::discovery::v1::discovery_server::Discovery;
use isthmus_proto::discovery::v1::{ControlMessage, Hello, ProxyMessage, proxy_message};
use registry::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

#[cfg(test)]
#[path = "registry_test.rs"]
mod registry_test;

/// A hello is one small message; a peer that does not send it holds a stream for nothing.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Deltas on their way to a proxy. More would only age: the next one is made from the latest world.
const OUTGOING: usize = 2;
/// Certificates bear 5 minutes; well before that an operator should know.
const SKEW_WORTH_A_WARNING_MS: u64 = 30_000;

/// The service that is registered with tonic.
#[derive(Clone, Debug)]
pub struct Push {
    pub ledger: Arc<Ledger>,
    pub registry: Arc<Registry>,
    /// Whose certificate signs what proxies keep.
    pub own: Arc<IdentityStore>,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Discovery for Push {
    type StreamStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn stream(&self, request: Request<Streaming<ProxyMessage>>) -> Result<Response<Self::StreamStream>, Status> {
        let peer = required_identity(request.extensions().get::<Peer>())?;
        let incoming = request.into_inner();
        let (outgoing, answer) = mpsc::channel(OUTGOING);
        let push = self.clone();
        // The headers of the answer leave now; whatever is wrong with the hello ends the stream with a status.
        self.tasks.spawn(async move {
            if let Err(status) = push.serve(peer, incoming, &outgoing).await {
                tracing::info!(code = ?status.code(), reason = status.message(), "discovery stream ended");
                // The peer may be gone, or not reading; there is nobody else to tell.
                let _ = outgoing.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }
}

impl Push {
    async fn serve(
        &self,
        peer: PeerIdentity,
        mut incoming: Streaming<ProxyMessage>,
        outgoing: &mpsc::Sender<Result<ControlMessage, Status>>,
    ) -> Result<(), Status> {
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO_WITHIN, read_hello(&mut incoming)) => hello,
            () = self.shutdown.cancelled() => return Err(Status::unavailable("the control plane is stopping; reconnect")),
        };
        let hello = hello.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
        self.check(&hello, &peer)?;
        let now = self.ledger.clock().now_ms();
        let seat = self.registry.arrive(&hello.workload, &hello.build_version, &peer, now);
        if hello.client_time_unix_ms != 0 {
            let skew = hello.client_time_unix_ms.saturating_sub(now);
            seat.clock(skew);
            if skew.unsigned_abs() > SKEW_WORTH_A_WARNING_MS {
                tracing::warn!(workload = hello.workload, "{}", skew_in_words(skew));
            }
        }
        tracing::info!(workload = hello.workload, build = hello.build_version, "proxy connected");
        let ended = stream::run(self, &seat, &peer, hello, incoming, outgoing).await;
        drop(seat);
        ended
    }

    fn check(&self, hello: &Hello, peer: &PeerIdentity) -> Result<(), Status> {
        if hello.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "the proxy speaks protocol {}, this control plane {PROTOCOL}; bring both to neighbouring releases",
                hello.protocol
            )));
        }
        let world = self.ledger.world();
        match world.index.identity_of(&hello.workload) {
            None => Err(Status::not_found(format!(
                "there is no Workload {}; apply it, or correct the proxy's workload",
                hello.workload
            ))),
            Some(id) if *id != peer.id => Err(Status::permission_denied(format!(
                "the certificate is of {}, but Workload {} is {id}; enrol again with a join token for it",
                peer.id, hello.workload
            ))),
            Some(_) => Ok(()),
        }
    }
}

async fn read_hello(incoming: &mut Streaming<ProxyMessage>) -> Result<Hello, Status> {
    match incoming.message().await? {
        Some(ProxyMessage { message: Some(proxy_message::Message::Hello(hello)) }) => Ok(hello),
        Some(_) => Err(Status::invalid_argument("the first message of a discovery stream is its hello")),
        None => Err(Status::cancelled("the proxy ended the stream before its hello")),
    }
}
