//! One proxy's stream: welcome, first sync, then a delta whenever its view differs from what it was sent.
//!
//! It sleeps until the [`super::registry`] wakes it for a commit that concerns it, or its proxy asks for something. At most
//! [`UNANSWERED`] deltas are on their way, and after one for a commit comes a [`PAUSE`]; while a proxy is slow or commits
//! come in a burst, changes pile up nowhere: the next delta is the difference to the latest world. A proxy that stops answering is let go, and so is one whose certificate has
//! ended, whose workload is gone, or that was replaced by a newer stream of the same workload.

use super::Push;
use super::registry::Seat;
use super::signed::{Held, REFRESH};
use crate::index::{View, diff};
use crate::ledger::World;
use crate::live::Questions;
use isthmus_certs::PeerIdentity;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::discovery::v1::{ControlMessage, Hello, ProxyMessage, control_message, proxy_message};
use isthmus_proto::live::v1::Question;
use isthmus_proto::model::ResourceKey;
use isthmus_proto::{FEATURES, LIVE, PROTOCOL};
use prost::Message as _;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Deltas that a proxy has not answered. One would make each look-up wait for the answer to the one before.
const UNANSWERED: usize = 8;
/// Between two deltas for commits; a burst is one push, and a single change does not wait.
const PAUSE: Duration = Duration::from_millis(20);
/// Of one message, about. A first sync that is larger comes in several, which the proxy takes as one.
const MAX_DELTA: usize = 1 << 20;
/// After this long without an answer a proxy is taken for hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Keys that one proxy may subscribe to: an app that scans must not make the control plane hold its whole range.
const MAX_SUBSCRIPTIONS: usize = 16_384;

type Outgoing = mpsc::Sender<Result<ControlMessage, Status>>;

struct Stream<'a> {
    seat: &'a Seat<'a>,
    peer: &'a PeerIdentity,
    workload: String,
    subscriptions: BTreeSet<ResourceKey>,
    /// What the proxy holds once it has applied all that was sent.
    sent: View,
    held: Held,
    signed: Instant,
    synced: bool,
    unanswered: VecDeque<(u64, Instant)>,
    /// Operators' questions that it was asked, or was not concerned by.
    looked: BTreeSet<u64>,
}

pub(super) async fn run(
    push: &Push,
    seat: &Seat<'_>,
    peer: &PeerIdentity,
    hello: Hello,
    mut incoming: Streaming<ProxyMessage>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let now_ms = push.ledger.clock().now_ms();
    let can_answer = hello.features.iter().any(|feature| feature == LIVE);
    let mut stream = Stream::new(seat, peer, hello)?;
    let mut looks = push.looks.subscribe();
    send(outgoing, control_message::Message::Welcome(welcome(now_ms))).await?;
    let ends = Instant::now() + until_ms(i64::try_from(peer.not_after.as_secs()).unwrap_or(0) * 1000 - now_ms);
    // What the proxy has asked for, and what was committed meanwhile.
    let (mut asked, mut woken, mut pause) = (true, false, Instant::now());
    loop {
        let free = stream.unanswered.len() < UNANSWERED;
        let paused = woken && !asked && pause > Instant::now();
        let hung = stream.unanswered.front().map_or_else(far, |(_, since)| *since + ANSWER_WITHIN);
        tokio::select! {
            // Proxy first: its answers make room.
            biased;
            () = push.shutdown.cancelled() => return Err(Status::unavailable("the control plane is stopping; reconnect")),
            () = seat.replaced.cancelled() => return Err(Status::aborted("this stream was taken over or let go; reconnect")),
            () = tokio::time::sleep_until(ends) => return Err(Status::unauthenticated("the certificate has ended; renew it")),
            () = tokio::time::sleep_until(stream.signed + REFRESH), if !asked => asked = true,
            () = tokio::time::sleep_until(hung) => return Err(Status::deadline_exceeded("no answer to a delta for 60 s")),
            message = incoming.message() => match message? {
                Some(message) => asked |= stream.receive(message, push.ledger.clock().now_ms(), outgoing)?,
                None => return Ok(()),
            },
            () = seat.wake.notified() => {
                woken = true;
                if push.ledger.trust().revocations.cover(peer) {
                    return Err(Status::permission_denied(format!("certificate {} was revoked", peer.serial)));
                }
            }
            () = tokio::time::sleep_until(pause), if paused => {}
            Ok(()) = looks.changed() => {
                let questions = looks.borrow_and_update().clone();
                for question in stream.asked(&questions, can_answer) {
                    send(outgoing, control_message::Message::Question(question)).await?;
                }
            }
            permit = outgoing.reserve(), if (asked || woken) && free && !paused => {
                let Ok(permit) = permit else { return Ok(()) };
                let by_commit = woken;
                (asked, woken) = (false, false);
                let (delta, again) = stream.next_delta(push, &push.ledger.world())?;
                woken |= again;
                let Some(delta) = delta else { continue };
                let (last, parts) = in_parts(delta);
                drop(permit);
                let all = async {
                    for delta in parts.into_iter().chain([last]) {
                        send(outgoing, control_message::Message::Delta(delta)).await?;
                    }
                    Ok::<(), Status>(())
                };
                let taken = tokio::time::timeout(ANSWER_WITHIN, all).await;
                taken.map_err(|_| Status::deadline_exceeded("a delta was not read for 60 s"))??;
                if by_commit {
                    pause = Instant::now() + PAUSE;
                }
            }
        }
    }
}

