//! The discovery stream: hello, subscribe, apply, acknowledge; and connect again, for ever.
//!
//! While there is no stream the data path serves the last snapshot. Addresses that somebody waits for are noted
//! meanwhile and go into the next hello.

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{Clock, TrustBundle};
use isthmus_proto::discovery::v1::{self as wire, RawControlMessage, proxy_message, raw_control_message};
use isthmus_proto::{FEATURES, PROTOCOL};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{info, warn};

use super::enroll::{ANSWER_DEADLINE, answer_in_time};
use super::keeper::Keeper;
use super::live::Answers;
use super::probed::{Probed, Telling};
use super::skew::{self, Comparison};
use super::sync::{Answer, Sync};
use super::{Context, ControlError, machine, revoked};
use crate::probe::Health;
use crate::state::standing::{Noted, Serving};
use crate::state::{Demands, Mesh};

const FIRST_RETRY: Duration = Duration::from_millis(100);
/// A control plane that comes back is found again within this, and a fleet does not arrive at once.
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// The whole view, 100,000 endpoints at most.
const FIRST_SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// A view of the design size in one message, with room.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Messages to the control plane that it has not taken yet. Full: the stream is broken, a new one starts afresh.
const OUTBOX: usize = 1_024;
/// Called by its path, because its messages are read as what they are made of ([`wire::RawControlMessage`]).
const METHOD: &str = "/isthmus.discovery.v1.Discovery/Stream";

/// What this proxy found by asking.
pub struct Told {
    /// Of the app beside us; none: nobody asks.
    pub health: watch::Receiver<Option<Health>>,
    /// Of endpoints without sidecar.
    pub probed: watch::Receiver<Arc<[Probed]>>,
}

/// Ends only with the proxy.
pub(super) async fn keep_current(
    context: &Context,
    (mut demands, mut told): (Demands, Told),
    used: Vec<std::net::IpAddr>,
) {
    let mut sync = Sync::new(&context.workload, context.identities.trust_domain());
    sync.used(used);
    let mut keeper = context.start.owner_of(&context.workload).and_then(|owner| Keeper::new(&context.start, owner));
    let mut retry = FIRST_RETRY;
    context.metrics.control_current(false);
    loop {
        let session = session(context, &mut sync, (&mut demands, &mut told), &mut keeper).await;
        context.metrics.control_connected(false);
        context.metrics.control_current(false);
        context.channel.send_replace(None);
        context.failed.notify_one();
        // Whoever is replaced by another stream of the same workload must not replace that one in turn, and so on.
        if session.synced && !session.error.is_replaced() {
            retry = FIRST_RETRY;
        }
        let wait = retry.mul_f64(0.5 + 0.5 * rand::random::<f64>());
        let (error, version) = (context.named(session.error).await, context.state.snapshot().version);
        note_end(context, error.to_string());
        warn!("discovery: disconnected ({error}), serving version {version}, trying again in {} ms", wait.as_millis());
        pause(context, &mut sync, &mut demands, &mut keeper, wait).await;
        retry = (retry * 2).min(LONGEST_RETRY);
    }
}

fn note_end(context: &Context, what: String) {
    let at_ms = context.identities.clock().now_ms();
    context.start.standing().note(|facts| {
        if facts.connected || facts.since_ms == 0 {
            (facts.connected, facts.since_ms) = (false, at_ms);
        }
        facts.last_error = Some(Noted { at_ms, what });
    });
}

/// The next piece of the keeper's work, where there is a keeper.
async fn keep(keeper: &mut Option<Keeper>, context: &Context) {
    match keeper {
        Some(keeper) => keeper.work(context).await,
        None => std::future::pending().await,
    }
}

/// Why a session ended, and whether it had completed its first sync.
struct Ended {
    error: ControlError,
    synced: bool,
}

/// Waits, and notes what is asked for meanwhile: it goes into the next hello.
async fn pause(context: &Context, sync: &mut Sync, demands: &mut Demands, keeper: &mut Option<Keeper>, wait: Duration) {
    let until = tokio::time::sleep(wait);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => return,
            () = keep(keeper, context) => {}
            Some(ip) = demands.next() => {
                if let Some((_, Some(old))) = sync.want(ip, &context.state.snapshot()) {
                    forget(context, old);
                }
            }
        }
    }
}

fn forget(context: &Context, old: std::net::IpAddr) {
    let mut mesh = Mesh::clone(&context.state.snapshot());
    mesh.forget(old);
    context.state.publish(mesh);
}

async fn session(
    context: &Context,
    sync: &mut Sync,
    (demands, told): (&mut Demands, &mut Told),
    keeper: &mut Option<Keeper>,
) -> Ended {
    let mut synced = false;
    let error = match open(context, sync, told).await {
        Ok(stream) => converse(context, (sync, keeper), (demands, told), stream, &mut synced).await,
        Err(error) => error,
    };
    Ended { error, synced }
}

