//! The present state, then every change. Two changes of one resource in quick succession may arrive as one.

use super::{Operators, resources};
use crate::ledger::{Kind, Meta, World};
use crate::operators::{Rights, Who};
use crate::validate::ResourceRef;
use isthmus_proto::admin::v1::{StoredResource, WatchEvent, WatchRequest};
use rpds::RedBlackTreeMapSync;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Events ahead of a slow reader; behind it, changes merge instead of piling up.
const AHEAD: usize = 64;

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
    let mut synced = false;
    loop {
        let world = worlds.borrow_and_update().clone();
        // Asked anew with each change: a role may have been taken away since.
        let rights = Rights::of(&world, who);
        if !rights.any() {
            return Err(Status::permission_denied(format!("operator {} has no role any more", who.name)));
        }
        for event in events(&world, &known, request, &rights)? {
            send.send(Ok(event)).await.map_err(gone)?;
        }
        known = world.meta.clone();
        if !synced {
            synced = true;
            let event = WatchEvent { revision: world.revision, synced: true, ..WatchEvent::default() };
            send.send(Ok(event)).await.map_err(gone)?;
        }
        worlds.changed().await.map_err(|_| Status::unavailable("the control plane is stopping; watch again"))?;
    }
}

fn events(
    world: &World,
    known: &RedBlackTreeMapSync<ResourceRef, Meta>,
    request: &WatchRequest,
    rights: &Rights,
) -> Result<Vec<WatchEvent>, Status> {
    let wanted =
        |key: &ResourceRef| resources::matches(key, &request.kind, &request.namespace) && rights.sees_resource(key);
    let mut events = Vec::new();
    for (key, meta) in world.meta.iter().filter(|(key, _)| wanted(key)) {
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
    for key in known.keys().filter(|key| wanted(key) && !world.meta.contains_key(*key)) {
        let resource = StoredResource { resource: Some(resources::write_ref(key)), ..StoredResource::default() };
        let kind = resources::kind(Kind::Deleted).into();
        events.push(WatchEvent { revision: world.revision, kind, resource: Some(resource), synced: false });
    }
    Ok(events)
}
