//! The present state, then every change, and where that is asked for also how each stands among the proxies. Two changes
//! of one resource in quick succession may arrive as one.

use super::{Operators, resources, standing};
use crate::identity::blocking;
use crate::ledger::{Kind, Ledger, Meta, World};
use crate::operators::{Rights, Who};
use crate::validate::ResourceRef;
use isthmus_proto::admin::v1::{ChangeKind, StoredResource, WatchEvent, WatchRequest};
use rpds::RedBlackTreeMapSync;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Events ahead of a slow reader; behind it, changes merge instead of piling up.
const AHEAD: usize = 64;

/// Between two counts of how far things have got; a count that takes long is followed by a longer pause.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// The part of one core that counting takes at most: one in so many.
const SPARINGLY: u32 = 10;

/// What decides who sees what.
const ROLES: [&str; 2] = ["OperatorRole", "Tenant"];

type Events = mpsc::Sender<Result<WatchEvent, Status>>;

pub(super) fn start(this: &Operators, who: Who, request: WatchRequest) -> ReceiverStream<Result<WatchEvent, Status>> {
    let (send, receive) = mpsc::channel(AHEAD);
    let this = this.clone();
    this.tasks.clone().spawn(async move {
        let ended = tokio::select! {
            ended = follow(&this, &who, &request, &send) => ended,
            () = this.shutdown.cancelled() => Err(Status::unavailable("the control plane is stopping; watch again")),
            () = send.closed() => return,
        };
        if let Err(status) = ended {
            let _ = send.try_send(Err(status));
        }
    });
    ReceiverStream::new(receive)
}

async fn follow(this: &Operators, who: &Who, request: &WatchRequest, send: &Events) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the operator is gone");
    let mut worlds = this.ledger.watch();
    let mut known: RedBlackTreeMapSync<ResourceRef, Meta> = RedBlackTreeMapSync::default();
    let (mut synced, mut seen) = (false, 0);
    let mut standings = Standings { this, request, seen: BTreeMap::new(), again: None };
    let mut proxies = this.registry.watch();
    loop {
        let world = worlds.borrow_and_update().clone();
        let touched = if synced { touched(&this.ledger, seen, world.turn) } else { None };
        seen = world.turn;
        // Asked anew with each change: a role may have been taken away since.
        let rights = Rights::of(&world, who);
        if !rights.any() {
            return Err(Status::permission_denied(format!("operator {} has no role any more", who.name)));
        }
        let mut events = events((&world, &known), touched.as_ref(), request, &rights)?;
        if request.status {
            standings.add(&world, &rights, &mut events).await?;
        }
        for event in events {
            send.send(Ok(event)).await.map_err(gone)?;
        }
        known = world.meta.clone();
        if !synced {
            synced = true;
            let event = WatchEvent { revision: world.revision, synced: true, ..WatchEvent::default() };
            send.send(Ok(event)).await.map_err(gone)?;
        }
        tokio::select! {
            changed = worlds.changed() => {
                changed.map_err(|_| Status::unavailable("the control plane is stopping; watch again"))?;
            }
            () = standings.due(&mut proxies), if request.status => {}
        }
    }
}

/// How what is watched stands among the proxies, as it was told last.
struct Standings<'a> {
    this: &'a Operators,
    request: &'a WatchRequest,
    /// By revision: how many proxies are concerned, have it, and refused it.
    seen: BTreeMap<u64, (u32, u32, u32)>,
    /// Not before this moment.
    again: Option<Instant>,
}

