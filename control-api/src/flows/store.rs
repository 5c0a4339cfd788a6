//! Flow records and refusals on disk: one redb file. What is counted together within an hour is one record; after two days,
//! within a day. The oldest goes first, when it is too old or when there is too much.

use super::{Taken, open};
use crate::store::StoreError;
use crate::validate::resource::Kept;
use isthmus_proto::admin::v1::{FindRefusalResponse, RecordedFlow};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;

const HOUR_MS: i64 = 3_600_000;
const DAY: u64 = 24;
/// Hours after which records of a day are put together.
const FINE: u64 = 48;
/// Rows that one tidying looks at, so that it never holds up the reports for long.
const AT_ONCE: usize = 5_000;
/// Refusals with all their words; the counts of all are in the flows.
const MOST_REFUSALS: u64 = 100_000;

/// Hour since 1970, and what is counted together: SHA-256 of it, cut to 16 bytes.
pub(super) const FLOWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("flows");
pub(super) const REFUSALS: TableDefinition<&str, &[u8]> = TableDefinition::new("refusals");
pub(super) const REFUSAL_AGES: TableDefinition<(u64, &str), ()> = TableDefinition::new("refusal-ages");
/// Life, sequence, time and decisions dropped, by workload.
pub(super) const REPORTS: TableDefinition<&str, (u64, u64, u64, u64)> = TableDefinition::new("reports");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// What is known of one workload's reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    pub last_ms: i64,
    pub dropped: u64,
}

pub struct FlowStore(Database);

impl FlowStore {
    /// See [`open::file`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        open::file(path).map(FlowStore)
    }

    /// Dies with the process.
    pub fn in_memory() -> Result<Self, StoreError> {
        open::in_memory().map(FlowStore)
    }

    /// One transaction. A report that was written before is left out.
    pub fn write(&self, all: &[Taken], kept: &Kept) -> Result<(), StoreError> {
        let transaction = self.0.begin_write().map_err(io)?;
        for taken in all {
            if !is_new(&transaction, taken)? {
                continue;
            }
            let mut grown = 0;
            {
                let mut flows = transaction.open_table(FLOWS).map_err(io)?;
                let of = || RecordedFlow { workload: taken.workload.clone(), ..RecordedFlow::default() };
                let came = taken.report.flows.iter().map(|flow| RecordedFlow { flow: Some(flow.clone()), ..of() });
                let left = taken.report.departures.iter();
                let left = left.map(|left| RecordedFlow { departure: Some(left.clone()), ..of() });
                for record in came.chain(left) {
                    grown += merge(&mut flows, hour_of(last_seen(&record)), record)?;
                }
            }
            add(&transaction, "bytes", grown)?;
            add(&transaction, "dropped", i64::try_from(taken.dropped).unwrap_or(i64::MAX))?;
            write_refusals(&transaction, taken)?;
        }
        make_room(&transaction, kept)?;
        transaction.commit().map_err(io)
    }

    /// Puts days together, and gives up what is too old.
    pub fn tidy(&self, now_ms: i64, kept: &Kept) -> Result<(), StoreError> {
        let transaction = self.0.begin_write().map_err(io)?;
        put_days_together(&transaction, hour_of(now_ms))?;
        let keep_ms = i64::try_from(kept.keep.as_millis()).unwrap_or(i64::MAX);
        remove_older(&transaction, now_ms.saturating_sub(keep_ms))?;
        transaction.commit().map_err(io)
    }

    /// Every record whose last decision is not older than `since_ms`, oldest hour first. `each` ends it by false.
    pub fn each_flow(&self, since_ms: i64, mut each: impl FnMut(RecordedFlow) -> bool) -> Result<(), StoreError> {
        let transaction = self.0.begin_read().map_err(io)?;
        let table = transaction.open_table(FLOWS).map_err(io)?;
        // A record of a day stands at its first hour.
        let from = hour_of(since_ms).saturating_sub(DAY).to_be_bytes();
        for row in table.range(from.as_slice()..).map_err(io)? {
            let (_, value) = row.map_err(io)?;
            let record = read(value.value())?;
            if last_seen(&record) >= since_ms && !each(record) {
                break;
            }
        }
        Ok(())
    }

    pub fn refusal(&self, id: &str) -> Result<Option<FindRefusalResponse>, StoreError> {
        let transaction = self.0.begin_read().map_err(io)?;
        let table = transaction.open_table(REFUSALS).map_err(io)?;
        let found = table.get(id).map_err(io)?;
        found.map(|value| FindRefusalResponse::decode(value.value()).map_err(damaged)).transpose()
    }

    pub fn reported(&self, workload: &str) -> Result<Option<Reported>, StoreError> {
        let transaction = self.0.begin_read().map_err(io)?;
        let table = transaction.open_table(REPORTS).map_err(io)?;
        let found = table.get(workload).map_err(io)?.map(|row| row.value());
        Ok(found.map(|(_, _, last, dropped)| Reported { last_ms: i64::try_from(last).unwrap_or(0), dropped }))
    }

    /// Decisions that proxies have reported to be in no record.
    pub fn dropped(&self) -> Result<u64, StoreError> {
        let transaction = self.0.begin_read().map_err(io)?;
        let meta = transaction.open_table(META).map_err(io)?;
        Ok(meta.get("dropped").map_err(io)?.map_or(0, |row| row.value()))
    }

    /// How many records there are, of how many bytes, and how many were given up for room.
    pub fn size(&self) -> Result<(u64, u64, u64), StoreError> {
        let transaction = self.0.begin_read().map_err(io)?;
        let count = transaction.open_table(FLOWS).map_err(io)?.len().map_err(io)?;
        let meta = transaction.open_table(META).map_err(io)?;
        let of = |name: &str| meta.get(name).map(|row| row.map_or(0, |row| row.value())).map_err(io);
        Ok((count, of("bytes")?, of("evicted")?))
    }
}

