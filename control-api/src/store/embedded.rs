//! The default store: one redb file. A commit is one transaction, synced to disk before it returns; redb's copy-on-write
//! trees come back after a kill at any moment as the last commit left them.

use super::codec::{self, Codec, Wrap};
use super::recent::{Commit, Recent, Since};
use super::{Change, Contents, Dump, Store, StoreError, StoredResource, TokenRecord, dump_of, reference};
use crate::validate::ResourceRef;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Raised when a build that does not know it would misread the file. 2: facts, without which an older build would
/// serve who was revoked.
const FORMAT: u64 = 2;

const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
const DATA_KEY: &str = "data";
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const RESOURCES: TableDefinition<&str, &[u8]> = TableDefinition::new("resources");
const VIPS: TableDefinition<&str, &[u8]> = TableDefinition::new("vips");
const TOKENS: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens");
const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");

pub struct EmbeddedStore {
    database: Database,
    codec: Codec,
    recent: Recent,
    /// redb has one writer at a time; this one is held until what was written is told, so that it is told in order.
    writing: Mutex<()>,
}

impl EmbeddedStore {
    /// Opens the file, or makes it with mode 0600. A second process on the same file is refused by redb's lock.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Codec::default())
    }

    /// The same with values written and read by `codec`.
    pub fn open_with(path: &Path, codec: Codec) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        drop(file.map_err(|error| StoreError::Io(format!("{}: {error}", path.display())))?);
        let database = Database::builder()
            .set_cache_size(64 << 20)
            .create(path)
            .map_err(|error| StoreError::Io(format!("{}: {error}", path.display())))?;
        let mut store = EmbeddedStore { database, codec, recent: Recent::default(), writing: Mutex::default() };
        store.prepare()?;
        store.recent = Recent::at(store.revision()?);
        Ok(store)
    }

    /// Makes the tables, so that every later reader finds them.
    fn prepare(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(io)?;
        {
            let mut meta = transaction.open_table(META).map_err(io)?;
            let found = meta.get("format").map_err(io)?.map(|found| found.value());
            match found {
                Some(found) if found > FORMAT => return Err(StoreError::Format { found, known: FORMAT }),
                Some(FORMAT) => {}
                None | Some(_) => drop(meta.insert("format", FORMAT).map_err(io)?),
            }
            transaction.open_table(RESOURCES).map_err(io)?;
            transaction.open_table(VIPS).map_err(io)?;
            let tokens = transaction.open_table(TOKENS).map_err(io)?;
            let facts = transaction.open_table(FACTS).map_err(io)?;
            let revision = meta.get("revision").map_err(io)?.is_some();
            let empty = !revision && tokens.is_empty().map_err(io)? && facts.is_empty().map_err(io)?;
            let mut keys = transaction.open_table(KEYS).map_err(io)?;
            let found = keys.get(DATA_KEY).map_err(io)?.map(|found| found.value().to_vec());
            if let Some(made) = self.codec.unlock(found.as_deref(), empty)? {
                keys.insert(DATA_KEY, made.as_slice()).map_err(io)?;
            }
        }
        transaction.commit().map_err(io)
    }

    fn read_all<T: DeserializeOwned>(
        &self,
        table: TableDefinition<&str, &[u8]>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        self.rows(&self.database.begin_read().map_err(io)?, table)
    }

    fn rows<T: DeserializeOwned>(
        &self,
        transaction: &ReadTransaction,
        table: TableDefinition<&str, &[u8]>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = transaction.open_table(table).map_err(io)?;
        let mut rows = Vec::new();
        for row in table.iter().map_err(io)? {
            let (key, value) = row.map_err(io)?;
            rows.push((key.value().to_string(), self.codec.read(key.value(), value.value())?));
        }
        Ok(rows)
    }
}

