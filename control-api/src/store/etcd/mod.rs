//! The store of several control planes: an etcd cluster.
//!
//! A commit is one etcd transaction that holds only if `revision` still is what the change was computed from, so no
//! replica writes over what it has not seen. What is too large for one transaction is laid down beside first and becomes
//! valid with one ([`large`]). A [`watch`] tells of the others' commits; a lease ([`lead`]) says who is there and who leads.
//!
//! Keys, below the prefix: `format`, `revision`, `commit` (whose the last one is), `trust`, `pending`, `staged/`, `r/`
//! (resources), `v/` (VIPs), `t/` (tokens), `f/` (facts), `leader`, `replica/`, `here/<replica>/<workload>`,
//! `tell/<replica>/<piece>`.

mod client;
mod commit;
mod large;
mod lead;
mod methods;
mod replicas;
mod watch;
mod wire;

pub use client::EtcdOptions;

use super::codec::{self, Codec, Wrap};
use super::recent::{Commit, Recent};
use super::{Contents, Dump, StoreError, StoredResource, TokenRecord, contents_of, dump_of, reference};
use client::Client;
use lead::Lead;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use wire::{KeyValue, RangeRequest, RequestOp, TxnRequest};

#[cfg(test)]
#[path = "../etcd_test.rs"]
mod etcd_test;

/// As the embedded store's.
const FORMAT: u64 = 2;
/// Keys per answer.
const PAGE: i64 = 500;
/// etcd takes 128 operations and 1.5 MiB per transaction, unless it is told otherwise.
const OPERATIONS: usize = 100;
const BYTES: usize = 1 << 20;
/// Longer than a call tries for.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// One control plane's end of the cluster.
pub struct EtcdStore {
    inner: Arc<Inner>,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    stop: CancellationToken,
}

pub(super) struct Inner {
    client: Client,
    prefix: String,
    codec: Codec,
    recent: Recent,
    lead: Mutex<Lead>,
    /// Held from reading what there is to say until etcd has it: two at a time could arrive in the other order.
    speaking: tokio::sync::Mutex<()>,
    others: Mutex<lead::Others>,
}