fn hour_of(ms: i64) -> u64 {
    u64::try_from(ms / HOUR_MS).unwrap_or(0)
}

fn is_new(transaction: &WriteTransaction, taken: &Taken) -> Result<bool, StoreError> {
    let mut reports = transaction.open_table(REPORTS).map_err(io)?;
    let before = reports.get(taken.workload.as_str()).map_err(io)?.map(|row| row.value());
    if before.is_some_and(|(life, sequence, ..)| life == taken.life && taken.sequence <= sequence) {
        return Ok(false);
    }
    let came = taken.report.flows.iter().map(|flow| flow.last_seen_unix_ms);
    let last = came.chain(taken.report.departures.iter().map(|left| left.last_seen_unix_ms)).max();
    let (_, _, before_ms, before_dropped) = before.unwrap_or_default();
    let at = last.and_then(|at| u64::try_from(at).ok()).unwrap_or(before_ms).max(before_ms);
    let dropped = before_dropped.saturating_add(taken.dropped);
    reports.insert(taken.workload.as_str(), (taken.life, taken.sequence, at, dropped)).map_err(io)?;
    Ok(true)
}

/// By how many bytes the table has grown.
fn merge(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    hour: u64,
    mut record: RecordedFlow,
) -> Result<i64, StoreError> {
    let key = key(hour, &record);
    let mut before = 0;
    let held = table.get(key.as_slice()).map_err(io)?.map(|value| (value.value().len(), read(value.value())));
    if let Some((length, held)) = held {
        before = length;
        join(&mut record, &held?);
    }
    let value = record.encode_to_vec();
    table.insert(key.as_slice(), value.as_slice()).map_err(io)?;
    Ok(if before == 0 { (key.len() + value.len()) as i64 } else { value.len() as i64 - before as i64 })
}

