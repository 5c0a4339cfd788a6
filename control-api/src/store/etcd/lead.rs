//! Who is there, and who leads. One lease of etcd per process holds all that it says of itself: when the process is gone, or
//! cut off, that ends by itself, and another one leads.
//!
//! Who leads is asked twice: here, against our own clock, and by etcd in the very transaction, which compares in which
//! etcd revision the leader's key was made ([`Inner::fence`]).

use super::super::{StoreError, Stream, Told};
use super::client::Failure;
use super::wire::{self, Compare, KeyValue, RequestOp, TxnRequest};
use super::{Inner, large};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// For so long nobody leads after the leader died.
const TTL: Duration = Duration::from_secs(10);
/// What our clock may run slower than etcd's in one TTL: one part of this many.
const MARGIN: u32 = 10;
const AGAIN: Duration = Duration::from_millis(500);

/// What this process holds.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) name: String,
    lease: i64,
    /// By our own clock, counted from before the lease was asked for.
    pub(super) until: Option<Instant>,
    /// In which etcd revision our leader's key was made.
    term: Option<i64>,
    pub(super) says: Value,
    pub(super) here: BTreeMap<String, Stream>,
    /// Not yet in etcd.
    pub(super) moves: BTreeMap<String, Stream>,
    pub(super) said: bool,
    /// What is told in pieces, and of which pieces etcd does not have the present one.
    pub(super) tells: BTreeMap<String, Arc<Value>>,
    pub(super) untold: BTreeMap<String, Option<Arc<Value>>>,
}

/// What the others say.
#[derive(Debug, Default)]
pub(super) struct Others {
    pub(super) replicas: BTreeMap<String, Value>,
    /// Workload and who serves it, and whether it is ready.
    pub(super) here: BTreeMap<(String, String), bool>,
    /// By replica and piece; and how often that changed.
    pub(super) told: Told,
    pub(super) tellings: u64,
    pub(super) leader: Option<String>,
}

/// The value of a stream's key, where its app takes no traffic. One that is ready has none.
const UNREADY: &[u8] = b"unready";

impl Lead {
    pub(super) fn named(name: String) -> Lead {
        Lead {
            name,
            lease: 0,
            until: None,
            term: None,
            says: Value::Null,
            here: BTreeMap::new(),
            moves: BTreeMap::new(),
            said: false,
            tells: BTreeMap::new(),
            untold: BTreeMap::new(),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until the store is dropped.
pub(super) async fn keep(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        let turn = async {
            let wait = match step(&inner).await {
                Ok(()) => inner.ttl() / 3,
                Err(error) => {
                    tracing::warn!(%error, "this control plane's lease in etcd");
                    AGAIN
                }
            };
            tokio::time::sleep(wait).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = turn => {}
        }
    }
}

/// The lease, then who leads, then what there is to say.
async fn step(inner: &Inner) -> Result<(), StoreError> {
    let (before, ttl) = (Instant::now(), inner.ttl());
    let lease = lock(&inner.lead).lease;
    let alive = lease != 0 && inner.client.alive(lease).await?;
    if alive {
        lock(&inner.lead).until = Some(before + ttl - ttl / MARGIN);
    } else {
        let granted = inner.client.grant(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)).await?;
        let mut lead = lock(&inner.lead);
        // Everything that hung on the old one is gone.
        let (here, tells) = (lead.here.clone(), lead.tells.clone());
        lead.moves.extend(here);
        lead.untold.extend(tells.into_iter().map(|(piece, value)| (piece, Some(value))));
        (lead.lease, lead.until, lead.term, lead.said) = (granted.id, Some(before + ttl - ttl / MARGIN), None, false);
    }
    inner.campaign().await?;
    inner.speak().await
}

/// On the way out: what hangs on the lease goes with it.
pub(super) async fn leave(inner: &Inner) -> Result<(), StoreError> {
    let lease = {
        let mut lead = lock(&inner.lead);
        (lead.term, lead.until) = (None, None);
        std::mem::take(&mut lead.lease)
    };
    if lease != 0 {
        inner.client.revoke(lease).await?;
    }
    Ok(())
}

impl Inner {
    fn ttl(&self) -> Duration {
        self.client.options.lease.unwrap_or(TTL)
    }

