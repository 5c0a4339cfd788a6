//! What was changed, when, by whom, and the way back. Written by the ledger in the same step as the change itself, so
//! that a revision and its history cannot part; bounded by number and age, the oldest goes first.
//!
//! Of each change only what was there *before* is kept: what it became is what the next change of the same resource
//! found, or what is there now. As the oldest goes first, the next one is always kept.

use crate::ledger::{Author, Kind, Proposal, World, Writer};
use crate::store::{Change, Store, StoreError};
use crate::validate::{Parsed, Problem, ResourceRef, from_stored, node};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

#[cfg(test)]
#[path = "history_test.rs"]
mod history_test;

const HEADS: &str = "revision/";
const KEYS: &str = "revision-keys/";
const PAST: &str = "past/";
/// One can go back to this revision and to each one after it.
const FLOOR: &str = "history/floor";
/// Resources per fact: a store may bound the size of one.
const KEYS_PER_FACT: usize = 500;
/// Revisions that one commit forgets at most.
const FORGOTTEN_AT_ONCE: usize = 64;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub revisions: usize,
    pub age: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Keep { revisions: 1000, age: Duration::from_secs(90 * 86_400) }
    }
}

impl Keep {
    /// Forgetting reads the heads of all revisions, so it is not done at each one.
    pub fn look_every(&self) -> u64 {
        (self.revisions / 16).clamp(1, FORGOTTEN_AT_ONCE) as u64
    }
}

/// A revision without what it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    #[serde(skip)]
    pub revision: u64,
    pub at_unix_ms: i64,
    pub who: String,
    pub how: String,
    pub count: u32,
}

/// One resource of a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: ResourceRef,
    pub kind: Kind,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct Row(String, String, String, char);

type Facts = BTreeMap<String, Option<Value>>;

/// What a commit has to write down about itself. Nothing where no resource becomes another one.
pub fn record(
    store: &dyn Store,
    before: &World,
    change: &Change,
    author: &Author,
    at: i64,
) -> Result<Facts, StoreError> {
    let revision = before.revision + 1;
    let mut facts = Facts::new();
    let mut rows = Vec::new();
    let puts = change.puts.iter().map(|put| (&put.key, Some(&put.json)));
    for (key, after) in puts.chain(change.deletes.iter().map(|key| (key, None))) {
        let old = before.resources.get(key).map(|resource| &resource.json);
        let letter = match (old, after) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(_), Some(_)) => 'u',
            (None, _) => 'c',
            (_, None) => 'd',
        };
        rows.push(Row(key.kind.clone(), key.namespace.clone(), key.name.clone(), letter));
        facts.insert(format!("{}{revision:020}", past(key)), Some(json!({ "before": old })));
    }
    if rows.is_empty() {
        return Ok(facts);
    }
    let head = Head {
        revision,
        at_unix_ms: at,
        who: author.who().to_string(),
        how: author.how.clone(),
        count: u32::try_from(rows.len()).unwrap_or(u32::MAX),
    };
    facts.insert(format!("{HEADS}{revision:020}"), Some(write(&head)?));
    for (n, rows) in rows.chunks(KEYS_PER_FACT).enumerate() {
        facts.insert(format!("{KEYS}{revision:020}/{n:06}"), Some(write(&rows)?));
    }
    if store.fact(FLOOR)?.is_none() {
        // From before there was a history, nothing is known.
        facts.insert(FLOOR.to_string(), Some(json!(before.revision)));
    }
    Ok(facts)
}

/// Adds to a commit's facts that what is too much or too old goes.
pub fn forget(store: &dyn Store, keep: Keep, now_ms: i64, facts: &mut Facts) -> Result<(), StoreError> {
    let heads = heads(store)?;
    let oldest_kept = now_ms.saturating_sub(i64::try_from(keep.age.as_millis()).unwrap_or(i64::MAX));
    // The one that is being written is one more.
    let too_many = (heads.len() + 1).saturating_sub(keep.revisions.max(1));
    let over = heads.iter().enumerate().take_while(|(n, head)| *n < too_many || head.at_unix_ms < oldest_kept);
    for (_, head) in over.take(FORGOTTEN_AT_ONCE) {
        let number = format!("{:020}", head.revision);
        for (name, value) in store.facts(&format!("{KEYS}{number}/"))? {
            for Row(kind, namespace, name, _) in read::<Vec<Row>>(&name, value)? {
                facts.insert(format!("{}{number}", past(&ResourceRef { kind, namespace, name })), None);
            }
            facts.insert(name, None);
        }
        facts.insert(format!("{HEADS}{number}"), None);
        facts.insert(FLOOR.to_string(), Some(json!(head.revision)));
    }
    Ok(())
}

/// Every revision that is kept, the earliest first.
pub fn heads(store: &dyn Store) -> Result<Vec<Head>, StoreError> {
    let found = store.facts(HEADS)?.into_iter();
    found
        .map(|(name, value)| {
            let revision = number(&name)?;
            Ok(Head { revision, ..read::<Head>(&name, value)? })
        })
        .collect()
}

pub fn head(store: &dyn Store, revision: u64) -> Result<Option<Head>, StoreError> {
    let name = format!("{HEADS}{revision:020}");
    let found = store.fact(&name)?.map(|value| read::<Head>(&name, value)).transpose()?;
    Ok(found.map(|head| Head { revision, ..head }))
}