impl EmbeddedStore {
    /// Wraps the data key of a file anew. The values stay as they are.
    pub fn rewrap(path: &Path, former: &Wrap, new: &Wrap) -> Result<(), StoreError> {
        let failed = |error: redb::DatabaseError| StoreError::Io(format!("{}: {error}", path.display()));
        let database = Database::open(path).map_err(failed)?;
        let transaction = database.begin_write().map_err(io)?;
        {
            let mut keys = transaction.open_table(KEYS).map_err(io)?;
            let found = keys.get(DATA_KEY).map_err(io)?.map(|found| found.value().to_vec());
            let found = found.ok_or_else(|| StoreError::Sealed("its values are in plain".to_string()))?;
            keys.insert(DATA_KEY, codec::rewrap(&found, former, new)?.as_slice()).map_err(io)?;
        }
        transaction.commit().map_err(io)
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn revision(&self) -> Result<u64, StoreError> {
        let transaction = self.database.begin_read().map_err(io)?;
        let meta = transaction.open_table(META).map_err(io)?;
        Ok(meta.get("revision").map_err(io)?.map_or(0, |revision| revision.value()))
    }

    fn contents(&self, transaction: &ReadTransaction) -> Result<Contents, StoreError> {
        let meta = transaction.open_table(META).map_err(io)?;
        let revision = meta.get("revision").map_err(io)?.map_or(0, |revision| revision.value());
        let mut contents = Contents { revision, ..Contents::default() };
        for (key, resource) in self.rows(transaction, RESOURCES)? {
            contents.resources.insert(reference(&key)?, resource);
        }
        for (key, vips) in self.rows(transaction, VIPS)? {
            contents.vips.insert(reference(&key)?, vips);
        }
        Ok(contents)
    }

    fn write_resources(
        &self,
        transaction: &WriteTransaction,
        revision: u64,
        change: &Change,
    ) -> Result<(), StoreError> {
        let mut table = transaction.open_table(RESOURCES).map_err(io)?;
        for key in &change.deletes {
            table.remove(key.to_key().as_str()).map_err(io)?;
        }
        for put in &change.puts {
            let stored = StoredResource { json: put.json.clone(), revision, origin: put.origin.clone() };
            let key = put.key.to_key();
            table.insert(key.as_str(), self.codec.write(&key, &stored)?.as_slice()).map_err(io)?;
        }
        Ok(())
    }

    fn write_vips(
        &self,
        transaction: &WriteTransaction,
        vips: &BTreeMap<ResourceRef, Vec<IpAddr>>,
    ) -> Result<(), StoreError> {
        let mut table = transaction.open_table(VIPS).map_err(io)?;
        for (key, vips) in vips {
            let key = key.to_key();
            match vips.as_slice() {
                [] => drop(table.remove(key.as_str()).map_err(io)?),
                vips => drop(table.insert(key.as_str(), self.codec.write(&key, &vips)?.as_slice()).map_err(io)?),
            }
        }
        Ok(())
    }

    fn write_facts(
        &self,
        transaction: &WriteTransaction,
        facts: &BTreeMap<String, Option<Value>>,
    ) -> Result<(), StoreError> {
        let mut table = transaction.open_table(FACTS).map_err(io)?;
        for (name, value) in facts {
            match value {
                Some(value) => {
                    drop(table.insert(name.as_str(), self.codec.write(name, value)?.as_slice()).map_err(io)?);
                }
                None => drop(table.remove(name.as_str()).map_err(io)?),
            }
        }
        Ok(())
    }

    fn write_all<'a, T: Serialize + 'a>(
        &self,
        transaction: &WriteTransaction,
        table: TableDefinition<&str, &[u8]>,
        rows: impl Iterator<Item = (&'a str, &'a T)>,
    ) -> Result<(), StoreError> {
        let mut table = transaction.open_table(table).map_err(io)?;
        for (key, value) in rows {
            table.insert(key, self.codec.write(key, value)?.as_slice()).map_err(io)?;
        }
        Ok(())
    }

    /// Compare and set, in one transaction.
    fn swap<T: PartialEq + Serialize + DeserializeOwned>(
        &self,
        table: TableDefinition<&str, &[u8]>,
        name: &str,
        seen: Option<&T>,
        new: Option<&T>,
    ) -> Result<bool, StoreError> {
        let transaction = self.database.begin_write().map_err(io)?;
        {
            let mut table = transaction.open_table(table).map_err(io)?;
            let found: Option<T> =
                table.get(name).map_err(io)?.map(|value| self.codec.read(name, value.value())).transpose()?;
            if found.as_ref() != seen {
                return Ok(false);
            }
            match new {
                Some(record) => drop(table.insert(name, self.codec.write(name, record)?.as_slice()).map_err(io)?),
                None => drop(table.remove(name).map_err(io)?),
            }
        }
        transaction.commit().map_err(io)?;
        Ok(true)
    }
}

impl Store for EmbeddedStore {
    fn load(&self) -> Result<Contents, StoreError> {
        self.contents(&self.database.begin_read().map_err(io)?)
    }

