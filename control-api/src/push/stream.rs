//! One proxy's stream: welcome, first sync, then a delta whenever its view differs from what it was sent.
//!
//! It sleeps until the [`super::registry`] wakes it for a commit that concerns it, or its proxy asks for something. At most
//! [`UNANSWERED`] deltas are on their way, and after one for a commit comes a [`PAUSE`]; while a proxy is slow or commits
//! come in a burst, changes pile up nowhere: the next delta is the difference to the latest world. A proxy that stops
//! answering is let go, and so is one whose certificate has ended, whose workload is gone, or that was replaced by a newer
//! stream of the same workload.
//!
//! A stream is idle nearly all of the time, and there are thousands: what is needed only now and then is boxed.

use super::encoded::{self, Encoded};
use super::registry::Seat;
use super::server::Message;
use super::signed::{self, REFRESH};
use super::{Outgoing, Push};
use crate::index::{Told, View, diff};
use crate::ledger::World;
use crate::live::Questions;
use isthmus_certs::PeerIdentity;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::discovery::v1::{Hello, ProxyMessage, control_message, proxy_message};
use isthmus_proto::live::v1::Question;
use isthmus_proto::model::ResourceKey;
use isthmus_proto::{FEATURES, LIVE, PROTOCOL};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Deltas that a proxy has not answered. One would make each look-up wait for the answer to the one before.
const UNANSWERED: usize = 8;
/// Between two deltas for commits; a burst is one push, and a single change does not wait.
const PAUSE: Duration = Duration::from_millis(20);
/// Of one message, about. A first sync that is larger comes in several, which the proxy takes as one: what is sent at once
/// is what the stream's buffer keeps for as long as it is open.
const MAX_DELTA: usize = 1 << 10;
/// After this long without an answer a proxy is taken for hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Keys that one proxy may subscribe to: an app that scans must not make the control plane hold its whole range.
const MAX_SUBSCRIPTIONS: usize = 16_384;

pub(super) struct Stream<'a> {
    seat: &'a Seat<'a>,
    peer: &'a PeerIdentity,
    workload: String,
    can_answer: bool,
    subscriptions: BTreeSet<ResourceKey>,
    /// What the proxy holds once it has applied all that was sent.
    sent: View,
    /// Keys that it has asked for again: as if they had never been answered.
    again: BTreeSet<ResourceKey>,
    signed: Instant,
    synced: bool,
    unanswered: VecDeque<(u64, Instant)>,
    /// Operators' questions that it was asked, or was not concerned by.
    looked: BTreeSet<u64>,
    /// The proxy has asked for something; something was committed; how long commits wait, so that a burst is one push.
    asked: bool,
    woken: bool,
    pause: Instant,
    /// Of the certificate.
    ends: Instant,
}

pub(super) async fn run(
    push: &Push,
    stream: &mut Stream<'_>,
    incoming: &mut Streaming<ProxyMessage>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let mut looks = push.looks.subscribe();
    send(outgoing, encoded::message(control_message::Message::Welcome(welcome(push.ledger.clock().now_ms())))).await?;
    loop {
        tokio::select! {
            // Proxy first: its answers make room.
            biased;
            () = push.shutdown.cancelled() => return Err(Status::unavailable("the control plane is stopping; reconnect")),
            () = stream.seat.replaced.cancelled() => return Err(Status::aborted("this stream was taken over or let go; reconnect")),
            () = tokio::time::sleep_until(stream.due()) => stream.time()?,
            message = incoming.message() => match message? {
                Some(message) => stream.receive(message, push.ledger.clock().now_ms(), outgoing)?,
                None => return Ok(()),
            },
            () = stream.seat.wake.notified() => {
                stream.woken = true;
                if push.ledger.trust().revocations.cover(stream.peer) {
                    return Err(Status::permission_denied(format!("certificate {} was revoked", stream.peer.serial)));
                }
            }
            Ok(()) = looks.changed() => {
                let questions = looks.borrow_and_update().clone();
                let asked = stream.asked(&questions).into_iter().map(control_message::Message::Question);
                Box::pin(send_all(outgoing, asked.map(encoded::message))).await?;
            }
            permit = outgoing.reserve(), if stream.has_work() => {
                let Ok(permit) = permit else { return Ok(()) };
                let mut parts = stream.next_delta(push, &push.ledger.world())?;
                if let Some(first) = parts.next() {
                    permit.send(Ok(first));
                }
                if parts.more {
                    Box::pin(send_all(outgoing, parts)).await?;
                }
            }
        }
    }
}