impl Standings<'_> {
    /// Some proxy has said something, and there was a pause.
    async fn due(&self, proxies: &mut tokio::sync::watch::Receiver<u64>) {
        if proxies.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(again) = self.again {
            tokio::time::sleep_until(again).await;
        }
    }

    /// Puts the standing into the documents of events, and adds what stands otherwise than it was told.
    async fn add(&mut self, world: &Arc<World>, rights: &Rights, events: &mut Vec<WatchEvent>) -> Result<(), Status> {
        let wanted = |key: &ResourceRef| {
            resources::matches(key, &self.request.kind, &self.request.namespace) && rights.sees_resource(key)
        };
        let watched: Vec<(ResourceRef, u64)> =
            world.meta.iter().filter(|(key, _)| wanted(key)).map(|(key, meta)| (key.clone(), meta.revision)).collect();
        let mentioned = |event: &WatchEvent| event.resource.as_ref().and_then(|r| r.resource.clone());
        let mentioned: BTreeSet<ResourceRef> = events
            .iter()
            .filter_map(mentioned)
            .map(resources::read_ref)
            .filter(|key| world.meta.contains_key(key))
            .collect();
        let (this, world, before) = (self.this.clone(), world.clone(), std::mem::take(&mut self.seen));
        let count = move || {
            let began = Instant::now();
            let revisions: BTreeSet<u64> = watched.iter().map(|(_, revision)| *revision).collect();
            let now = standing::counts(&this, &world, &revisions)?;
            let moved = |revision: &u64| before.get(revision).is_some_and(|was| Some(was) != now.get(revision));
            let moved = watched.iter().filter(|(key, revision)| moved(revision) && !mentioned.contains(key));
            let keys: BTreeSet<&ResourceRef> = moved.map(|(key, _)| key).chain(&mentioned).collect();
            let told = if keys.is_empty() { Vec::new() } else { standing::of_all(&this, &world, keys.into_iter())? };
            Ok((now, told, began.elapsed()))
        };
        let (now, told, took) = blocking(count).await?;
        self.seen = now;
        self.again = Some(Instant::now() + COUNT_EVERY.max(took * SPARINGLY));
        let mut told: BTreeMap<ResourceRef, StoredResource> = told
            .into_iter()
            .filter_map(|stored| Some((resources::read_ref(stored.resource.clone()?), stored)))
            .collect();
        for event in events.iter_mut() {
            let key = event.resource.as_ref().and_then(|r| r.resource.clone()).map(resources::read_ref);
            if let Some(stored) = key.and_then(|key| told.remove(&key)) {
                event.resource = Some(stored);
            }
        }
        events.extend(told.into_values().map(|stored| WatchEvent {
            revision: stored.revision,
            kind: ChangeKind::Status.into(),
            resource: Some(stored),
            synced: false,
        }));
        Ok(())
    }
}

/// What changed since a turn; none where everything has to be looked at: that is too long ago, or roles have changed, and
/// with them what may be seen.
fn touched(ledger: &Ledger, seen: u64, now: u64) -> Option<BTreeSet<ResourceRef>> {
    let commits = ledger.committed_after(seen, now)?;
    let touched: BTreeSet<_> = commits.iter().flat_map(|commit| commit.touched.iter().cloned()).collect();
    (!touched.iter().any(|key| ROLES.contains(&key.kind.as_str()))).then_some(touched)
}

/// From what is known to the world. `touched`: nothing else is to be looked at.
fn events(
    (world, known): (&World, &RedBlackTreeMapSync<ResourceRef, Meta>),
    touched: Option<&BTreeSet<ResourceRef>>,
    request: &WatchRequest,
    rights: &Rights,
) -> Result<Vec<WatchEvent>, Status> {
    let wanted =
        |key: &ResourceRef| resources::matches(key, &request.kind, &request.namespace) && rights.sees_resource(key);
    let (present, gone): (Vec<&ResourceRef>, Vec<&ResourceRef>) = match touched {
        Some(touched) => touched.iter().filter(|key| wanted(key)).partition(|key| world.meta.contains_key(*key)),
        None => {
            let gone = known.keys().filter(|key| wanted(key) && !world.meta.contains_key(*key));
            (world.meta.keys().filter(|key| wanted(key)).collect(), gone.collect())
        }
    };
    let mut events = Vec::new();
    for key in present {
        let Some(meta) = world.meta.get(key) else { continue };
        let kind = match known.get(key) {
            Some(old) if old == meta => continue,
            Some(_) => Kind::Updated,
            None => Kind::Created,
        };
        let resource = resources::stored(world, key, None)?;
        events.push(WatchEvent {
            revision: meta.revision,
            kind: resources::kind(kind).into(),
            resource,
            synced: false,
        });
    }
    for key in gone.into_iter().filter(|key| known.contains_key(*key)) {
        let resource = StoredResource { resource: Some(resources::write_ref(key)), ..StoredResource::default() };
        let kind = resources::kind(Kind::Deleted).into();
        events.push(WatchEvent { revision: world.revision, kind, resource: Some(resource), synced: false });
    }
    Ok(events)
}
