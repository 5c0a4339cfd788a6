//! The audit log: every issuance, every refusal and every change of what is stored, one line each, append-only and hash-chained ([`chain`]).
//!
//! A line is on disk before what it tells of leaves this process; what cannot be logged does not happen. Callers that come
//! together share one sync. A line that was torn by a crash is cut off at the next start: nobody was promised it. Refusals
//! of strangers are listed up to a rate and counted beyond it, so that nobody can fill the disk by knocking.

pub mod chain;
pub mod difference;
pub mod entry;
pub mod segments;

pub use chain::{Fault, Head};
pub use entry::{Entry, Event, What};
pub use segments::ReadError;

use crate::store::{Store, StoreError};
use entry::jiff_text::At;
use isthmus_certs::Clock;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(test)]
#[path = "audit_test.rs"]
mod audit_test;

/// A file that an editor still opens.
const SEGMENT: u64 = 64 << 20;
/// Refusals listed per second; the design size enrols a thousand machines at once, and none of those is refused.
const REFUSALS_PER_SECOND: u64 = 20;
/// Where the head is kept beside the log, so that a cut-off end is found.
const HEAD_FACT: &str = "audit/head";

/// Why nothing can be logged, and so nothing issued.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log {file} cannot be written: {source}; nothing is issued until it can (disk space, rights)")]
    Io { file: String, source: io::Error },
    #[error("the audit log failed before and holds a line that may be half written; restart the control plane")]
    Broken,
    #[error(
        "the audit log does not hold together: {0}. Somebody changed it, or an older copy was put in its place; \
             look at it with `isthmus audit verify`, then restore the right one"
    )]
    Damaged(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One log, one writer.
pub struct AuditLog {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    /// Where the head is kept.
    head_fact: String,
    end: Mutex<End>,
    /// The last line that is known to be on disk. Whoever holds it syncs for all who wait.
    synced: Mutex<Synced>,
    refusals: Mutex<Refusals>,
    /// Why the last line was not written, until one is.
    unwritable: Mutex<Option<String>>,
}

struct End {
    file: Arc<File>,
    path: PathBuf,
    length: u64,
    head: Head,
    broken: bool,
}

struct Synced {
    head: Head,
    /// As the store has it.
    kept: Option<serde_json::Value>,
}

#[derive(Default)]
struct Refusals {
    second: i64,
    listed: u64,
    more: u64,
}

impl AuditLog {
    /// Opens the log in `dir`, or begins one. Refused: a log that ends before what the store knows was written, or whose
    /// last file does not hold together.
    pub fn open(dir: &Path, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        let io = |source| AuditError::Io { file: dir.display().to_string(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        // Control planes that share a store keep a record each.
        let head_fact = match store.replicas() {
            Some(replicas) => format!("{HEAD_FACT}/{}", replicas.name()),
            None => HEAD_FACT.to_string(),
        };
        let kept = store.fact(&head_fact)?;
        let known = kept.as_ref().and_then(|value| value.as_str()?.parse::<Head>().ok());
        let end = open_end(dir, known)?;
        let synced = Mutex::new(Synced { head: end.head, kept });
        let (end, refusals, unwritable) = (Mutex::new(end), Mutex::default(), Mutex::default());
        Ok(AuditLog { dir: dir.to_path_buf(), clock, store, head_fact, end, synced, refusals, unwritable })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub fn head(&self) -> Head {
        lock(&self.end).head
    }

    /// Writes one line; when this returns its number, it survives the loss of power.
    pub fn append(&self, event: Event) -> Result<u64, AuditError> {
        self.append_all([event])
    }

    /// The same for several that belong together: one wait for the disk, and the last one's number.
    pub fn append_all(&self, events: impl IntoIterator<Item = Event>) -> Result<u64, AuditError> {
        let written = self.write_all(events);
        *lock(&self.unwritable) = written.as_ref().err().map(AuditError::to_string);
        written
    }

    /// Why nothing can be logged now; for whoever asks how the control plane is.
    pub fn unwritable(&self) -> Option<String> {
        lock(&self.unwritable).clone()
    }

    fn write_all(&self, events: impl IntoIterator<Item = Event>) -> Result<u64, AuditError> {
        let mut end = lock(&self.end);
        for event in events {
            let entry = Entry { seq: end.head.seq + 1, at: At(self.clock.now_ms()), event };
            end.write(&self.dir, &entry)?;
        }
        let wanted = end.head.seq;
        drop(end);
        self.sync(wanted)?;
        Ok(wanted)
    }

    /// A refusal. Best effort beyond the rate, and where the disk is full: what was refused stays refused.
    pub fn refused(&self, event: Event) {
        let event = {
            let mut refusals = lock(&self.refusals);
            let second = self.clock.now_ms() / 1000;
            let before = std::mem::replace(&mut refusals.second, second);
            if before != second {
                refusals.listed = 0;
            }
            refusals.listed += 1;
            if refusals.listed > REFUSALS_PER_SECOND {
                refusals.more += 1;
                return;
            }
            match std::mem::take(&mut refusals.more) {
                0 => None,
                count => Some(Event { what: What::RefusedMore, count, ..Event::default() }),
            }
            .into_iter()
            .chain([Event { what: What::Refused, ..event }])
        };
        for event in event {
            if let Err(error) = self.append(event) {
                tracing::error!(%error, "a refusal was not logged");
            }
        }
    }

    /// As after a disk that failed.
    #[cfg(test)]
    pub(crate) fn break_for_test(&self) {
        lock(&self.end).broken = true;
    }

    fn sync(&self, wanted: u64) -> Result<(), AuditError> {
        let mut synced = lock(&self.synced);
        if synced.head.seq >= wanted {
            return Ok(());
        }
        let (file, path, head) = {
            let end = lock(&self.end);
            if end.broken {
                return Err(AuditError::Broken);
            }
            (end.file.clone(), end.path.clone(), end.head)
        };
        if let Err(source) = file.sync_data() {
            // What a failed sync leaves on the disk is not known, and a second one would claim success.
            lock(&self.end).broken = true;
            return Err(AuditError::Io { file: path.display().to_string(), source });
        }
        synced.head = head;
        let kept = Some(serde_json::Value::String(head.to_string()));
        if self.store.swap_fact(&self.head_fact, synced.kept.as_ref(), kept.as_ref())? {
            synced.kept = kept;
        }
        Ok(())
    }
}

impl End {
    fn write(&mut self, dir: &Path, entry: &Entry) -> Result<(), AuditError> {
        if self.broken {
            return Err(AuditError::Broken);
        }
        let failed = |path: &Path, source| AuditError::Io { file: path.display().to_string(), source };
        if self.length >= SEGMENT {
            self.file.sync_data().map_err(|source| failed(&self.path, source))?;
            let next = begin(dir, self.head)?;
            *self = next;
        }
        let json = serde_json::to_string(entry).map_err(|error| failed(&self.path, error.into()))?;
        let (mut line, head) = chain::seal(&self.head, &json);
        line.push('\n');
        if let Err(source) = (&*self.file).write_all(line.as_bytes()) {
            // A full disk takes part of a line; without that part the log goes on once there is room.
            self.broken = self.file.set_len(self.length).is_err();
            return Err(failed(&self.path, source));
        }
        self.length += line.len() as u64;
        self.head = head;
        Ok(())
    }
}

/// The end of the last file, its last line whole.
fn open_end(dir: &Path, known: Option<Head>) -> Result<End, AuditError> {
    let Some((first, path)) = segments::segments(dir)?.pop() else {
        if let Some(known) = known {
            let fault = Fault::CutOff { found: 0, known: known.seq };
            return Err(ReadError::Fault { file: dir.display().to_string(), fault }.into());
        }
        return begin(dir, Head::default());
    };
    let io = |source| AuditError::Io { file: path.display().to_string(), source };
    let fault = |fault| AuditError::Damaged(ReadError::Fault { file: path.display().to_string(), fault });
    let (stated, length) = segments::tail(&path).map_err(io)?;
    let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
    let torn = file.metadata().map_err(io)?.len().saturating_sub(length);
    if torn > 0 {
        tracing::warn!(file = %path.display(), bytes = torn, "the audit log's last line was torn by a crash; cut off");
        file.set_len(length).and_then(|()| file.sync_all()).map_err(io)?;
    }
    let head = match (stated, length) {
        (Some(head), _) => head,
        (None, 0) if first == 1 => Head::default(),
        // A crash between making a file and its first line.
        (None, 0) => return reopen_before(dir, first, &path, known),
        (None, _) => return Err(fault(Fault::Unreadable { line: first })),
    };
    match known {
        Some(known) if known.seq > head.seq => Err(fault(Fault::CutOff { found: head.seq, known: known.seq })),
        Some(known) if known.seq == head.seq && known.hash != head.hash => Err(fault(Fault::Forked { line: head.seq })),
        _ => Ok(End { file: Arc::new(file), path, length, head, broken: false }),
    }
}

fn reopen_before(dir: &Path, first: u64, path: &Path, known: Option<Head>) -> Result<End, AuditError> {
    std::fs::remove_file(path).map_err(|source| AuditError::Io { file: path.display().to_string(), source })?;
    match first {
        0 | 1 => begin(dir, Head::default()),
        _ => open_end(dir, known),
    }
}

fn begin(dir: &Path, head: Head) -> Result<End, AuditError> {
    let path = dir.join(segments::name_of(head.seq + 1));
    let io = |source| AuditError::Io { file: path.display().to_string(), source };
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path).map_err(io)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(End { file: Arc::new(file), path, length: 0, head, broken: false })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditLog({}, {})", self.dir.display(), self.head())
    }
}
