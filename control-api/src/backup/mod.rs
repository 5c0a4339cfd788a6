//! A control plane in one file, and back again.
//!
//! A backup holds the store as it is at one moment, the CA's files and the audit log, line by line, under one checksum; it
//! is secret as the state directory is, and can be sealed with a passphrase. Going back never revives: whoever is revoked
//! here stays so, a token that may have been used since is revoked, the CA and the audit log that are there stay, and the
//! revision goes on far above all that any proxy has seen.

mod archive;
mod restore;

pub use archive::{Archive, Header};
pub use restore::{Restored, restore};

use crate::audit::Head;
use crate::config::Config;
use crate::store::{Dump, StoreError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(test)]
#[path = "../backup_test.rs"]
mod backup_test;

/// What of the state directory goes into a backup.
const DIRECTORIES: [&str; 2] = ["ca", "audit"];
const CA: &str = "ca";
const AUDIT: &str = "audit";
/// Where the audit log ends, as the store knows it.
const AUDIT_HEAD: &str = "audit/head";

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{file} is no backup of a control plane, or not all of it: {why}")]
    Damaged { file: String, why: String },
    #[error("the backup is of trust domain {found}, and this control plane's is {wanted}")]
    OtherMesh { found: String, wanted: String },
    #[error("{0}")]
    InTheWay(String),
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.display().to_string();
    move |source| BackupError::Io { path, source }
}

/// Puts together what the store holds and what stands beside it. The dump comes first: the audit log that is read after it
/// holds everything that the dump knows of.
pub fn take(config: &Config, dump: Dump, taken_unix_ms: i64) -> Result<Archive, BackupError> {
    let audit_head = head(&dump);
    let header = Header {
        isthmus_backup: archive::FORMAT,
        trust_domain: config.trust_domain.clone(),
        taken_unix_ms,
        revision: dump.revision,
        audit_head: audit_head.map(|head| head.to_string()).unwrap_or_default(),
    };
    let mut files = Vec::new();
    for name in DIRECTORIES {
        collect(&config.state_dir, Path::new(name), &mut files)?;
    }
    Ok(Archive { header, dump, files })
}

fn head(dump: &Dump) -> Option<Head> {
    dump.facts.get(AUDIT_HEAD).and_then(|value| value.as_str()?.parse().ok())
}

/// Files below a directory of the state directory, by their path in it.
fn collect(state_dir: &Path, below: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<(), BackupError> {
    let dir = state_dir.join(below);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(&dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(io(&dir))?.file_name());
    }
    names.sort();
    for name in names {
        let (path, inside) = (dir.join(&name), below.join(&name));
        if path.is_dir() {
            collect(state_dir, &inside, files)?;
        } else {
            files.push((inside, fs::read(&path).map_err(io(&path))?));
        }
    }
    Ok(())
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