impl EtcdStore {
    /// Connects, and takes part. Waits until the cluster answers.
    pub fn open(options: EtcdOptions, codec: Codec) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Unreachable(format!("no thread for etcd: {error}"));
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("etcd").enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let name = match options.replica.as_str() {
            "" => format!("replica-{:08x}", rand::random::<u32>()),
            name => name.to_string(),
        };
        let prefix = match options.prefix.as_str() {
            "" => "/isthmus/".to_string(),
            prefix => format!("{}/", prefix.trim_end_matches('/')),
        };
        let inner = Inner {
            client: Client::new(options)?,
            prefix,
            codec,
            recent: Recent::default(),
            lead: Mutex::new(Lead::named(name)),
            speaking: tokio::sync::Mutex::default(),
            others: Mutex::default(),
        };
        let mut store = EtcdStore { inner: Arc::new(inner), runtime: Some(runtime), stop: CancellationToken::new() };
        let begun = store.ask(|inner| async move { inner.begin().await })?;
        store.follow(begun);
        Ok(store)
    }

    /// Wraps the data key anew. The values stay as they are, and control planes that run are not disturbed.
    pub fn rewrap(&self, former: Wrap, new: Wrap) -> Result<(), StoreError> {
        self.ask(move |inner| async move { inner.rewrap(&former, &new).await })
    }

    fn follow(&mut self, from: i64) {
        let Some(runtime) = &self.runtime else { return };
        let (inner, stop) = (self.inner.clone(), self.stop.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = watch::follow(&inner, from) => {}
            }
        });
        if !self.inner.client.options.apart {
            runtime.spawn(lead::keep(self.inner.clone(), self.stop.clone()));
        }
    }

    /// Carries something out on the store's own thread. May be called from anywhere; the caller's thread waits.
    fn ask<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let Some(runtime) = &self.runtime else { return Err(StoreError::Unreachable("stopped".to_string())) };
        let (send, answer) = sync_channel(1);
        let work = work(self.inner.clone());
        runtime.spawn(async move {
            // Nobody waits any more: then nobody is told.
            let _ = send.send(work.await);
        });
        match answer.recv_timeout(ANSWER_WITHIN) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(StoreError::Unknown("no answer from etcd within 40 s".to_string())),
            Err(RecvTimeoutError::Disconnected) => Err(StoreError::Unknown("the store is stopping".to_string())),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        // The others need not wait for the lease to end.
        let _ = self.ask(|inner| async move { lead::leave(&inner).await });
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Looks at the format, and from where on to watch.
    async fn begin(&self) -> Result<i64, StoreError> {
        let format = self.key("format");
        let (_, found) = self.get(&format).await?;
        let known = match found {
            Some(kv) => number(&kv)?,
            None => {
                let compare = vec![wire::last_changed_in(format.as_str(), 0)];
                let write = vec![wire::put(format.as_str(), FORMAT.to_string())];
                self.client.txn(TxnRequest { compare, success: write, ..TxnRequest::default() }).await?;
                FORMAT
            }
        };
        if known > FORMAT {
            return Err(StoreError::Format { found: known, known: FORMAT });
        }
        self.unlock().await?;
        self.mark().await
    }

    /// Takes the data key into use, or makes the first one. Of two who make one at once, one wins.
    async fn unlock(&self) -> Result<(), StoreError> {
        let key = self.key("datakey");
        for _ in 0..2 {
            let found = self.get(&key).await?.1;
            let codec = match found {
                // Unwrapped aside: a key that was made and not taken must not stay.
                Some(kv) => return self.codec.unlock(Some(kv.value.as_slice()), false).map(drop),
                None => self.codec.again(),
            };
            let empty = self.get(&self.key("revision")).await?.1.is_none();
            let Some(made) = codec.unlock(None, empty)? else { return Ok(()) };
            let compare = vec![wire::last_changed_in(key.as_str(), 0)];
            let success = vec![wire::put(key.as_str(), made)];
            self.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await?;
        }
        Err(StoreError::Unknown("the data key was not written".to_string()))
    }

    async fn rewrap(&self, former: &Wrap, new: &Wrap) -> Result<(), StoreError> {
        let key = self.key("datakey");
        let plain = || StoreError::Sealed("its values are in plain".to_string());
        let found = self.get(&key).await?.1.ok_or_else(plain)?;
        let compare = vec![wire::last_changed_in(key.as_str(), found.mod_revision)];
        let success = vec![wire::put(key.as_str(), codec::rewrap(&found.value, former, new)?)];
        match self.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await?.succeeded {
            true => Ok(()),
            false => Err(StoreError::Unknown("somebody else wraps it anew at the same time".to_string())),
        }
    }

    /// Where the store stands now: commits after it are told by the watch, from the etcd revision that is returned.
    async fn mark(&self) -> Result<i64, StoreError> {
        let (at, revision) = self.get(&self.key("revision")).await?;
        self.recent.begin_again(revision.as_ref().map_or(Ok(0), number)?);
        Ok(at + 1)
    }

    /// The revision of the whole cluster, and the key if it is there.
    async fn get(&self, key: &str) -> Result<(i64, Option<KeyValue>), StoreError> {
        let answer = self.client.range(RangeRequest { key: key.into(), ..RangeRequest::default() }).await?;
        let at = answer.header.map_or(0, |header| header.revision);
        Ok((at, answer.kvs.into_iter().next()))
    }

    async fn read<T: DeserializeOwned>(&self, group: &str, name: &str) -> Result<Option<(i64, T)>, StoreError> {
        let (_, found) = self.get(&self.key(&format!("{group}{name}"))).await?;
        found.map(|kv| Ok((kv.mod_revision, self.codec.read(name, &kv.value)?))).transpose()
    }

    /// Everything below `group` whose name begins with `prefix`, at one etcd revision (0: the present one).
    async fn list<T: DeserializeOwned>(
        &self,
        group: &str,
        prefix: &str,
        revision: i64,
    ) -> Result<(i64, Vec<(String, T)>), StoreError> {
        let below = self.key(group);
        let from = format!("{below}{prefix}");
        let (mut key, range_end, mut revision) = (from.clone().into_bytes(), wire::end_of(&from), revision);
        let mut rows = Vec::new();
        loop {
            let request = RangeRequest { key, range_end: range_end.clone(), limit: PAGE, revision };
            let page = self.client.range(request).await?;
            if revision == 0 {
                revision = page.header.map_or(0, |header| header.revision);
            }
            let Some(last) = page.kvs.last().map(|kv| kv.key.clone()) else { return Ok((revision, rows)) };
            for kv in page.kvs {
                let name = String::from_utf8_lossy(&kv.key[below.len()..]).into_owned();
                let value = self.codec.read(&name, &kv.value)?;
                rows.push((name, value));
            }
            if !page.more {
                return Ok((revision, rows));
            }
            key = [last.as_slice(), &[0]].concat();
        }
    }

    async fn contents(&self) -> Result<(i64, Contents), StoreError> {
        let (at, resources) = self.list::<StoredResource>("r/", "", 0).await?;
        let (_, vips) = self.list("v/", "", at).await?;
        let request = |key: &str| RangeRequest { key: self.key(key).into(), revision: at, ..RangeRequest::default() };
        let revision = self.client.range(request("revision")).await?.kvs.first().map_or(Ok(0), number)?;
        let mut contents = Contents { revision, ..Contents::default() };
        for (key, resource) in resources {
            contents.resources.insert(reference(&key)?, resource);
        }
        for (key, given) in vips {
            contents.vips.insert(reference(&key)?, given);
        }
        let pending = self.client.range(request("pending")).await?;
        if let Some(kv) = pending.kvs.first() {
            large::put_on_top(self, kv, at, &mut contents).await?;
        }
        Ok((at, contents))
    }

    /// The operations of a commit: resources, VIPs and facts.
    fn operations(&self, commit: &Commit) -> Result<Vec<RequestOp>, StoreError> {
        let mut all = Vec::new();
        for (key, resource) in &commit.resources {
            all.push(self.operation("r/", &key.to_key(), resource.as_ref())?);
        }
        for (key, vips) in &commit.vips {
            all.push(self.operation("v/", &key.to_key(), Some(vips).filter(|vips| !vips.is_empty()))?);
        }
        for (name, value) in &commit.facts {
            all.push(self.operation("f/", name, value.as_ref())?);
        }
        if commit.trust {
            all.push(wire::put(self.key("trust"), commit.revision.to_string()));
        }
        Ok(all)
    }

    fn operation<T: Serialize>(&self, group: &str, name: &str, value: Option<&T>) -> Result<RequestOp, StoreError> {
        let key = self.key(&format!("{group}{name}"));
        let Some(value) = value else { return Ok(wire::delete(key)) };
        let bytes = self.codec.write(name, value)?;
        if bytes.len() > BYTES {
            return Err(StoreError::TooLarge { what: name.to_string(), bytes: bytes.len(), most: BYTES });
        }
        Ok(wire::put(key, bytes))
    }

    /// Revision last, so that whoever reads meanwhile sees an empty store.
    async fn fill(&self, dump: Dump) -> Result<(), StoreError> {
        let (_, present) = self.dump().await?;
        if !present.is_empty() {
            return Err(StoreError::NotEmpty { revision: present.revision });
        }
        let contents = contents_of(&dump)?;
        let resources = contents.resources.into_iter().map(|(key, resource)| (key, Some(resource))).collect();
        let facts = dump.facts.into_iter().map(|(name, value)| (name, Some(value))).collect();
        let whole = Commit { revision: dump.revision, resources, vips: contents.vips, facts, trust: true };
        let mut operations = self.operations(&whole)?;
        for token in &dump.tokens {
            operations.push(self.operation("t/", &token.id, Some(token))?);
        }
        let revision = self.key("revision");
        for success in large::in_steps(operations) {
            let compare = vec![wire::last_changed_in(revision.as_str(), 0)];
            let answer = self.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await?;
            if !answer.succeeded {
                return Err(StoreError::NotEmpty { revision: 1 });
            }
        }
        let compare = vec![wire::last_changed_in(revision.as_str(), 0)];
        let success = vec![wire::put(revision.as_str(), dump.revision.to_string())];
        self.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await?;
        self.recent.begin_again(dump.revision);
        Ok(())
    }

    async fn dump(&self) -> Result<(i64, Dump), StoreError> {
        let (at, contents) = self.contents().await?;
        let (_, tokens) = self.list::<TokenRecord>("t/", "", at).await?;
        let (_, facts) = self.list("f/", "", at).await?;
        let tokens = tokens.into_iter().map(|(_, token)| token).collect();
        Ok((at, dump_of(contents, tokens, facts.into_iter().collect())))
    }
}

/// A value that is a plain number.
fn number(kv: &KeyValue) -> Result<u64, StoreError> {
    let text = std::str::from_utf8(&kv.value).unwrap_or_default();
    text.parse().map_err(|_| StoreError::Damaged {
        what: String::from_utf8_lossy(&kv.key).into_owned(),
        why: format!("`{text}` is not a number"),
    })
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdStore({})", self.inner.prefix)
    }
}