/// An open stream: what we say, and what is said to us.
struct Open {
    say: mpsc::Sender<wire::ProxyMessage>,
    hear: Streaming<wire::RawControlMessage>,
    telling: Telling,
}

async fn open(context: &Context, sync: &mut Sync, told: &mut Told) -> Result<Open, ControlError> {
    let channel = context.connect().await?;
    let clock = context.identities.clock();
    let (say, outbox) = mpsc::channel(OUTBOX);
    let asked_ms = clock.now_ms();
    let hello = wire::Hello {
        protocol: PROTOCOL,
        build_version: context.start.build_version().to_owned(),
        features: FEATURES.iter().map(ToString::to_string).collect(),
        workload: context.workload.clone(),
        client_time_unix_ms: asked_ms,
        subscriptions: sync.begin(),
        machine: Some(machine::this()),
        revocations: revoked::shown(context),
        health: told.health.borrow_and_update().as_ref().map(in_words),
    };
    send(&say, proxy_message::Message::Hello(hello))?;
    let mut hear = answer_in_time(call(channel.clone(), outbox)).await?;
    let first = timeout(ANSWER_DEADLINE, hear.message()).await;
    let first = first.map_err(|_| ControlError::Timeout(ANSWER_DEADLINE.as_secs()))?.map_err(ControlError::Refused)?;
    let telling = match first.and_then(|m| m.message) {
        Some(raw_control_message::Message::Welcome(welcome)) if welcome.protocol == PROTOCOL => {
            let now_ms = clock.now_ms();
            skew::note(&context.metrics, asked_ms, now_ms, welcome.server_time_unix_ms);
            info!("discovery: connected to control plane {}", welcome.build_version);
            context.start.standing().note(|facts| {
                (facts.connected, facts.since_ms) = (true, now_ms);
                facts.control_build = welcome.build_version;
            });
            context.reached.notify_waiters();
            Telling::new(&welcome.features, &told.probed)
        }
        Some(raw_control_message::Message::Welcome(welcome)) => {
            let reason = format!("it speaks protocol {}, this proxy {PROTOCOL}", welcome.protocol);
            return Err(ControlError::BadAnswer(reason));
        }
        _ => return Err(ControlError::BadAnswer("its first message is no welcome".to_owned())),
    };
    context.metrics.control_connected(true);
    context.channel.send_replace(Some(channel));
    Ok(Open { say, hear, telling })
}

async fn call(
    channel: tonic::transport::Channel,
    outbox: mpsc::Receiver<wire::ProxyMessage>,
) -> Result<tonic::Response<Streaming<wire::RawControlMessage>>, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    client.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
    let codec = tonic_prost::ProstCodec::<wire::ProxyMessage, wire::RawControlMessage>::default();
    let path = http::uri::PathAndQuery::from_static(METHOD);
    client.streaming(tonic::Request::new(ReceiverStream::new(outbox)), path, codec).await
}

/// Until the stream breaks.
async fn converse(
    context: &Context,
    (sync, keeper): (&mut Sync, &mut Option<Keeper>),
    (demands, told): (&mut Demands, &mut Told),
    mut stream: Open,
    synced: &mut bool,
) -> ControlError {
    let sync_deadline = tokio::time::sleep_until(Instant::now() + FIRST_SYNC_DEADLINE);
    tokio::pin!(sync_deadline);
    if let Some(keeper) = keeper {
        keeper.begin();
    }
    let (mut answers, mut clocks) = (Answers::default(), Comparison::new(context.identities.clock()));
    loop {
        let done = tokio::select! {
            message = stream.hear.message() => match message {
                Ok(Some(RawControlMessage { message: Some(raw_control_message::Message::Clock(theirs)) })) => {
                    clocks.answered(&context.metrics, theirs.unix_ms);
                    Ok(())
                }
                Ok(Some(RawControlMessage { message: Some(raw_control_message::Message::Question(question)) })) => {
                    answers.begin(context, question);
                    Ok(())
                }
                Ok(Some(message)) => {
                    let taken = take(context, (sync, keeper), message, &stream.say, synced);
                    revoked::keep(context).await;
                    taken
                }
                Ok(None) => Err(ControlError::StreamEnded),
                Err(status) => Err(ControlError::Refused(status)),
            },
            Some(ip) = demands.next() => ask(context, sync, ip, &stream.say),
            Ok(()) = told.health.changed() => tell(&mut told.health, &stream.say),
            () = stream.telling.due(&mut told.probed) => {
                send(&stream.say, proxy_message::Message::Probed(stream.telling.say(&mut told.probed)))
            }
            () = keep(keeper, context) => Ok(()),
            () = clocks.until_due() => {
                send(&stream.say, proxy_message::Message::Clock(wire::Clock { unix_ms: clocks.ask() }))
            }
            () = &mut sync_deadline, if !*synced => Err(ControlError::Timeout(FIRST_SYNC_DEADLINE.as_secs())),
        };
        if let Err(error) = done {
            return error;
        }
    }
}