/// A delta as messages of bearable size: the last one, and those before it. Only a first sync is ever split: a proxy
/// builds it aside until it is complete, and answers once.
fn in_parts(mut delta: wire::Delta) -> (wire::Delta, Vec<wire::Delta>) {
    let mut parts = Vec::new();
    let mut size = 0;
    let mut rest = Vec::new();
    for resource in std::mem::take(&mut delta.upserts) {
        size += resource.encoded_len();
        rest.push(resource);
        if size > MAX_DELTA && delta.first_sync_complete {
            parts.push(wire::Delta {
                version: delta.version,
                upserts: std::mem::take(&mut rest),
                ..Default::default()
            });
            size = 0;
        }
    }
    delta.upserts = rest;
    (delta, parts)
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

fn until_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn welcome(now_ms: i64) -> wire::Welcome {
    wire::Welcome {
        protocol: PROTOCOL,
        build_version: env!("CARGO_PKG_VERSION").to_string(),
        features: FEATURES.iter().map(ToString::to_string).collect(),
        server_time_unix_ms: now_ms,
    }
}

async fn send(outgoing: &Outgoing, message: control_message::Message) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the proxy is gone");
    outgoing.send(Ok(ControlMessage { message: Some(message) })).await.map_err(gone)
}

impl<'a> Stream<'a> {
    /// Nothing was sent yet.
    fn new(seat: &'a Seat<'a>, peer: &'a PeerIdentity, hello: Hello) -> Result<Self, Status> {
        let mut stream = Stream {
            seat,
            peer,
            workload: hello.workload,
            subscriptions: BTreeSet::new(),
            sent: View::default(),
            held: Held::default(),
            signed: Instant::now(),
            synced: false,
            unanswered: VecDeque::new(),
            looked: BTreeSet::new(),
        };
        stream.subscribe(hello.subscriptions, Vec::new())?;
        Ok(stream)
    }

    /// What operators ask that it was not asked yet.
    fn asked(&mut self, questions: &Questions, can_answer: bool) -> Vec<Question> {
        self.looked.retain(|id| questions.contains_key(id));
        let fresh = questions.iter().filter(|(id, _)| self.looked.insert(**id)).map(|(_, question)| question);
        let concerned = fresh.filter(|question| question.asks(&self.workload, can_answer));
        concerned.map(|question| question.wire.clone()).collect()
    }

    /// Takes one message in; whether it changes what the proxy should be sent.
    fn receive(&mut self, message: ProxyMessage, now_ms: i64, outgoing: &Outgoing) -> Result<bool, Status> {
        match message.message {
            Some(proxy_message::Message::Ack(ack)) => {
                self.answered(ack.version);
                self.seat.acked(ack.version, now_ms);
                Ok(true)
            }
            Some(proxy_message::Message::Nack(nack)) => {
                let reason = first_reason(&nack);
                tracing::warn!(workload = self.workload, version = nack.version, reason, "proxy refused a push");
                self.answered(nack.version);
                self.seat.nacked(nack.version, reason, now_ms);
                Ok(true)
            }
            Some(proxy_message::Message::Subscribe(change)) => {
                self.subscribe(change.add, change.drop)?;
                Ok(true)
            }
            Some(proxy_message::Message::Health(health)) => {
                self.seat.health(Some(&health));
                Ok(false)
            }
            Some(proxy_message::Message::Clock(theirs)) => {
                self.seat.clock(theirs.unix_ms.saturating_sub(now_ms));
                let ours = control_message::Message::Clock(wire::Clock { unix_ms: now_ms });
                // Behind a full queue it would be old; the proxy asks again.
                let _ = outgoing.try_send(Ok(ControlMessage { message: Some(ours) }));
                Ok(false)
            }
            Some(proxy_message::Message::Hello(_)) => Err(Status::invalid_argument("a second hello on one stream")),
            // From a newer proxy: it knows from our welcome that we may not understand.
            None => Ok(false),
        }
    }

