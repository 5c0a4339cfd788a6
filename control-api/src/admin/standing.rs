//! Resources with how they stand: the `status` that Kubernetes would show, who changed them last, and in how many proxies
//! that is in force. Found out at the moment of asking, as it follows from what the proxies have acknowledged.

use super::{Operators, resources, wait};
use crate::history::{self, Head};
use crate::ledger::World;
use crate::operators::Caller;
use crate::push::registry::Progress;
use crate::store::StoreError;
use crate::validate::ResourceRef;
use crate::validate::cross::{self, Fault};
use crate::validate::resource::selects;
use isthmus_proto::admin::v1::{GetResponse, ListRequest, ListResponse, StoredResource};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// Who changed what when. What is in force is told without it, too: that is known here, and asked for most when the store
/// is out of reach.
fn noted(heads: Result<Vec<Head>, StoreError>) -> (HashMap<u64, Head>, Vec<String>) {
    match heads {
        Ok(heads) => (heads.into_iter().map(|head| (head.revision, head)).collect(), Vec::new()),
        Err(error) => {
            let missing = "this is what is in force; who changed it when is missing";
            (HashMap::new(), vec![format!("{missing}: {error}")])
        }
    }
}

pub(super) fn get(this: &Operators, key: &ResourceRef, with_status: bool) -> Result<GetResponse, Status> {
    let world = this.ledger.world();
    let missing = || Status::not_found(format!("there is no {key}"));
    let revision = world.meta.get(key).ok_or_else(missing)?.revision;
    if !with_status {
        let resource = Some(resources::stored(&world, key, None)?.ok_or_else(missing)?);
        return Ok(GetResponse { resource, warnings: Vec::new() });
    }
    let head = history::head(&**this.ledger.store(), revision);
    let (heads, warnings) = noted(head.map(|head| head.into_iter().collect()));
    let found = cross::check_changed(&world.resources, std::slice::from_ref(key), &this.ledger.trust().trust_domain);
    let mut asked = Asked { this, world: &world, heads, faults: found.faults, reached: HashMap::new() };
    Ok(GetResponse { resource: Some(asked.one(key)?.ok_or_else(missing)?), warnings })
}

pub(super) fn list(this: &Operators, caller: &Caller, request: &ListRequest) -> Result<ListResponse, Status> {
    let world = this.ledger.world();
    let wanted = world.resources.values().filter(|resource| {
        resources::matches(&resource.key, &request.kind, &request.namespace)
            && selects(&request.labels, &resource.labels)
            && caller.sees_resource(&resource.key)
    });
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    if request.status {
        let heads;
        (heads, warnings) = noted(history::heads(&**this.ledger.store()));
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
    Ok(ListResponse { revision: world.revision, resources: found, warnings })
}

/// Of some of the resources, how they stand. Asked again and again: without who changed them when.
pub(super) fn of_all<'a>(
    this: &Operators,
    world: &World,
    keys: impl Iterator<Item = &'a ResourceRef>,
) -> Result<Vec<StoredResource>, Status> {
    let faults = cross::check(&world.resources, &this.ledger.trust().trust_domain).faults;
    let mut asked = Asked { this, world, heads: HashMap::new(), faults, reached: HashMap::new() };
    keys.filter_map(|key| asked.one(key).transpose()).collect()
}

/// What tells one standing from another, without writing documents.
pub(super) fn counts(
    this: &Operators,
    world: &World,
    revisions: &BTreeSet<u64>,
) -> Result<BTreeMap<u64, (u32, u32, u32)>, Status> {
    let mut asked = Asked { this, world, heads: HashMap::new(), faults: Vec::new(), reached: HashMap::new() };
    let count = |reached: Reached| (reached.affected, reached.in_force, reached.refused);
    revisions.iter().map(|revision| Ok((*revision, count(asked.reached(*revision)?)))).collect()
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
        for (_, progress) in self.this.registry.progress_everywhere(&commit, self.this.ledger.clock().now_ms()).0 {
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
