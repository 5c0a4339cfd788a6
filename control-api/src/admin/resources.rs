//! Between the ledger's words and the admin API's messages.

use crate::ledger::{Kind, Ledger, Outcome, Proposal, Prune, SET, World};
use crate::push::registry;
use crate::validate;
use crate::validate::ResourceRef as Key;
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::admin::v1::{Change, ChangeKind, Problem, Proxy, ResourceRef, StoredResource};
use std::collections::HashMap;
use tonic::Status;

/// Texts of a dry run, together. What is more is told by name alone.
const MAX_SHOWN: usize = 2 << 20;

pub(super) fn changes(outcome: &Outcome) -> Vec<Change> {
    let change = |(key, what): &(Key, Kind)| {
        let (before_yaml, after_yaml) = outcome.shown.get(key).cloned().unwrap_or_default();
        Change { resource: Some(write_ref(key)), kind: kind(*what).into(), before_yaml, after_yaml }
    };
    outcome.changes.iter().map(change).collect()
}

/// Finds what an apply prunes, at the revision at which it then has to happen: between looking and deleting nobody else
/// may have changed anything.
pub(super) fn prune(ledger: &Ledger, proposal: &mut Proposal, wanted: &wire::Prune) -> Result<(), Status> {
    let named = |name: &str| (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    let prune = match (wanted.set.as_str(), wanted.labels.is_empty()) {
        (set, true) if named(set) => Prune::Set(set.to_string()),
        ("", false) => Prune::Labels(wanted.labels.clone()),
        _ => return Err(Status::invalid_argument("pruning takes a set's name of at most 63 letters, or labels")),
    };
    if proposal.puts.is_empty() {
        let what = "an apply of nothing would prune everything; if that is meant, delete it";
        return Err(Status::invalid_argument(what));
    }
    let world = ledger.world();
    proposal.if_revision.get_or_insert(world.revision);
    proposal.deletes = prune.of(&world, &proposal.puts);
    proposal.prune = Some(prune);
    Ok(())
}

/// What a proposal would change, as it is and as it would be.
pub(super) fn shown(world: &World, proposal: &Proposal, outcome: &Outcome) -> HashMap<Key, (String, String)> {
    let yaml = |json: &serde_json::Value| serde_saphyr::to_string(json).unwrap_or_default();
    let mut shown = HashMap::new();
    let mut size = 0;
    for parsed in &proposal.puts {
        let (key, after) = (&parsed.resource.key, &parsed.resource.json);
        let before = world.resources.get(key).map(|resource| &resource.json);
        if before == Some(after) {
            continue;
        }
        let texts = (before.map(yaml).unwrap_or_default(), yaml(after));
        size += texts.0.len() + texts.1.len();
        if size > MAX_SHOWN {
            break;
        }
        shown.insert(key.clone(), texts);
    }
    for (key, _) in outcome.changes.iter().filter(|(_, kind)| *kind == Kind::Deleted) {
        let before = world.resources.get(key).map(|resource| yaml(&resource.json)).unwrap_or_default();
        size += before.len();
        if size > MAX_SHOWN {
            break;
        }
        shown.insert(key.clone(), (before, String::new()));
    }
    shown
}

pub(super) fn kind(kind: Kind) -> ChangeKind {
    match kind {
        Kind::Created => ChangeKind::Created,
        Kind::Updated => ChangeKind::Updated,
        Kind::Unchanged => ChangeKind::Unchanged,
        Kind::Deleted => ChangeKind::Deleted,
    }
}

pub(super) fn problem(problem: validate::Problem) -> Problem {
    Problem {
        resource: (!problem.resource.kind.is_empty()).then(|| write_ref(&problem.resource)),
        source: problem.source,
        line: problem.line,
        column: problem.column,
        field: problem.field,
        reason: problem.reason,
    }
}

pub(super) fn write_ref(key: &Key) -> ResourceRef {
    ResourceRef { kind: key.kind.clone(), namespace: key.namespace.clone(), name: key.name.clone() }
}

pub(super) fn read_ref(wire: ResourceRef) -> Key {
    Key { kind: wire.kind, namespace: wire.namespace, name: wire.name }
}

pub(super) fn matches(key: &Key, kind: &str, namespace: &str) -> bool {
    (kind.is_empty() || key.kind == kind) && (namespace.is_empty() || key.namespace == namespace)
}

/// A resource as it is stored, in both spellings.
pub(super) fn stored(
    world: &World,
    key: &Key,
    status: Option<serde_json::Value>,
) -> Result<Option<StoredResource>, Status> {
    let (Some(resource), Some(meta)) = (world.resources.get(key), world.meta.get(key)) else {
        return Ok(None);
    };
    let cannot = |error: String| Status::internal(format!("{key} cannot be written: {error}"));
    let mut document = resource.json.clone();
    // Whoever writes it back says by this which version it was written from.
    document["metadata"]["resourceVersion"] = meta.revision.to_string().into();
    if let Some(status) = status {
        document["status"] = status;
    }
    let origin = match meta.origin.strip_prefix(SET) {
        Some(set) => format!("set {set}"),
        None => meta.origin.strip_prefix("file:").unwrap_or(&meta.origin).to_string(),
    };
    Ok(Some(StoredResource {
        resource: Some(write_ref(key)),
        yaml: serde_saphyr::to_string(&document).map_err(|error| cannot(error.to_string()))?,
        json: serde_json::to_string(&document).map_err(|error| cannot(error.to_string()))?,
        revision: meta.revision,
        origin,
        ..StoredResource::default()
    }))
}

pub(super) fn proxy(proxy: registry::Proxy, replica: String) -> Proxy {
    Proxy {
        replica,
        workload: proxy.workload,
        spiffe_id: proxy.spiffe_id,
        build_version: proxy.build_version,
        connected: proxy.connected,
        sent_version: proxy.sent,
        acknowledged_version: proxy.acked,
        last_error: proxy.last_error,
        last_seen_unix_ms: proxy.last_seen_unix_ms,
        certificate_serial: proxy.serial,
        certificate_not_after_unix_ms: proxy.not_after_unix_ms,
        refused_version: proxy.nacked,
        behind_ms: proxy.behind_since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(0).max(1)),
    }
}