/// Two counts of the same.
pub fn join(record: &mut RecordedFlow, other: &RecordedFlow) {
    if let (Some(flow), Some(other)) = (&mut record.flow, &other.flow) {
        flow.count = flow.count.saturating_add(other.count);
        flow.first_seen_unix_ms = flow.first_seen_unix_ms.min(other.first_seen_unix_ms);
        flow.last_seen_unix_ms = flow.last_seen_unix_ms.max(other.last_seen_unix_ms);
    }
    if let (Some(left), Some(other)) = (&mut record.departure, &other.departure) {
        left.count = left.count.saturating_add(other.count);
        left.first_seen_unix_ms = left.first_seen_unix_ms.min(other.first_seen_unix_ms);
        left.last_seen_unix_ms = left.last_seen_unix_ms.max(other.last_seen_unix_ms);
    }
}

/// 0: there is nothing in it.
pub fn first_seen(record: &RecordedFlow) -> i64 {
    let came = record.flow.as_ref().map(|flow| flow.first_seen_unix_ms);
    came.or_else(|| Some(record.departure.as_ref()?.first_seen_unix_ms)).unwrap_or(0)
}

fn last_seen(record: &RecordedFlow) -> i64 {
    let came = record.flow.as_ref().map(|flow| flow.last_seen_unix_ms);
    came.or_else(|| Some(record.departure.as_ref()?.last_seen_unix_ms)).unwrap_or(0)
}

