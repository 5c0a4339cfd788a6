//! A commit that is too large for one etcd transaction. Its parts are laid down below `staged/<revision>-<nonce>/`, where
//! nobody looks; one transaction then moves `revision` and points `pending` at them, and from that moment they are valid.
//! They are carried to their places afterwards, by whoever comes next if need be; until then nothing else is committed,
//! and readers put them on top of what they read.

use super::super::recent::Commit;
use super::super::{Contents, StoreError};
use super::wire::{self, KeyValue, Op, RequestOp, TxnRequest};
use super::{BYTES, Inner, OPERATIONS};
use crate::store::StoredResource;
use crate::validate::ResourceRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// What `pending` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pending {
    revision: u64,
    /// Below `staged/`.
    directory: String,
    parts: usize,
    trust: bool,
}

/// One part, as it is laid down.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Part {
    resources: Vec<(String, Option<StoredResource>)>,
    vips: Vec<(String, Vec<IpAddr>)>,
    facts: Vec<(String, Option<Value>)>,
}

pub(super) fn fits(operations: &[RequestOp]) -> bool {
    operations.len() <= OPERATIONS && operations.iter().map(size).sum::<usize>() <= BYTES
}

fn size(operation: &RequestOp) -> usize {
    match &operation.op {
        Some(Op::Put(put)) => put.key.len() + put.value.len(),
        Some(Op::Delete(delete)) => delete.key.len(),
        _ => 0,
    }
}

/// In steps that one transaction takes each.
pub(super) fn in_steps(operations: Vec<RequestOp>) -> Vec<Vec<RequestOp>> {
    let (mut steps, mut step, mut bytes) = (Vec::new(), Vec::new(), 0);
    for operation in operations {
        let more = size(&operation);
        if !step.is_empty() && (step.len() >= OPERATIONS || bytes + more > BYTES) {
            steps.push(std::mem::take(&mut step));
            bytes = 0;
        }
        bytes += more;
        step.push(operation);
    }
    steps.push(step);
    steps
}

/// Lays a commit down; what remains is to point at it.
pub(super) async fn lay_down(inner: &Inner, commit: &Commit) -> Result<Vec<RequestOp>, StoreError> {
    let directory = format!("{}-{:016x}", commit.revision, rand::random::<u64>());
    let parts = parts(inner, commit)?;
    for (at, part) in parts.iter().enumerate() {
        let name = format!("staged/{directory}/{at:06}");
        let success = vec![wire::put(inner.key(&name), inner.codec.write(&name, part)?)];
        inner.client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    }
    let pending = Pending { revision: commit.revision, directory, parts: parts.len(), trust: commit.trust };
    Ok(vec![wire::put(inner.key("pending"), inner.codec.write("pending", &pending)?)])
}

/// Parts of bearable size, measured by what they will be at their places.
fn parts(inner: &Inner, commit: &Commit) -> Result<Vec<Part>, StoreError> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Part::default(), 0);
    let mut turn = |part: &mut Part, operation: &RequestOp| {
        let more = size(operation) + 64;
        if bytes + more > BYTES && bytes > 0 {
            parts.push(std::mem::take(part));
            bytes = 0;
        }
        bytes += more;
    };
    for (key, resource) in &commit.resources {
        turn(&mut part, &inner.operation("r/", &key.to_key(), resource.as_ref())?);
        part.resources.push((key.to_key(), resource.clone()));
    }
    for (key, vips) in &commit.vips {
        turn(&mut part, &inner.operation("v/", &key.to_key(), Some(vips))?);
        part.vips.push((key.to_key(), vips.clone()));
    }
    for (name, value) in &commit.facts {
        turn(&mut part, &inner.operation("f/", name, value.as_ref())?);
        part.facts.push((name.clone(), value.clone()));
    }
    parts.push(part);
    Ok(parts)
}

/// Parts that nothing ever pointed at.
pub(super) async fn forget(inner: &Inner, revision: u64) {
    let success = vec![wire::delete_all(&inner.key(&format!("staged/{revision}-")))];
    // Of a commit of the same revision that came before us the parts may be needed still.
    let compare = vec![wire::last_changed_in(inner.key("pending"), 0)];
    if let Err(error) = inner.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await {
        tracing::debug!(?error, "parts of a refused commit stay behind");
    }
}

/// The commit that `pending` points at, as of an etcd revision (0: now).
pub(super) async fn read(inner: &Inner, pending: &KeyValue, at: i64) -> Result<Commit, StoreError> {
    let Pending { revision, directory, parts, trust } = inner.codec.read("pending", &pending.value)?;
    let (_, found) = inner.list::<Part>("", &format!("staged/{directory}/"), at).await?;
    if found.len() != parts {
        let why = format!("{} of its {parts} parts are there", found.len());
        return Err(StoreError::Damaged { what: format!("commit {revision}"), why });
    }
    let mut commit = Commit { revision, trust, ..Commit::default() };
    for (_, part) in found {
        for (key, resource) in part.resources {
            commit.resources.insert(key_of(&key)?, resource);
        }
        for (key, vips) in part.vips {
            commit.vips.insert(key_of(&key)?, vips);
        }
        commit.facts.extend(part.facts);
    }
    Ok(commit)
}

fn key_of(key: &str) -> Result<ResourceRef, StoreError> {
    super::reference(key)
}

/// Resources and VIPs as they are once the commit is at its place.
pub(super) async fn put_on_top(
    inner: &Inner,
    pending: &KeyValue,
    at: i64,
    contents: &mut Contents,
) -> Result<(), StoreError> {
    let commit = read(inner, pending, at).await?;
    for (key, resource) in commit.resources {
        match resource {
            Some(resource) => contents.resources.insert(key, resource),
            None => contents.resources.remove(&key),
        };
    }
    for (key, vips) in commit.vips {
        match vips.is_empty() {
            true => contents.vips.remove(&key),
            false => contents.vips.insert(key, vips),
        };
    }
    Ok(())
}

/// Carries what is pending to its place. Done twice, or by two at once, it comes to the same.
pub(super) async fn settle(inner: &Inner) -> Result<(), StoreError> {
    let key = inner.key("pending");
    let Some(kv) = inner.get(&key).await?.1 else { return Ok(()) };
    let Pending { directory, .. } = inner.codec.read("pending", &kv.value)?;
    let commit = match read(inner, &kv, 0).await {
        Ok(commit) => commit,
        // Another one was faster.
        Err(StoreError::Damaged { .. }) if inner.get(&key).await?.1.is_none() => return Ok(()),
        Err(error) => return Err(error),
    };
    let still = wire::last_changed_in(key.as_str(), kv.mod_revision);
    for success in in_steps(inner.operations(&commit)?) {
        let compare = vec![still.clone()];
        let done = inner.client.txn(TxnRequest { compare, success, failure: Vec::new() }).await?;
        if !done.succeeded {
            return Ok(());
        }
    }
    let success = vec![wire::delete(key.as_str()), wire::delete_all(&inner.key(&format!("staged/{directory}/")))];
    inner.client.txn(TxnRequest { compare: vec![still], success, failure: Vec::new() }).await?;
    Ok(())
}