/// A delta as messages of bearable size, each written when it is asked for. Only a first sync is ever split: a proxy builds
/// it aside until it is complete, and answers once.
struct Parts<'a> {
    upserts: std::vec::IntoIter<Arc<Told>>,
    /// All but the upserts; comes with the last of them.
    rest: wire::Delta,
    encoded: &'a Encoded,
    more: bool,
}

impl Iterator for Parts<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if !self.more {
            return None;
        }
        let (mut part, mut size) = (Vec::new(), 0);
        let is_split = self.rest.first_sync_complete;
        while size <= MAX_DELTA || !is_split {
            let Some(told) = self.upserts.next() else {
                self.more = false;
                return Some(encoded::delta(&self.rest, &part));
            };
            // What many are told at once is remembered; a first sync would only push it out.
            let bytes = if is_split { told.bytes().into() } else { self.encoded.of(&told) };
            size += bytes.len();
            part.push(bytes);
        }
        Some(encoded::delta(&wire::Delta { version: self.rest.version, ..wire::Delta::default() }, &part))
    }
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

async fn send(outgoing: &Outgoing, message: Message) -> Result<(), Status> {
    outgoing.send(Ok(message)).await.map_err(|_| Status::cancelled("the proxy is gone"))
}

async fn send_all(outgoing: &Outgoing, messages: impl Iterator<Item = Message>) -> Result<(), Status> {
    let all = async {
        for message in messages {
            send(outgoing, message).await?;
        }
        Ok(())
    };
    let taken = tokio::time::timeout(ANSWER_WITHIN, all).await;
    taken.map_err(|_| Status::deadline_exceeded("a delta was not read for 60 s"))?
}

impl<'a> Stream<'a> {
    /// Nothing was sent yet.
    pub(super) fn new(
        seat: &'a Seat<'a>,
        peer: &'a PeerIdentity,
        hello: Box<Hello>,
        now_ms: i64,
    ) -> Result<Self, Status> {
        let hello = *hello;
        let not_after_ms = i64::try_from(peer.not_after.as_secs()).unwrap_or(0).saturating_mul(1000);
        let now = Instant::now();
        let mut stream = Stream {
            seat,
            peer,
            workload: hello.workload,
            can_answer: hello.features.iter().any(|feature| feature == LIVE),
            subscriptions: BTreeSet::new(),
            sent: View::default(),
            again: BTreeSet::new(),
            signed: now,
            synced: false,
            unanswered: VecDeque::new(),
            looked: BTreeSet::new(),
            asked: true,
            woken: false,
            pause: now,
            ends: now + until_ms(not_after_ms.saturating_sub(now_ms)),
        };
        stream.subscribe(hello.subscriptions, Vec::new())?;
        Ok(stream)
    }

    fn has_room(&self) -> bool {
        self.unanswered.len() < UNANSWERED
    }

    /// Commits alone wait a moment after each other.
    fn is_paused(&self) -> bool {
        self.woken && !self.asked && self.pause > Instant::now()
    }

    fn has_work(&self) -> bool {
        (self.asked || self.woken) && self.has_room() && !self.is_paused()
    }

    fn hung(&self) -> Option<Instant> {
        self.unanswered.front().map(|(_, since)| *since + ANSWER_WITHIN)
    }

    /// When something comes to its end.
    fn due(&self) -> Instant {
        let refresh = (!self.asked).then(|| self.signed + REFRESH);
        let pause = self.is_paused().then_some(self.pause);
        let all = [self.hung(), refresh, pause].into_iter().flatten();
        all.fold(self.ends, Instant::min)
    }

