//! What a source wants, and what it may: who owns a resource, which version it was written from, what goes because it is
//! not named any more.

use super::{Kind, Outcome, World, problem, unplaced};
use crate::store::{Change, Put};
use crate::validate::node::Value;
use crate::validate::resource::{Labels, selects};
use crate::validate::set::Set;
use crate::validate::{Parsed, Problem, ResourceRef};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How a resource's origin begins that was applied with a set's name.
pub const SET: &str = "set:";

/// What a source wants. It carries where each document came from, and nothing about how it was transported.
#[derive(Debug, Default)]
pub struct Proposal {
    pub puts: Vec<Parsed>,
    pub deletes: Vec<ResourceRef>,
    pub writer: Writer,
    pub author: Author,
    /// Refused unless this is still the present revision.
    pub if_revision: Option<u64>,
    /// What it prunes is among `deletes` already; this says to which set its documents belong from now on.
    pub prune: Option<Prune>,
}

/// Who it was and what he did, for the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// Empty: nobody, it happens by itself.
    pub who: String,
    pub how: String,
}

impl Author {
    pub fn new(who: &str, how: impl Into<String>) -> Self {
        Author { who: who.to_string(), how: how.into() }
    }

    pub fn who(&self) -> &str {
        if self.who.is_empty() { "control plane" } else { &self.who }
    }
}

/// Of which resources those that a proposal does not name are deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prune {
    /// What was applied with this name, to which the proposal's documents belong from now on.
    Set(String),
    Labels(Labels),
}

/// Who may change what: a resource from a file is changed in that file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    #[default]
    Api,
    /// The document's source is the file.
    Files,
}

/// Who may write what, and what that makes of the set.
pub(super) fn plan(world: &World, proposal: &Proposal, outcome: &mut Outcome, change: &mut Change, next: &mut Set) {
    let mut named: BTreeSet<&ResourceRef> = BTreeSet::new();
    for parsed in &proposal.puts {
        let resource = &parsed.resource;
        let key = &resource.key;
        if !named.insert(key) {
            outcome.problems.push(problem(parsed, "", format!("{key} is written twice")));
            continue;
        }
        let old = world.resources.get(key);
        let same = old.is_some_and(|old| old.json == resource.json);
        let origin = origin_of(world, parsed, proposal);
        if same && (proposal.prune.is_none() || world.meta.get(key).is_some_and(|meta| meta.origin == origin)) {
            outcome.changes.push((key.clone(), Kind::Unchanged));
            continue;
        }
        let refused = owned_by_other(world, key, proposal, &parsed.source).map(|reason| ("", reason));
        if let Some((field, reason)) =
            refused.or_else(|| not_to_be_pruned(parsed, proposal)).or_else(|| stale(world, parsed, proposal))
        {
            outcome.problems.push(problem(parsed, field, reason));
            continue;
        }
        change.puts.push(Put { key: key.clone(), json: resource.json.clone(), origin });
        let kind = match old {
            // It only goes over into another set.
            Some(_) if same => Kind::Unchanged,
            Some(_) => Kind::Updated,
            None => Kind::Created,
        };
        outcome.changes.push((key.clone(), kind));
        next.insert(Arc::new(resource.clone()));
    }
    for key in &proposal.deletes {
        let owned = owned_by_other(world, key, proposal, "");
        if next.remove(key).is_none() || owned.is_some() {
            let reason = owned.unwrap_or_else(|| format!("there is no {key}"));
            outcome.problems.push(Problem { reason, resource: key.clone(), ..unplaced() });
            continue;
        }
        change.deletes.push(key.clone());
        outcome.changes.push((key.clone(), Kind::Deleted));
    }
}

fn origin_of(world: &World, parsed: &Parsed, proposal: &Proposal) -> String {
    let old = world.meta.get(&parsed.resource.key).map(|meta| meta.origin.as_str());
    match (&proposal.writer, &proposal.prune, old) {
        (Writer::Files, ..) => format!("file:{}", parsed.source),
        (Writer::Api, Some(Prune::Set(name)), _) => format!("{SET}{name}"),
        // An apply that names no set takes nothing out of one.
        (Writer::Api, _, Some(old)) if old.starts_with(SET) => old.to_string(),
        (Writer::Api, ..) => "api".to_string(),
    }
}

impl Prune {
    /// What is there and would have to be named to stay. Never what files own, the mesh's configuration, or what is
    /// opened and closed by a command of its own.
    pub fn of(&self, world: &World, puts: &[Parsed]) -> Vec<ResourceRef> {
        let named: BTreeSet<&ResourceRef> = puts.iter().map(|parsed| &parsed.resource.key).collect();
        let belongs = |key: &ResourceRef, origin: &str| match self {
            Prune::Set(name) => origin.strip_prefix(SET) == Some(name),
            Prune::Labels(labels) => {
                !origin.starts_with("file:") && world.resources.get(key).is_some_and(|r| selects(labels, &r.labels))
            }
        };
        let kept = |key: &ResourceRef| named.contains(key) || matches!(key.kind.as_str(), "MeshConfig" | "Bypass");
        let gone = world.meta.iter().filter(|(key, meta)| !kept(key) && belongs(key, &meta.origin));
        gone.map(|(key, _)| key.clone()).collect()
    }
}

/// A document that the next apply with these labels would not find again.
fn not_to_be_pruned(parsed: &Parsed, proposal: &Proposal) -> Option<(&'static str, String)> {
    let Some(Prune::Labels(labels)) = &proposal.prune else { return None };
    let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let reason = || format!("lacks {}, by which this apply prunes; label it, or prune by a set", wanted.join(","));
    (!selects(labels, &parsed.resource.labels)).then(|| ("metadata.labels", reason()))
}

/// A document that says which version it was written from, when that is not the present one any more.
fn stale(world: &World, parsed: &Parsed, proposal: &Proposal) -> Option<(&'static str, String)> {
    const FIELD: &str = "metadata.resourceVersion";
    let written = &parsed.node.get("metadata")?.get("resourceVersion")?.value;
    let seen = match (written, &proposal.writer) {
        (_, Writer::Files) | (Value::Null, _) => return None,
        (Value::Int(seen), _) => u64::try_from(*seen).ok(),
        (Value::Text(seen), _) if seen.is_empty() => return None,
        (Value::Text(seen), _) => seen.parse().ok(),
        _ => None,
    };
    let key = &parsed.resource.key;
    let reason = match (seen, world.meta.get(key)) {
        (Some(seen), Some(meta)) if meta.revision == seen => return None,
        (Some(seen), Some(meta)) => format!(
            "conflict: this was written from version {seen}, and {key} is at version {} by now; read it again and \
             bring the change over, or leave resourceVersion out to overwrite",
            meta.revision
        ),
        (Some(seen), None) => format!(
            "conflict: this was written from version {seen}, and there is no {key} now; leave resourceVersion out to \
             create it"
        ),
        (None, _) => "is no version of this mesh, which are whole numbers; leave it out".to_string(),
    };
    Some((FIELD, reason))
}

fn owned_by_other(world: &World, key: &ResourceRef, proposal: &Proposal, source: &str) -> Option<String> {
    let origin = &world.meta.get(key)?.origin;
    match (&proposal.writer, origin.strip_prefix("file:")) {
        (Writer::Api, Some(file)) => Some(format!("{key} comes from the file {file}; change it there")),
        (Writer::Files, None) => {
            Some(format!("{key} was applied through the API; delete it there first, then {source} is taken"))
        }
        _ => None,
    }
}
