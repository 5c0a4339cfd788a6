//! The Discovery service: each proxy's view, as deltas, over one stream per proxy.
//!
//! hello → is it who its certificate says? → a seat in the [`registry`] → [`stream`] until one side ends it. Refused: no
//! certificate, a workload that does not exist or has another identity, another protocol version.

pub mod copies;
pub mod cut_off;
pub mod encoded;
pub mod lease;
pub mod registry;
pub mod server;
pub mod share;
mod signed;
mod stream;
pub mod wake;

use crate::audit::Event;
use crate::identity::issuer::Issuer;
use crate::identity::{blocking, restore, revocation, unrecorded};
use crate::ledger::Ledger;
use crate::live::Looks;
use crate::serve::{Peer, required_identity};
use copies::Machine;
use cut_off::TurnedAway;
use encoded::Encoded;
use isthmus_certs::{IdentityStore, PeerIdentity};
use isthmus_proto::PROTOCOL;
use isthmus_proto::discovery::v1::{Hello, ProxyMessage, proxy_message};
use isthmus_proto::model::read_revocations;
use registry::{Arrival, Refused, Registry, Seat};
use server::Message;
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

#[cfg(test)]
#[path = "registry_test.rs"]
mod registry_test;
#[cfg(test)]
#[path = "size_test.rs"]
mod size_test;

/// A hello is one small message; a peer that does not send it holds a stream for nothing.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Deltas on their way to a proxy. More would only age: the next one is made from the latest world.
const OUTGOING: usize = 2;

/// What every stream works with.
#[derive(Clone, Debug)]
pub struct Push {
    pub ledger: Arc<Ledger>,
    pub issuer: Arc<Issuer>,
    pub registry: Arc<Registry>,
    pub looks: Arc<Looks>,
    pub encoded: Arc<Encoded>,
    pub turned_away: Arc<TurnedAway>,
    /// Whose certificate signs what proxies keep.
    pub own: Arc<IdentityStore>,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

type Outgoing = mpsc::Sender<Result<Message, Status>>;
type Answer = ReceiverStream<Result<Message, Status>>;

impl Push {
    fn stream(&self, request: Request<Streaming<ProxyMessage>>) -> Result<Response<Answer>, Status> {
        let peer = required_identity(request.extensions().get::<Peer>())?;
        let from = request.extensions().get::<Peer>().map(|peer| peer.address.to_string()).unwrap_or_default();
        let mut incoming = request.into_inner();
        let (outgoing, answer) = mpsc::channel(OUTGOING);
        let push = self.clone();
        // The headers of the answer leave now; whatever is wrong with the hello ends the stream with a status.
        self.tasks.spawn(async move {
            // Lent, not given: what a future is given it keeps in a place of its own, for as long as the proxy is there.
            if let Err(status) = push.serve(&peer, &from, &mut incoming, &outgoing).await {
                tracing::info!(code = ?status.code(), reason = status.message(), "discovery stream ended");
                // The peer may be gone, or not reading; there is nobody else to tell.
                let _ = outgoing.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn serve(
        &self,
        peer: &PeerIdentity,
        from: &str,
        incoming: &mut Streaming<ProxyMessage>,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        // Boxed: for as long as the proxy is there, nobody needs this again.
        let (seat, hello) = Box::pin(self.admit(peer, from, incoming)).await?;
        // The box is given: one that is emptied here would be there as long as the stream.
        let mut stream = Stream::new(&seat, peer, hello, self.ledger.clock().now_ms())?;
        stream::run(self, &mut stream, incoming, outgoing).await
    }

    /// From the hello to a seat.
    async fn admit(
        &self,
        peer: &PeerIdentity,
        from: &str,
        incoming: &mut Streaming<ProxyMessage>,
    ) -> Result<(Seat<'_>, Box<Hello>), Status> {
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO_WITHIN, read_hello(incoming)) => hello,
            () = self.shutdown.cancelled() => return Err(Status::unavailable("the control plane is stopping; reconnect")),
        };
        let mut hello = hello.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
        self.check(&hello, peer)?;
        let reminded = hello.revocations.take();
        self.recall(peer, &hello.workload, reminded).await?;
        let now = self.ledger.clock().now_ms();
        let arrival = Arrival {
            machine: Machine::read(hello.machine.clone(), from),
            enrolment: self.issuer.register().enrolment_of(&peer.serial.to_string()),
        };
        let arrived = self.registry.arrive_from(&hello.workload, &hello.build_version, peer, now, arrival);
        let seat = match arrived {
            Ok(seat) => seat,
            Err(refused) => return Err(self.refuse(&hello.workload, peer, from.to_string(), &refused).await),
        };
        seat.health(hello.health.as_ref());
        if hello.client_time_unix_ms != 0 {
            seat.clock(hello.client_time_unix_ms.saturating_sub(now));
        }
        tracing::info!(workload = hello.workload, build = hello.build_version, "proxy connected");
        Ok((seat, Box::new(hello)))
    }

    /// What this proxy knows and we do not, if our state was put back from a backup.
    async fn recall(
        &self,
        peer: &PeerIdentity,
        workload: &str,
        shown: Option<isthmus_proto::discovery::v1::Revocations>,
    ) -> Result<(), Status> {
        // Of several control planes each has the record of what it issued itself: the others' are no sign of a backup.
        let shared = self.ledger.store().is_shared();
        let known = shared || self.issuer.register().of_serial(&peer.serial.to_string()).is_some();
        let ours = self.ledger.trust().revocations.epoch;
        let told = shown.filter(|shown| shown.epoch > ours).map(read_revocations).transpose();
        let told = told.map_err(|error| Status::invalid_argument(format!("hello: revocations: {error}")))?;
        if known && told.is_none() {
            return Ok(());
        }
        let (this, peer, workload) = (self.clone(), peer.clone(), workload.to_string());
        let work = move || -> Result<(), revocation::RevokeError> {
            let store = &**this.ledger.store();
            if !known {
                restore::recognise(&this.issuer, store, &peer, &workload)?;
            }
            if let Some(told) = told
                && restore::remember(&this.issuer, store, &told, ours, &workload)?
            {
                revocation::publish(&this.ledger, &this.own)?;
            }
            Ok(())
        };
        blocking(move || work().map_err(unrecorded)).await
    }

    /// Says it to whoever came second, and puts it on record.
    async fn refuse(&self, workload: &str, peer: &PeerIdentity, from: String, refused: &Refused) -> Status {
        let Refused { holder, copy } = refused;
        if !copy.certain {
            return Status::unavailable(format!(
                "an older stream of {workload} ({holder}) is still open; if that machine is gone, it is let go within 30 s"
            ));
        }
        let reason = format!(
            "{workload} is in use by another machine: {holder}; this one is {}. If this machine is to take over, let it join \
             with a new token; if neither should be there twice, revoke the identity",
            copy.machine
        );
        tracing::error!(workload, id = %peer.id, serial = %peer.serial, holder = %holder, newcomer = %copy.machine, "two machines have one identity");
        let (who, workload, why) = (peer.id.to_string(), workload.to_string(), reason.clone());
        let event = Event {
            who,
            workload,
            proof: format!("certificate {}", peer.serial),
            from,
            reason: why,
            ..Event::default()
        };
        let issuer = self.issuer.clone();
        // The log waits for the disk.
        let _ = tokio::task::spawn_blocking(move || issuer.audit().refused(event)).await;
        Status::permission_denied(reason)
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
            Some(_) if self.turned_away.turns(&self.ledger, &hello.workload) => {
                Err(Status::unavailable("this control plane has lost its store; connect to another one"))
            }
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
