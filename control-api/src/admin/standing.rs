//! Resources with how they stand: the `status` that Kubernetes would show, who changed them last, and in how many proxies
//! that is in force. Found out at the moment of asking, as it follows from what the proxies have acknowledged.

use super::{Operators, resources, wait};
use crate::history::{self, Head};
use crate::identity::tokens::unavailable;
use crate::ledger::World;
use crate::operators::Caller;
use crate::push::registry::Progress;
use crate::validate::ResourceRef;
use crate::validate::cross::{self, Fault};
use crate::validate::resource::selects;
use isthmus_proto::admin::v1::{ListRequest, ListResponse, StoredResource};
use serde_json::{Value, json};
use std::collections::HashMap;
use tonic::Status;

/// How far the last change of something has got with those whom it concerns.
#[derive(Clone, Copy, Default)]
struct Reached {
    affected: u32,
    in_force: u32,
    refused: u32,
}

/// What is asked once for a whole answer.
struct Asked<'a> {
    this: &'a Operators,
    world: &'a World,
    heads: HashMap<u64, Head>,
    faults: Vec<Fault>,
    /// By revision: what came together was changed together.
    reached: HashMap<u64, Reached>,
}

pub(super) fn get(this: &Operators, key: &ResourceRef, with_status: bool) -> Result<StoredResource, Status> {
    let world = this.ledger.world();
    let missing = || Status::not_found(format!("there is no {key}"));
    let revision = world.meta.get(key).ok_or_else(missing)?.revision;
    if !with_status {
        return resources::stored(&world, key, None)?.ok_or_else(missing);
    }
    let head = history::head(&**this.ledger.store(), revision).map_err(unavailable)?;
    let found = cross::check_changed(&world.resources, std::slice::from_ref(key), &this.ledger.trust().trust_domain);
    let heads = head.into_iter().map(|head| (head.revision, head)).collect();
    let mut asked = Asked { this, world: &world, heads, faults: found.faults, reached: HashMap::new() };
    asked.one(key)?.ok_or_else(missing)
}

pub(super) fn list(this: &Operators, caller: &Caller, request: &ListRequest) -> Result<ListResponse, Status> {
    let world = this.ledger.world();
    let wanted = world.resources.values().filter(|resource| {
        resources::matches(&resource.key, &request.kind, &request.namespace)
            && selects(&request.labels, &resource.labels)
            && caller.sees_resource(&resource.key)
    });
    let mut found = Vec::new();
    if request.status {
        let heads = history::heads(&**this.ledger.store()).map_err(unavailable)?;
        let heads = heads.into_iter().map(|head| (head.revision, head)).collect();
        let faults = cross::check(&world.resources, &this.ledger.trust().trust_domain).faults;
        let mut asked = Asked { this, world: &world, heads, faults, reached: HashMap::new() };
        for resource in wanted {
            found.extend(asked.one(&resource.key)?);
        }
    } else {
        for resource in wanted {
            found.extend(resources::stored(&world, &resource.key, None)?);
        }
    }
    Ok(ListResponse { revision: world.revision, resources: found })
}

impl Asked<'_> {
    fn one(&mut self, key: &ResourceRef) -> Result<Option<StoredResource>, Status> {
        let Some(meta) = self.world.meta.get(key) else { return Ok(None) };
        let reached = self.reached(meta.revision)?;
        // Kubernetes' own kinds of endpoints have no status, and would not take one back.
        let has_status = !matches!(key.kind.as_str(), "Endpoints" | "EndpointSlice");
        let status = has_status.then(|| self.status(key, meta.revision, reached));
        let Some(stored) = resources::stored(self.world, key, status)? else { return Ok(None) };
        let head = self.heads.get(&meta.revision);
        Ok(Some(StoredResource {
            changed_unix_ms: head.map_or(0, |head| head.at_unix_ms),
            changed_by: head.map(|head| head.who.clone()).unwrap_or_default(),
            affected: reached.affected,
            in_force: reached.in_force,
            ..stored
        }))
    }

    fn reached(&mut self, revision: u64) -> Result<Reached, Status> {
        if let Some(reached) = self.reached.get(&revision) {
            return Ok(*reached);
        }
        let commit = wait::find(self.this, revision)?;
        let mut reached = Reached::default();
        for (_, progress) in self.this.registry.progress(&commit) {
            reached.affected += u32::from(progress != Progress::Offline);
            reached.in_force += u32::from(progress == Progress::Acknowledged);
            reached.refused += u32::from(matches!(progress, Progress::Refused(_)));
        }
        self.reached.insert(revision, reached);
        Ok(reached)
    }

    /// Conditions as Kubernetes has them.
    fn status(&self, key: &ResourceRef, revision: u64, reached: Reached) -> Value {
        let since = self.heads.get(&revision).and_then(|head| jiff::Timestamp::from_millisecond(head.at_unix_ms).ok());
        let condition = |kind: &str, holds: &str, reason: &str, message: String| {
            let mut condition = json!({ "type": kind, "status": holds, "reason": reason, "message": message });
            if let Some(since) = since {
                condition["lastTransitionTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            }
            condition
        };
        let Reached { affected, in_force, refused } = reached;
        let (holds, reason) = match (affected, refused) {
            (0, _) => ("True", "NobodyConcerned"),
            (all, _) if all == in_force => ("True", "Everywhere"),
            (_, 0) => ("False", "OnTheWay"),
            _ => ("False", "Refused"),
        };
        let message = match (affected, refused) {
            (0, _) => "its last change concerns no connected proxy".to_string(),
            (_, 0) => format!("{in_force} of {affected} connected proxies that its last change concerns have it"),
            _ => format!("{in_force} of {affected} connected proxies have it, {refused} refused it"),
        };
        let fault = self.faults.iter().find(|fault| fault.key == *key);
        let conflicted = match fault {
            Some(fault) => condition("Conflicted", "True", "DoesNotFit", format!("{}: {}", fault.field, fault.reason)),
            None => condition("Conflicted", "False", "Fits", "it fits what else is stored".to_string()),
        };
        let accepted = condition("Accepted", "True", "Valid", format!("stored at revision {revision}"));
        json!({ "conditions": [accepted, condition("InForce", holds, reason, message), conflicted] })
    }
}
