//! A store that dies with the process: for tests and simulations.

use super::recent::{Commit, Recent, Since};
use super::{Change, Contents, Dump, Store, StoreError, StoredResource, TokenRecord, contents_of, dump_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub struct MemoryStore {
    held: Mutex<Held>,
    recent: Recent,
}

#[derive(Debug, Default)]
struct Held {
    contents: Contents,
    tokens: BTreeMap<String, TokenRecord>,
    facts: BTreeMap<String, Value>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn load(&self) -> Result<Contents, StoreError> {
        Ok(self.held().contents.clone())
    }

    fn commit(&self, after: u64, change: &Change) -> Result<u64, StoreError> {
        let mut held = self.held();
        let Held { contents, facts, .. } = &mut *held;
        if contents.revision != after {
            return Err(StoreError::Conflict { after, now: contents.revision });
        }
        let revision = after + 1;
        contents.revision = revision;
        for key in &change.deletes {
            contents.resources.remove(key);
        }
        for put in &change.puts {
            let stored = StoredResource { json: put.json.clone(), revision, origin: put.origin.clone() };
            contents.resources.insert(put.key.clone(), stored);
        }
        for (key, vips) in &change.vips {
            match vips.as_slice() {
                [] => contents.vips.remove(key),
                vips => contents.vips.insert(key.clone(), vips.to_vec()),
            };
        }
        for (name, value) in &change.facts {
            match value {
                Some(value) => facts.insert(name.clone(), value.clone()),
                None => facts.remove(name),
            };
        }
        // With the lock held, so that commits come in order.
        self.recent.push(Commit::of(revision, change));
        Ok(revision)
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        Ok(self.held().tokens.values().cloned().collect())
    }

    fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.held().tokens.get(id).cloned())
    }

    fn swap_token(&self, id: &str, seen: Option<&TokenRecord>, new: Option<&TokenRecord>) -> Result<bool, StoreError> {
        let tokens = &mut self.held().tokens;
        if tokens.get(id) != seen {
            return Ok(false);
        }
        match new {
            Some(record) => tokens.insert(id.to_string(), record.clone()),
            None => tokens.remove(id),
        };
        Ok(true)
    }

    fn fact(&self, name: &str) -> Result<Option<Value>, StoreError> {
        Ok(self.held().facts.get(name).cloned())
    }

    fn facts(&self, prefix: &str) -> Result<Vec<(String, Value)>, StoreError> {
        let held = self.held();
        let found = held.facts.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn swap_fact(&self, name: &str, seen: Option<&Value>, new: Option<&Value>) -> Result<bool, StoreError> {
        let facts = &mut self.held().facts;
        if facts.get(name) != seen {
            return Ok(false);
        }
        match new {
            Some(value) => facts.insert(name.to_string(), value.clone()),
            None => facts.remove(name),
        };
        Ok(true)
    }

    fn since(&self, after: u64, within: Duration) -> Result<Since, StoreError> {
        Ok(self.recent.since(after, within))
    }

    fn dump(&self) -> Result<Dump, StoreError> {
        let Held { contents, tokens, facts } = &*self.held();
        Ok(dump_of(contents.clone(), tokens.values().cloned().collect(), facts.clone()))
    }

    fn fill(&self, dump: &Dump) -> Result<(), StoreError> {
        let contents = contents_of(dump)?;
        let mut held = self.held();
        let Held { contents: present, tokens, facts } = &mut *held;
        if *present != Contents::default() || !tokens.is_empty() || !facts.is_empty() {
            return Err(StoreError::NotEmpty { revision: present.revision });
        }
        *present = contents;
        *tokens = dump.tokens.iter().map(|token| (token.id.clone(), token.clone())).collect();
        *facts = dump.facts.clone();
        self.recent.begin_again(dump.revision);
        Ok(())
    }
}
