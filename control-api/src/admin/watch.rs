//! The present state, then every change. Two changes of one resource in quick succession may arrive as one.

use super::{Operators, resources};
use crate::ledger::{Kind, Ledger, Meta, World};
use crate::operators::{Rights, Who};
use crate::validate::ResourceRef;
use isthmus_proto::admin::v1::{StoredResource, WatchEvent, WatchRequest};
use rpds::RedBlackTreeMapSync;
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Events ahead of a slow reader; behind it, changes merge instead of piling up.
const AHEAD: usize = 64;

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
    loop {
        let world = worlds.borrow_and_update().clone();
        let touched = if synced { touched(&this.ledger, seen, world.turn) } else { None };
        seen = world.turn;
        // Asked anew with each change: a role may have been taken away since.
        let rights = Rights::of(&world, who);
        if !rights.any() {
            return Err(Status::permission_denied(format!("operator {} has no role any more", who.name)));
        }
        for event in events((&world, &known), touched.as_ref(), request, &rights)? {
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