    fn commit(&self, after: u64, change: &Change) -> Result<u64, StoreError> {
        let _in_order = self.one_at_a_time();
        let transaction = self.database.begin_write().map_err(io)?;
        let revision = next_revision(&transaction, after)?;
        self.write_resources(&transaction, revision, change)?;
        self.write_vips(&transaction, &change.vips)?;
        self.write_facts(&transaction, &change.facts)?;
        transaction.commit().map_err(io)?;
        self.recent.push(Commit::of(revision, change));
        Ok(revision)
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        Ok(self.read_all(TOKENS)?.into_iter().map(|(_, record)| record).collect())
    }

    fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        let transaction = self.database.begin_read().map_err(io)?;
        let table = transaction.open_table(TOKENS).map_err(io)?;
        let found = table.get(id).map_err(io)?;
        found.map(|value| self.codec.read(id, value.value())).transpose()
    }

    fn swap_token(&self, id: &str, seen: Option<&TokenRecord>, new: Option<&TokenRecord>) -> Result<bool, StoreError> {
        self.swap(TOKENS, id, seen, new)
    }

    fn fact(&self, name: &str) -> Result<Option<Value>, StoreError> {
        let transaction = self.database.begin_read().map_err(io)?;
        let table = transaction.open_table(FACTS).map_err(io)?;
        let found = table.get(name).map_err(io)?;
        found.map(|value| self.codec.read(name, value.value())).transpose()
    }

    fn facts(&self, prefix: &str) -> Result<Vec<(String, Value)>, StoreError> {
        let transaction = self.database.begin_read().map_err(io)?;
        let table = transaction.open_table(FACTS).map_err(io)?;
        let mut rows = Vec::new();
        for row in table.range(prefix..).map_err(io)? {
            let (name, value) = row.map_err(io)?;
            if !name.value().starts_with(prefix) {
                break;
            }
            rows.push((name.value().to_string(), self.codec.read(name.value(), value.value())?));
        }
        Ok(rows)
    }

    fn swap_fact(&self, name: &str, seen: Option<&Value>, new: Option<&Value>) -> Result<bool, StoreError> {
        self.swap(FACTS, name, seen, new)
    }

    fn since(&self, after: u64, within: Duration) -> Result<Since, StoreError> {
        Ok(self.recent.since(after, within))
    }

    fn dump(&self) -> Result<Dump, StoreError> {
        let transaction = self.database.begin_read().map_err(io)?;
        let tokens = self.rows(&transaction, TOKENS)?.into_iter().map(|(_, token)| token).collect();
        let facts = self.rows(&transaction, FACTS)?.into_iter().collect();
        Ok(dump_of(self.contents(&transaction)?, tokens, facts))
    }

    fn fill(&self, dump: &Dump) -> Result<(), StoreError> {
        let _in_order = self.one_at_a_time();
        let present = self.dump()?;
        if !present.is_empty() {
            return Err(StoreError::NotEmpty { revision: present.revision });
        }
        let transaction = self.database.begin_write().map_err(io)?;
        transaction.open_table(META).map_err(io)?.insert("revision", dump.revision).map_err(io)?;
        self.write_all(&transaction, RESOURCES, dump.resources.iter().map(|(key, value)| (key.as_str(), value)))?;
        self.write_all(&transaction, VIPS, dump.vips.iter().map(|(key, value)| (key.as_str(), value)))?;
        self.write_all(&transaction, TOKENS, dump.tokens.iter().map(|token| (token.id.as_str(), token)))?;
        self.write_all(&transaction, FACTS, dump.facts.iter().map(|(key, value)| (key.as_str(), value)))?;
        transaction.commit().map_err(io)?;
        self.recent.begin_again(dump.revision);
        Ok(())
    }
}

fn next_revision(transaction: &WriteTransaction, after: u64) -> Result<u64, StoreError> {
    let mut meta = transaction.open_table(META).map_err(io)?;
    let now = meta.get("revision").map_err(io)?.map_or(0, |revision| revision.value());
    if now != after {
        return Err(StoreError::Conflict { after, now });
    }
    meta.insert("revision", after + 1).map_err(io)?;
    Ok(after + 1)
}

fn io(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Io(error.into().to_string())
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmbeddedStore")
    }
}
