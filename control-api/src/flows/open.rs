//! The file of flow records and refusals, opened or made; what stands in the way of that holds up nothing else.

use super::store::{FLOWS, META, REFUSAL_AGES, REFUSALS, REPORTS};
use crate::store::StoreError;
use redb::{Database, ReadableTable};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind::{QuotaExceeded, StorageFull};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const FORMAT: u64 = 1;

/// Why there are no records of before.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Newer(StoreError),
}

/// Opens the file, or makes it with mode 0600. One that cannot be read is put aside: what is in it is the past. Where
/// the disk is full, what comes is kept in memory: a record of the past does not hold up what serves.
pub(super) fn file(path: &Path) -> Result<Database, StoreError> {
    let file = path.display();
    match as_it_is(path) {
        Ok(database) => Ok(database),
        Err(Unopened::Newer(error)) => Err(error),
        Err(Unopened::Failed(why)) => Err(StoreError::Io(format!("{file}: {why}"))),
        Err(Unopened::Full(why)) => {
            tracing::error!(%file, why, "the flow records cannot be written; what comes is kept in memory and lost \
                with the next start: make room, then restart the control plane");
            in_memory()
        }
        Err(Unopened::Damaged(why)) => {
            let aside = path.with_extension("redb.damaged");
            tracing::error!(%file, aside = %aside.display(), why, "the flow records cannot be read; they are put \
                aside, and recording starts anew");
            fs::rename(path, &aside).map_err(|error| StoreError::Io(format!("{}: {error}", aside.display())))?;
            as_it_is(path).map_err(|error| StoreError::Io(format!("{file}: {error}")))
        }
    }
}

fn as_it_is(path: &Path) -> Result<Database, Unopened> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    drop(file.map_err(|error| failed(redb::Error::Io(error)))?);
    let opened = Database::builder().set_cache_size(32 << 20).create(path);
    let database = opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Unopened::Failed("in use".to_string()),
        error => match failed(error) {
            full @ Unopened::Full(_) => full,
            other => Unopened::Damaged(other.to_string()),
        },
    })?;
    prepare(database)
}

/// Dies with the process.
pub(super) fn in_memory() -> Result<Database, StoreError> {
    let made = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new());
    made.map_err(failed).and_then(prepare).map_err(|error| StoreError::Io(error.to_string()))
}

fn prepare(database: Database) -> Result<Database, Unopened> {
    let transaction = database.begin_write().map_err(failed)?;
    {
        let mut meta = transaction.open_table(META).map_err(failed)?;
        let found = meta.get("format").map_err(failed)?.map(|found| found.value());
        if let Some(found) = found.filter(|found| *found > FORMAT) {
            return Err(Unopened::Newer(StoreError::Format { found, known: FORMAT }));
        }
        meta.insert("format", FORMAT).map_err(failed)?;
        transaction.open_table(FLOWS).map_err(failed)?;
        transaction.open_table(REFUSALS).map_err(failed)?;
        transaction.open_table(REFUSAL_AGES).map_err(failed)?;
        transaction.open_table(REPORTS).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(database)
}

fn failed(error: impl Into<redb::Error>) -> Unopened {
    match error.into() {
        redb::Error::Io(why) if matches!(why.kind(), StorageFull | QuotaExceeded) => Unopened::Full(why.to_string()),
        other => Unopened::Failed(other.to_string()),
    }
}