/// What is known of the app now.
fn tell(
    health: &mut watch::Receiver<Option<Health>>,
    say: &mpsc::Sender<wire::ProxyMessage>,
) -> Result<(), ControlError> {
    let Some(now) = health.borrow_and_update().as_ref().map(in_words) else { return Ok(()) };
    send(say, proxy_message::Message::Health(now))
}

fn in_words(health: &Health) -> wire::Health {
    wire::Health { ready: health.ready, reason: health.reason.clone() }
}

fn ask(
    context: &Context,
    sync: &mut Sync,
    ip: std::net::IpAddr,
    say: &mpsc::Sender<wire::ProxyMessage>,
) -> Result<(), ControlError> {
    let Some((subscribe, forgotten)) = sync.want(ip, &context.state.snapshot()) else {
        return Ok(());
    };
    if let Some(old) = forgotten {
        forget(context, old);
    }
    send(say, proxy_message::Message::Subscribe(subscribe))
}

fn take(
    context: &Context,
    (sync, keeper): (&mut Sync, &mut Option<Keeper>),
    message: wire::RawControlMessage,
    say: &mpsc::Sender<wire::ProxyMessage>,
    synced: &mut bool,
) -> Result<(), ControlError> {
    let Some(raw_control_message::Message::Delta(raw)) = message.message else {
        return Err(ControlError::BadAnswer("a message that is no delta".to_owned()));
    };
    let delta = read(&raw)?;
    if let Some(keeper) = keeper {
        keeper.take(&raw, &delta.upserts);
    }
    drop(raw);
    let outcome = sync.take(delta, &context.state.snapshot());
    if let Some(mesh) = outcome.publish {
        *synced = true;
        trust_roots(context, &mesh)?;
        revoked::take(context, &mesh);
        context.metrics.control_version(mesh.version);
        // Before the snapshot: who wakes by it looks here.
        context.start.standing().note(|facts| facts.serving = Serving::Live);
        context.state.publish(mesh);
    }
    match outcome.answer {
        None => Ok(()),
        Some(Answer::Ack(ack)) => {
            context.metrics.control_update(true);
            context.metrics.control_current(true);
            send(say, proxy_message::Message::Ack(ack))
        }
        Some(Answer::Nack(nack)) => {
            context.metrics.control_update(false);
            context.metrics.control_current(false);
            for problem in &nack.problems {
                let kind = problem.key.as_ref().map_or("", |key| key.name.as_str());
                warn!("discovery: version {} holds what cannot be used: {kind} {}", nack.version, problem.reason);
            }
            send(say, proxy_message::Message::Nack(nack))
        }
    }
}

/// The message that the raw one is.
fn read(raw: &wire::RawDelta) -> Result<wire::Delta, ControlError> {
    let upserts = raw.upserts.iter().map(|bytes| wire::Resource::decode(bytes.as_slice()));
    let upserts: Result<Vec<_>, _> = upserts.collect();
    let upserts = upserts.map_err(|e| ControlError::BadAnswer(format!("a resource: {e}")))?;
    Ok(wire::Delta {
        version: raw.version,
        upserts,
        removals: raw.removals.clone(),
        first_sync_complete: raw.first_sync_complete,
        signature: None,
    })
}

/// Roots before rules: a peer that the new snapshot allows must find its root trusted. And algorithms, so that no
/// connection that the snapshot leads to is made with others.
pub(super) fn trust_roots(context: &Context, mesh: &Mesh) -> Result<(), ControlError> {
    let before = context.identities.profile();
    if let Some(profile) = mesh.crypto_profile().filter(|profile| *profile != before) {
        info!("{}", profile.in_words());
        context.identities.set_profile(profile);
    }
    if let Some(others) = mesh.trust_domains().filter(|others| **others != *context.identities.others()) {
        let names: Vec<_> = others.keys().map(ToString::to_string).collect();
        info!(
            "other trust domains that are believed: {}",
            if names.is_empty() { "none".into() } else { names.join(", ") }
        );
        context.identities.set_others(others.clone());
    }
    if mesh.roots_der().is_empty() {
        return Ok(());
    }
    let told = TrustBundle::from_ders(mesh.roots_der());
    let told = told.map_err(|e| ControlError::BadAnswer(format!("roots: {e}")))?;
    if told.fingerprints() != context.identities.bundle().fingerprints() {
        info!("trust bundle: {} roots", told.roots().len());
        context.identities.set_bundle(told);
    }
    Ok(())
}

/// Never waits: the control plane that does not read what we say is as good as gone.
fn send(say: &mpsc::Sender<wire::ProxyMessage>, message: proxy_message::Message) -> Result<(), ControlError> {
    let message = wire::ProxyMessage { message: Some(message) };
    say.try_send(message).map_err(|_| ControlError::StreamEnded)
}