    /// Versions may repeat (two look-ups at one revision), so an answer frees the oldest delta that it can speak of.
    fn answered(&mut self, version: u64) {
        if self.unanswered.front().is_some_and(|(sent, _)| *sent <= version) {
            self.unanswered.pop_front();
        }
        while self.unanswered.front().is_some_and(|(sent, _)| *sent < version) {
            self.unanswered.pop_front();
        }
    }

    fn subscribe(&mut self, add: Vec<wire::ResourceKey>, drop: Vec<wire::ResourceKey>) -> Result<(), Status> {
        // A key of a kind that this build does not know is from a newer proxy: there is no answer to give, and no
        // reason to cut it off from the others.
        let known = |key| ResourceKey::try_from(key).ok();
        for key in drop.into_iter().filter_map(known) {
            self.subscriptions.remove(&key);
        }
        for key in add.into_iter().filter_map(known) {
            // Asked again: the proxy wants the answer again, so it is sent as if it had never been.
            if !self.subscriptions.insert(key.clone()) {
                self.sent.0.remove(&key);
            }
        }
        if self.subscriptions.len() > MAX_SUBSCRIPTIONS {
            return Err(Status::resource_exhausted(format!(
                "{} subscriptions; at most {MAX_SUBSCRIPTIONS}: does an app scan the mesh's ranges?",
                self.subscriptions.len()
            )));
        }
        Ok(())
    }

    /// The difference between what the proxy was sent and the world, none if there is none; and whether to look again.
    fn next_delta(&mut self, push: &Push, world: &World) -> Result<(Option<wire::Delta>, bool), Status> {
        if world.index.identity_of(&self.workload) != Some(&self.peer.id) {
            let reason = format!("Workload {} is gone, or has another identity now", self.workload);
            return Err(Status::permission_denied(reason));
        }
        let Some(view) = world.index.view(&self.workload, &self.subscriptions) else {
            return Err(Status::not_found(format!("there is no Workload {}", self.workload)));
        };
        let (upserts, removals) = diff(&self.sent, &view);
        let fresh = self.signed.elapsed() < REFRESH;
        if self.synced && fresh && upserts.is_empty() && removals.is_empty() {
            let again = self.seat.up_to_date(world.revision, world.turn, view.keys().cloned().collect());
            self.sent = view;
            return Ok((None, again));
        }
        let removals: Vec<wire::ResourceKey> = removals.into_iter().map(Into::into).collect();
        self.held.apply(&upserts, &removals);
        self.signed = Instant::now();
        let signature = self.held.sign(&push.own, &self.workload, world.revision, push.ledger.clock().now_ms());
        let delta = wire::Delta {
            version: world.revision,
            upserts: upserts.iter().map(|resource| (**resource).clone()).collect(),
            removals,
            first_sync_complete: !self.synced,
            signature,
        };
        self.synced = true;
        let again = self.seat.sent(world.revision, world.turn, view.keys().cloned().collect());
        self.unanswered.push_back((world.revision, Instant::now()));
        self.sent = view;
        Ok((Some(delta), again))
    }
}

fn first_reason(nack: &wire::Nack) -> String {
    let first = nack.problems.first().map(|problem| {
        let name = problem.key.as_ref().map(|key| key.name.as_str()).unwrap_or_default();
        format!("{name} {}", problem.reason).trim().chars().take(300).collect::<String>()
    });
    match (first, nack.problems.len()) {
        (Some(first), 0 | 1) => first,
        (Some(first), more) => format!("{first} (and {} more)", more - 1),
        (None, _) => "no reason given".to_string(),
    }
}
