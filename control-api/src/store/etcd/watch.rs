//! The others' commits, as etcd tells of them. A watch that breaks goes on at another member where it stopped; one whose
//! past was compacted begins anew, and whoever follows the store reads everything again.

use super::super::StoreError;
use super::super::recent::Commit;
use super::wire::{Event, KeyValue, WatchCreate, WatchRequest, WatchResponse, Wish, end_of};
use super::{Inner, large, number, reference};
use std::time::Duration;
use tonic::Streaming;

const METHOD: &str = "/etcdserverpb.Watch/Watch";
const DELETED: i32 = 1;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(3);

/// Why a watch ended.
enum End {
    /// It goes on from here.
    Broken(String),
    /// What came next is no longer there.
    Compacted,
}

/// Runs until it is cancelled.
pub(super) async fn follow(inner: &Inner, mut from: i64) {
    let mut retry = FIRST_RETRY;
    let mut fresh = true;
    loop {
        let before = from;
        let end = watch(inner, &mut from, &mut fresh).await;
        retry = if from > before { FIRST_RETRY } else { (retry * 2).min(LONGEST_RETRY) };
        match end {
            End::Broken(why) => tracing::warn!(why, "etcd's watch broke; going on at another member"),
            End::Compacted => match inner.mark().await {
                Ok(now) => {
                    tracing::warn!(from, now, "etcd has compacted what came next; reading everything anew");
                    (from, fresh) = (now, true);
                }
                Err(error) => tracing::warn!(%error, "etcd"),
            },
        }
        tokio::time::sleep(retry.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
    }
}

async fn watch(inner: &Inner, from: &mut i64, fresh: &mut bool) -> End {
    let key = inner.prefix.clone().into_bytes();
    let create = WatchCreate { key, range_end: end_of(&inner.prefix), start_revision: *from };
    let request = WatchRequest { wish: Some(Wish::Create(create)) };
    let opened = inner.client.stream::<WatchRequest, WatchResponse>(METHOD, request).await;
    let (member, mut answers) = match opened {
        Ok(opened) => opened,
        Err((member, failed)) => {
            inner.client.left(member).await;
            return End::Broken(StoreError::from(failed).to_string());
        }
    };
    // After the watch began, so that nothing falls between; what comes twice is the same.
    if *fresh {
        match inner.look_around().await {
            Ok(()) => *fresh = false,
            Err(error) => return End::Broken(error.to_string()),
        }
    }
    let end = read(inner, from, &mut answers).await;
    if matches!(end, End::Broken(_)) {
        inner.client.left(member).await;
    }
    end
}

async fn read(inner: &Inner, from: &mut i64, answers: &mut Streaming<WatchResponse>) -> End {
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return End::Broken("etcd ended it".to_string()),
            Err(status) => return End::Broken(status.message().to_string()),
        };
        if answer.compact_revision > 0 {
            return End::Compacted;
        }
        if answer.canceled {
            return End::Broken(answer.cancel_reason);
        }
        // etcd never splits one of its revisions over two answers.
        let mut events = answer.events.as_slice();
        while let Some(at) = events.first().map(revision_of) {
            let same = events.iter().take_while(|event| revision_of(event) == at).count();
            let (step, rest) = events.split_at(same);
            if let Err(error) = take(inner, step).await {
                tracing::warn!(%error, "a commit of another control plane is not readable here yet");
                return End::Compacted;
            }
            *from = at + 1;
            events = rest;
        }
        if let Some(header) = answer.header.filter(|_| answer.events.is_empty()) {
            *from = (*from).max(header.revision + 1);
        }
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// What one etcd transaction changed.
async fn take(inner: &Inner, events: &[Event]) -> Result<(), StoreError> {
    let mut commit = Commit::default();
    let mut pending: Option<&KeyValue> = None;
    for event in events {
        let Some(kv) = &event.kv else { continue };
        let key = String::from_utf8_lossy(&kv.key);
        let Some(name) = key.strip_prefix(inner.prefix.as_str()) else { continue };
        let put = (event.kind != DELETED).then_some(kv);
        match (name.split_once('/'), put) {
            (None, Some(kv)) if name == "revision" => commit.revision = number(kv)?,
            (None, Some(kv)) if name == "pending" => pending = Some(kv),
            (None, put) if name == "leader" => inner.leader_is(put),
            (None, Some(_)) if name == "trust" => commit.trust = true,
            (Some(("r", key)), put) => {
                let stored = put.map(|kv| inner.codec.read(key, &kv.value)).transpose()?;
                commit.resources.insert(reference(key)?, stored);
            }
            (Some(("v", key)), put) => {
                let vips = put.map(|kv| inner.codec.read(key, &kv.value)).transpose()?;
                commit.vips.insert(reference(key)?, vips.unwrap_or_default());
            }
            (Some(("f", name)), put) => {
                let value = put.map(|kv| inner.codec.read(name, &kv.value)).transpose()?;
                commit.facts.insert(name.to_string(), value);
            }
            (Some(("replica", replica)), put) => inner.replica_says(replica, put),
            (Some(("here", rest)), put) => inner.stream_moves(rest, put),
            (Some(("tell", rest)), put) => inner.is_told(rest, put),
            _ => {}
        }
    }
    // Without a revision it is a token, a fact, or a large commit on its way to its place: told before.
    if commit.revision > inner.recent.latest() {
        let whole = match pending {
            Some(kv) => large::read(inner, kv, kv.mod_revision).await?,
            None => commit,
        };
        inner.recent.push(whole);
    }
    Ok(())
}