    /// What has come to its end.
    fn time(&mut self) -> Result<(), Status> {
        let now = Instant::now();
        if now >= self.ends {
            return Err(Status::unauthenticated("the certificate has ended; renew it"));
        }
        if self.hung().is_some_and(|hung| now >= hung) {
            return Err(Status::deadline_exceeded("no answer to a delta for 60 s"));
        }
        self.asked |= now >= self.signed + REFRESH;
        Ok(())
    }

    /// What operators ask that it was not asked yet.
    fn asked(&mut self, questions: &Questions) -> Vec<Question> {
        self.looked.retain(|id| questions.contains_key(id));
        let fresh = questions.iter().filter(|(id, _)| self.looked.insert(**id)).map(|(_, question)| question);
        let concerned = fresh.filter(|question| question.asks(&self.workload, self.can_answer));
        concerned.map(|question| question.wire.clone()).collect()
    }

    /// Takes one message in. An answer changes nothing of what is to be sent: what waits for room is noted.
    fn receive(&mut self, message: ProxyMessage, now_ms: i64, outgoing: &Outgoing) -> Result<(), Status> {
        match message.message {
            Some(proxy_message::Message::Ack(ack)) => {
                self.answered(ack.version);
                self.seat.acked(ack.version, now_ms);
            }
            Some(proxy_message::Message::Nack(nack)) => {
                let reason = first_reason(&nack);
                tracing::warn!(workload = self.workload, version = nack.version, reason, "proxy refused a push");
                self.answered(nack.version);
                self.seat.nacked(nack.version, reason, now_ms);
            }
            Some(proxy_message::Message::Subscribe(change)) => {
                self.subscribe(change.add, change.drop)?;
                self.asked = true;
            }
            Some(proxy_message::Message::Health(health)) => {
                self.seat.health(Some(&health));
            }
            Some(proxy_message::Message::Probed(probed)) => self.seat.probed(&probed, now_ms),
            Some(proxy_message::Message::Clock(theirs)) => {
                self.seat.clock(theirs.unix_ms.saturating_sub(now_ms));
                let ours = control_message::Message::Clock(wire::Clock { unix_ms: now_ms });
                // Behind a full queue it would be old; the proxy asks again.
                let _ = outgoing.try_send(Ok(encoded::message(ours)));
            }
            Some(proxy_message::Message::Hello(_)) => {
                return Err(Status::invalid_argument("a second hello on one stream"));
            }
            // From a newer proxy: it knows from our welcome that we may not understand.
            None => {}
        }
        Ok(())
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
                self.again.insert(key);
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

    /// The difference between what the proxy was sent and the world; nothing if there is none.
    fn next_delta<'p>(&mut self, push: &'p Push, world: &World) -> Result<Parts<'p>, Status> {
        let by_commit = self.woken;
        (self.asked, self.woken) = (false, false);
        if world.index.identity_of(&self.workload) != Some(&self.peer.id) {
            let reason = format!("Workload {} is gone, or has another identity now", self.workload);
            return Err(Status::permission_denied(reason));
        }
        let Some(view) = world.index.view(&self.workload, &self.subscriptions) else {
            return Err(Status::not_found(format!("there is no Workload {}", self.workload)));
        };
        if !self.again.is_empty() {
            self.sent = self.sent.without(&std::mem::take(&mut self.again));
        }
        let (upserts, removals) = diff(&self.sent, &view);
        let fresh = self.signed.elapsed() < REFRESH;
        let more = !(self.synced && fresh && upserts.is_empty() && removals.is_empty());
        let mut rest = wire::Delta { version: world.revision, ..wire::Delta::default() };
        self.sent = view.clone();
        if more {
            self.signed = Instant::now();
            let now_ms = push.ledger.clock().now_ms();
            rest.signature = signed::sign(&push.own, &view, &self.workload, world.revision, now_ms);
            rest.removals = removals.into_iter().map(Into::into).collect();
            rest.first_sync_complete = !std::mem::replace(&mut self.synced, true);
            self.woken = self.seat.sent(world.revision, world.turn, view);
            self.unanswered.push_back((world.revision, self.signed));
            if by_commit {
                self.pause = self.signed + PAUSE;
            }
        } else {
            self.woken = self.seat.up_to_date(world.revision, world.turn, view);
        }
        Ok(Parts { upserts: upserts.into_iter(), rest, encoded: &push.encoded, more })
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