/// What is counted together, whenever it was.
pub fn same(record: &RecordedFlow) -> [u8; 16] {
    let mut bare = RecordedFlow { services: Vec::new(), ..record.clone() };
    if let Some(flow) = &mut bare.flow {
        (flow.count, flow.first_seen_unix_ms, flow.last_seen_unix_ms) = (0, 0, 0);
    }
    if let Some(left) = &mut bare.departure {
        (left.count, left.first_seen_unix_ms, left.last_seen_unix_ms) = (0, 0, 0);
    }
    let digest = Sha256::digest(bare.encode_to_vec());
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

fn key(hour: u64, record: &RecordedFlow) -> Vec<u8> {
    [&hour.to_be_bytes()[..], &same(record)].concat()
}

fn write_refusals(transaction: &WriteTransaction, taken: &Taken) -> Result<(), StoreError> {
    let mut refusals = transaction.open_table(REFUSALS).map_err(io)?;
    let mut ages = transaction.open_table(REFUSAL_AGES).map_err(io)?;
    for refusal in &taken.report.refusals {
        // The first to have an id keeps it: nobody rewrites what another proxy reported.
        if refusals.get(refusal.id.as_str()).map_err(io)?.is_some() {
            continue;
        }
        let record = FindRefusalResponse {
            workload: taken.workload.clone(),
            refusal: Some(refusal.clone()),
            owner: String::new(),
        };
        refusals.insert(refusal.id.as_str(), record.encode_to_vec().as_slice()).map_err(io)?;
        let at = u64::try_from(refusal.at_unix_ms).unwrap_or(0);
        ages.insert((at, refusal.id.as_str()), ()).map_err(io)?;
    }
    while ages.len().map_err(io)? > MOST_REFUSALS {
        let Some((oldest, _)) = ages.pop_first().map_err(io)? else { break };
        refusals.remove(oldest.value().1).map_err(io)?;
    }
    Ok(())
}

/// The oldest hours give way.
fn make_room(transaction: &WriteTransaction, kept: &Kept) -> Result<(), StoreError> {
    let (mut evicted, mut freed) = (0, 0);
    {
        let bytes = read_meta(transaction, "bytes")?;
        let mut flows = transaction.open_table(FLOWS).map_err(io)?;
        let mut count = flows.len().map_err(io)?;
        while count > kept.max_records || bytes.saturating_sub(freed) > kept.max_bytes {
            let Some((key, value)) = flows.pop_first().map_err(io)? else { break };
            freed += (key.value().len() + value.value().len()) as u64;
            count -= 1;
            evicted += 1;
        }
    }
    add(transaction, "evicted", evicted)?;
    add(transaction, "bytes", -i64::try_from(freed).unwrap_or(i64::MAX))
}

fn put_days_together(transaction: &WriteTransaction, now: u64) -> Result<(), StoreError> {
    let mut grown = 0;
    {
        let mut flows = transaction.open_table(FLOWS).map_err(io)?;
        let old = now.saturating_sub(FINE).to_be_bytes();
        let mut fine = Vec::new();
        for row in flows.range(..old.as_slice()).map_err(io)? {
            let (key, value) = row.map_err(io)?;
            if !hour_of_key(key.value()).is_multiple_of(DAY) {
                fine.push((key.value().to_vec(), value.value().to_vec()));
            }
            if fine.len() == AT_ONCE {
                break;
            }
        }
        for (key, value) in fine {
            flows.remove(key.as_slice()).map_err(io)?;
            grown -= (key.len() + value.len()) as i64;
            let hour = hour_of_key(&key);
            grown += merge(&mut flows, hour - hour % DAY, read(&value)?)?;
        }
    }
    add(transaction, "bytes", grown)
}

fn remove_older(transaction: &WriteTransaction, than_ms: i64) -> Result<(), StoreError> {
    let mut freed = 0;
    {
        let mut flows = transaction.open_table(FLOWS).map_err(io)?;
        // A day goes when all of it is too old.
        let end = hour_of(than_ms).saturating_sub(DAY).to_be_bytes();
        let mut old = Vec::new();
        for row in flows.range(..end.as_slice()).map_err(io)?.take(AT_ONCE) {
            let (key, value) = row.map_err(io)?;
            freed += (key.value().len() + value.value().len()) as i64;
            old.push(key.value().to_vec());
        }
        for key in old {
            flows.remove(key.as_slice()).map_err(io)?;
        }
        let mut refusals = transaction.open_table(REFUSALS).map_err(io)?;
        let mut ages = transaction.open_table(REFUSAL_AGES).map_err(io)?;
        let than = u64::try_from(than_ms).unwrap_or(0);
        for _ in 0..AT_ONCE {
            let oldest = ages.first().map_err(io)?.map(|(key, _)| (key.value().0, key.value().1.to_string()));
            let Some((at, id)) = oldest.filter(|(at, _)| *at < than) else { break };
            ages.remove((at, id.as_str())).map_err(io)?;
            refusals.remove(id.as_str()).map_err(io)?;
        }
    }
    add(transaction, "bytes", -freed)
}

fn hour_of_key(key: &[u8]) -> u64 {
    key.first_chunk::<8>().map_or(0, |hour| u64::from_be_bytes(*hour))
}

fn read_meta(transaction: &WriteTransaction, name: &str) -> Result<u64, StoreError> {
    let meta = transaction.open_table(META).map_err(io)?;
    let found = meta.get(name).map_err(io)?.map_or(0, |row| row.value());
    Ok(found)
}

fn add(transaction: &WriteTransaction, name: &str, more: i64) -> Result<(), StoreError> {
    if more == 0 {
        return Ok(());
    }
    let now = read_meta(transaction, name)?.saturating_add_signed(more);
    transaction.open_table(META).map_err(io)?.insert(name, now).map_err(io)?;
    Ok(())
}

fn read(value: &[u8]) -> Result<RecordedFlow, StoreError> {
    RecordedFlow::decode(value).map_err(damaged)
}

fn damaged(error: prost::DecodeError) -> StoreError {
    StoreError::Damaged { what: "a flow record".to_string(), why: error.to_string() }
}

fn io(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Io(error.into().to_string())
}

impl fmt::Debug for FlowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlowStore")
    }
}

#[cfg(test)]
#[path = "store_test.rs"]
mod store_test;