    pub(super) fn leads(&self) -> bool {
        let lead = lock(&self.lead);
        lead.term.is_some() && lead.until.is_some_and(|until| Instant::now() < until)
    }

    /// That nobody else has led since: for the transaction itself.
    pub(super) fn fence(&self) -> Result<Compare, StoreError> {
        let term = lock(&self.lead).term;
        match term.filter(|_| self.leads()) {
            Some(term) => Ok(wire::made_in(self.key("leader"), term)),
            None => Err(self.not_leading()),
        }
    }

    pub(super) fn not_leading(&self) -> StoreError {
        let leader = lock(&self.others).leader.clone();
        StoreError::NotLeading { leader: leader.unwrap_or_else(|| "none at this moment".to_string()) }
    }

    /// By etcd's word.
    pub(super) async fn still_leads(&self) -> Result<bool, StoreError> {
        let (_, found) = self.get(&self.key("leader")).await?;
        self.leader_is(found.as_ref());
        let mut lead = lock(&self.lead);
        if found.map(|kv| kv.create_revision) != lead.term {
            lead.term = None;
        }
        Ok(lead.term.is_some())
    }

    /// Leads if nobody does.
    async fn campaign(&self) -> Result<(), StoreError> {
        let key = self.key("leader");
        let (lease, name) = {
            let lead = lock(&self.lead);
            (lead.lease, lead.name.clone())
        };
        let request = TxnRequest {
            compare: vec![wire::last_changed_in(key.as_str(), 0)],
            success: vec![wire::put_leased(key.as_str(), name.as_str(), lease)],
            failure: vec![wire::read(key.as_str())],
        };
        let answer = self.client.txn(request).await?;
        if answer.succeeded {
            let term = answer.header.map(|header| header.revision);
            tracing::info!(name, term, "this control plane leads");
            lock(&self.lead).term = term;
            lock(&self.others).leader = Some(name);
            return Ok(());
        }
        let held = answer.responses.into_iter().find_map(|response| match response.done {
            Some(wire::Done::Range(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        self.leader_is(held.as_ref());
        // Our own, if the answer that made it was lost.
        let ours = held.filter(|kv| kv.lease == lease && kv.value == name.as_bytes());
        lock(&self.lead).term = ours.map(|kv| kv.create_revision);
        Ok(())
    }

    /// Writes down what changed since.
    pub(super) async fn speak(&self) -> Result<(), StoreError> {
        let _in_order = self.speaking.lock().await;
        let (lease, name, says, moves, untold) = {
            let lead = lock(&self.lead);
            let says = (!lead.said).then(|| lead.says.clone());
            (lead.lease, lead.name.clone(), says, lead.moves.clone(), lead.untold.clone())
        };
        if lease == 0 {
            return Ok(());
        }
        let mut operations = Vec::new();
        if let Some(says) = &says {
            operations.push(wire::put_leased(self.key(&format!("replica/{name}")), says.to_string(), lease));
        }
        for (workload, stream) in &moves {
            let key = self.key(&format!("here/{name}/{workload}"));
            operations.push(match stream {
                Stream::Ready => wire::put_leased(key, Vec::new(), lease),
                Stream::Unready => wire::put_leased(key, UNREADY, lease),
                Stream::Gone => wire::delete(key),
            });
        }
        // In the order of their names: the last one says what all of them are of.
        for (piece, value) in &untold {
            operations.push(self.tell_piece(&name, piece, value.as_deref(), lease)?);
        }
        if operations.is_empty() {
            return Ok(());
        }
        for success in large::in_steps(operations) {
            match self.client.txn(TxnRequest { success, ..TxnRequest::default() }).await {
                Ok(_) => {}
                Err(Failure::Refused(status)) => {
                    // The lease has ended: the next step has another one, and says everything again.
                    lock(&self.lead).lease = 0;
                    return Err(Failure::Refused(status).into());
                }
                Err(failed) => return Err(failed.into()),
            }
        }
        let mut lead = lock(&self.lead);
        lead.said |= says.is_some_and(|says| says == lead.says);
        lead.moves.retain(|workload, stream| moves.get(workload) != Some(stream));
        lead.untold.retain(|piece, value| untold.get(piece) != Some(value));
        Ok(())
    }

    fn tell_piece(&self, name: &str, piece: &str, value: Option<&Value>, lease: i64) -> Result<RequestOp, StoreError> {
        let name = format!("tell/{name}/{piece}");
        match value {
            Some(value) => Ok(wire::put_leased(self.key(&name), self.codec.write(&name, value)?, lease)),
            None => Ok(wire::delete(self.key(&name))),
        }
    }

    /// Reads what the others say, all of it.
    pub(super) async fn look_around(&self) -> Result<(), StoreError> {
        let all = |prefix: &'static str| {
            let prefix = self.key(prefix);
            let range_end = wire::end_of(&prefix);
            async move {
                let request = wire::RangeRequest { key: prefix.into(), range_end, ..Default::default() };
                self.client.range(request).await.map(|answer| answer.kvs)
            }
        };
        let (replicas, here, told) = (all("replica/").await?, all("here/").await?, all("tell/").await?);
        let (_, leader) = self.get(&self.key("leader")).await?;
        {
            let mut others = lock(&self.others);
            // The count goes on: whoever asks by it has to see that this is another answer.
            *others = Others { tellings: others.tellings + 1, ..Others::default() };
        }
        for kv in &replicas {
            let key = String::from_utf8_lossy(&kv.key);
            if let Some(name) = key.strip_prefix(&self.key("replica/")) {
                self.replica_says(name, Some(kv));
            }
        }
        for kv in &here {
            let key = String::from_utf8_lossy(&kv.key);
            if let Some(rest) = key.strip_prefix(&self.key("here/")) {
                self.stream_moves(rest, Some(kv));
            }
        }
        for kv in &told {
            let key = String::from_utf8_lossy(&kv.key);
            if let Some(rest) = key.strip_prefix(&self.key("tell/")) {
                self.is_told(rest, Some(kv));
            }
        }
        self.leader_is(leader.as_ref());
        Ok(())
    }

    pub(super) fn leader_is(&self, leader: Option<&KeyValue>) {
        lock(&self.others).leader = leader.map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    }

    pub(super) fn replica_says(&self, name: &str, says: Option<&KeyValue>) {
        let mut others = lock(&self.others);
        match says {
            Some(kv) => {
                let says = serde_json::from_slice(&kv.value).unwrap_or(Value::Null);
                others.replicas.insert(name.to_string(), says);
            }
            None => drop(others.replicas.remove(name)),
        }
    }

    /// `<replica>/<namespace>/<name>`
    pub(super) fn stream_moves(&self, rest: &str, here: Option<&KeyValue>) {
        let Some((replica, workload)) = rest.split_once('/') else { return };
        let entry = (workload.to_string(), replica.to_string());
        let mut others = lock(&self.others);
        match here {
            Some(kv) => others.here.insert(entry, kv.value != UNREADY),
            None => others.here.remove(&entry),
        };
    }

    /// `<replica>/<piece>`. A piece that cannot be read is as good as none: its replica writes it again.
    pub(super) fn is_told(&self, rest: &str, put: Option<&KeyValue>) {
        let Some((replica, piece)) = rest.split_once('/') else { return };
        let entry = (replica.to_string(), piece.to_string());
        let value = put.and_then(|kv| self.codec.read::<Value>(&format!("tell/{rest}"), &kv.value).ok());
        let mut others = lock(&self.others);
        match value {
            Some(value) => drop(others.told.insert(entry, Arc::new(value))),
            None => drop(others.told.remove(&entry)),
        }
        others.tellings += 1;
    }
}