/// The earliest revision that one can go back to.
pub fn floor(store: &dyn Store, world: &World) -> Result<u64, StoreError> {
    Ok(store.fact(FLOOR)?.and_then(|value| value.as_u64()).unwrap_or(world.revision))
}

/// What a revision changed; at most so many.
pub fn changed(store: &dyn Store, revision: u64, most: usize) -> Result<Vec<(ResourceRef, Kind)>, StoreError> {
    let mut all = Vec::new();
    for (name, value) in store.facts(&format!("{KEYS}{revision:020}/"))? {
        for Row(kind, namespace, name, letter) in read::<Vec<Row>>(&name, value)? {
            if all.len() == most {
                return Ok(all);
            }
            all.push((ResourceRef { kind, namespace, name }, kind_of(letter)));
        }
    }
    Ok(all)
}

fn kind_of(letter: char) -> Kind {
    match letter {
        'c' => Kind::Created,
        'd' => Kind::Deleted,
        _ => Kind::Updated,
    }
}

/// The revisions that changed one resource, the earliest first, each with what it was and what it became. The world has
/// to be taken before the store is asked: what is committed in between is then still told rightly.
pub fn of(store: &dyn Store, world: &World, key: &ResourceRef) -> Result<Vec<(u64, Entry)>, StoreError> {
    let mut before: Vec<(u64, Option<Value>)> = Vec::new();
    for (name, mut value) in store.facts(&past(key))? {
        let old = value.get_mut("before").map(Value::take).unwrap_or_default();
        before.push((number(&name)?, (!old.is_null()).then_some(old)));
    }
    let now = world.resources.get(key).map(|resource| resource.json.clone());
    let after: Vec<Option<Value>> = before.iter().skip(1).map(|(_, old)| old.clone()).chain([now]).collect();
    let entries = before.into_iter().zip(after).map(|((revision, before), after)| {
        let kind = match (&before, &after) {
            (None, _) => Kind::Created,
            (_, None) => Kind::Deleted,
            _ => Kind::Updated,
        };
        (revision, Entry { key: key.clone(), kind, before, after })
    });
    Ok(entries.collect())
}

/// What it takes to be as one was right after a revision. `Err`: that cannot be done, in words.
pub fn way_back(
    store: &dyn Store,
    world: &World,
    revision: u64,
    only: Option<&ResourceRef>,
) -> Result<Result<Proposal, String>, StoreError> {
    let floor = floor(store, world)?;
    if revision < floor.max(1) {
        let oldest = format!("revision {revision} is not kept any more; one can go back to {} or later", floor.max(1));
        return Ok(Err(oldest));
    }
    if revision > world.revision {
        return Ok(Err(format!("there is no revision {revision} yet; the present one is {}", world.revision)));
    }
    let mut proposal = Proposal { writer: Writer::Api, ..Proposal::default() };
    let mut concerned: Vec<ResourceRef> = Vec::new();
    match only {
        Some(key) if of(store, world, key)?.is_empty() && !world.resources.contains_key(key) => {
            return Ok(Err(format!("there is no {key}, and was none for as long as history is kept")));
        }
        Some(key) => concerned.push(key.clone()),
        None => {
            for head in heads(store)?.iter().filter(|head| head.revision > revision) {
                concerned.extend(changed(store, head.revision, usize::MAX)?.into_iter().map(|(key, _)| key));
            }
            concerned.sort();
            concerned.dedup();
            // A bypass that is over must not come back, nor a role that was taken from somebody.
            concerned.retain(|key| !matches!(key.kind.as_str(), "Bypass" | "OperatorRole"));
        }
    }
    for key in &concerned {
        let later = of(store, world, key)?.into_iter().find(|(at, _)| *at > revision);
        let Some((_, Entry { before, .. })) = later else { continue };
        if let Err(why) = add(&mut proposal, world, key, before, revision) {
            return Ok(Err(why));
        }
    }
    Ok(Ok(proposal))
}

fn add(
    proposal: &mut Proposal,
    world: &World,
    key: &ResourceRef,
    wanted: Option<Value>,
    revision: u64,
) -> Result<(), String> {
    let now = world.resources.get(key).map(|resource| &resource.json);
    match wanted {
        Some(json) if now == Some(&json) => {}
        Some(json) => {
            let source = format!("revision {revision}");
            let unreadable = |problems: Vec<Problem>| {
                let why = problems.first().map(|problem| problem.reason.clone()).unwrap_or_default();
                format!("{key} of {source} is not valid in this version: {why}")
            };
            let resource = from_stored(&json).map_err(unreadable)?;
            proposal.puts.push(Parsed { resource, source, node: node::from_json(&json) });
        }
        None if now.is_some() => proposal.deletes.push(key.clone()),
        None => {}
    }
    Ok(())
}

fn past(key: &ResourceRef) -> String {
    format!("{PAST}{}/{}/{}/", key.kind, key.namespace, key.name)
}

/// The revision at the end of a fact's name.
fn number(name: &str) -> Result<u64, StoreError> {
    let text = name.rsplit('/').next().unwrap_or_default();
    text.parse().map_err(|_| StoreError::Damaged { what: name.to_string(), why: "ends in no revision".to_string() })
}

fn read<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Result<T, StoreError> {
    serde_json::from_value(value)
        .map_err(|error| StoreError::Damaged { what: name.to_string(), why: error.to_string() })
}

fn write<T: Serialize>(value: &T) -> Result<Value, StoreError> {
    serde_json::to_value(value).map_err(|error| StoreError::Io(error.to_string()))
}
