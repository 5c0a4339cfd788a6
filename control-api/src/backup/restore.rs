//! The way back. What is there and is newer wins over the backup wherever the backup could revive something.

use super::{AUDIT, AUDIT_HEAD, Archive, BackupError, CA, head, io};
use crate::audit::{Head, segments};
use crate::config::Config;
use crate::store::{Codec, Dump, EmbeddedStore, Store, TokenState, open};
use isthmus_certs::private_file;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

/// Above every revision that a proxy may have seen since the backup: a view of a lower one would be refused there.
const FAR: u64 = 1 << 20;
/// Of the history of changes: of the backup, not of what it replaces.
const PAST: [&str; 5] = ["revision/", "revision-keys/", "past/", "history/", "confirm/"];
const PENDING: &str = "confirm/";

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub revision: u64,
    pub resources: usize,
    /// Files of CA and audit log that were not there.
    pub files: usize,
    /// Where the store of before is now.
    pub former: Option<PathBuf>,
    /// Unused tokens that may have been used since, and are revoked for that.
    pub tokens_revoked: usize,
    /// The audit log of this machine goes on: it knows what was revoked since the backup.
    pub audit_goes_on: bool,
}

/// Makes the backup the state of the configured control plane, which must not be running. `force`: also where there is one.
pub fn restore(config: &Config, archive: &Archive, force: bool, now_ms: i64) -> Result<Restored, BackupError> {
    if archive.header.trust_domain != config.trust_domain {
        let (found, wanted) = (archive.header.trust_domain.clone(), config.trust_domain.clone());
        return Err(BackupError::OtherMesh { found, wanted });
    }
    let dir = &config.state_dir;
    private_file::make_dir(dir).map_err(io(dir))?;
    let codec = || open::codec(config);
    let file = open::file(dir);
    let present = match &config.store.etcd {
        Some(_) => None,
        None if !file.exists() => None,
        None if force => Some(EmbeddedStore::open_with(&file, codec()?)?.dump()?),
        None => {
            let what = format!("{} is there; --force puts it aside and goes back to the backup", file.display());
            return Err(BackupError::InTheWay(what));
        }
    };
    let audit_goes_on = ends_after(&dir.join(AUDIT), head(&archive.dump))?;
    let mut restored = Restored { audit_goes_on, ..Restored::default() };
    let dump = merged(archive, present.as_ref(), &mut restored);
    restored.revision = dump.revision;
    restored.resources = dump.resources.len();
    restored.files = write_files(dir, archive, audit_goes_on)?;
    match &config.store.etcd {
        Some(etcd) => open::apart(etcd, codec()?)?.fill(&dump)?,
        None => restored.former = replace_store(dir, &file, codec()?, &dump, now_ms)?,
    }
    give_to_owner(dir)?;
    Ok(restored)
}

/// The control plane seldom runs as the user who restores: everything belongs to whom the directory belongs to.
fn give_to_owner(dir: &Path) -> Result<(), BackupError> {
    let owner = fs::metadata(dir).map_err(io(dir))?;
    for entry in fs::read_dir(dir).map_err(io(dir))? {
        let path = entry.map_err(io(dir))?.path();
        let found = fs::symlink_metadata(&path).map_err(io(&path))?;
        if (found.uid(), found.gid()) != (owner.uid(), owner.gid()) {
            lchown(&path, Some(owner.uid()), Some(owner.gid())).map_err(io(&path))?;
        }
        if found.is_dir() {
            give_to_owner(&path)?;
        }
    }
    Ok(())
}

/// Whether the audit log on this machine holds all that the backup knows of, and so tells what happened since.
fn ends_after(dir: &Path, known: Option<Head>) -> Result<bool, BackupError> {
    if !dir.exists() {
        return Ok(false);
    }
    match segments::read_all(dir, known, |_| ()) {
        Ok(_) => Ok(true),
        Err(segments::ReadError::None { .. }) => Ok(false),
        Err(error) => Err(BackupError::InTheWay(format!(
            "the audit log in {} does not go on from the backup's: {error}. Put the directory aside if it is another \
             control plane's",
            dir.display()
        ))),
    }
}

/// The backup, with what is here of later date on top.
fn merged(archive: &Archive, present: Option<&Dump>, restored: &mut Restored) -> Dump {
    let mut dump = archive.dump.clone();
    let later = present.map_or(0, |present| present.revision);
    dump.revision = dump.revision.max(later).saturating_add(FAR);
    dump.facts.retain(|name, _| !name.starts_with(PENDING));
    for (name, value) in present.into_iter().flat_map(|present| &present.facts) {
        if !PAST.iter().any(|past| name.starts_with(past)) {
            dump.facts.insert(name.clone(), value.clone());
        }
    }
    if !restored.audit_goes_on && present.is_none() {
        // As it stands in the log that comes with the backup, which may have a line or two more.
        dump.facts.retain(|name, _| !name.starts_with(AUDIT_HEAD));
    }
    for token in &mut dump.tokens {
        let here = present.and_then(|present| present.tokens.iter().find(|here| here.id == token.id));
        match here {
            Some(here) => token.state = here.state.clone(),
            // The log tells at the next start whether it was used.
            None if restored.audit_goes_on => {}
            None if token.state == TokenState::Unused => {
                token.state = TokenState::Revoked;
                restored.tokens_revoked += 1;
            }
            None => {}
        }
    }
    for here in present.into_iter().flat_map(|present| &present.tokens) {
        if !dump.tokens.iter().any(|token| token.id == here.id) {
            dump.tokens.push(here.clone());
        }
    }
    dump
}

/// CA and audit log, each only where there is none: what is here was rotated or written later.
fn write_files(dir: &Path, archive: &Archive, audit_goes_on: bool) -> Result<usize, BackupError> {
    let keep_ca = dir.join(CA).exists();
    let mut written = 0;
    for (path, bytes) in &archive.files {
        if (path.starts_with(CA) && keep_ca) || (path.starts_with(AUDIT) && audit_goes_on) {
            continue;
        }
        let whole = dir.join(path);
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name().and_then(|name| name.to_str())) else {
            continue;
        };
        private_file::make_dir(parent).map_err(io(parent))?;
        private_file::replace(parent, name, bytes).map_err(io(&whole))?;
        written += 1;
    }
    Ok(written)
}

/// Filled aside, then put in place by one rename. The old one stays beside it.
fn replace_store(
    dir: &Path,
    file: &Path,
    codec: Codec,
    dump: &Dump,
    now_ms: i64,
) -> Result<Option<PathBuf>, BackupError> {
    let aside = dir.join("store.redb.restoring");
    if aside.exists() {
        fs::remove_file(&aside).map_err(io(&aside))?;
    }
    EmbeddedStore::open_with(&aside, codec)?.fill(dump)?;
    let former = match file.exists() {
        false => None,
        true => {
            let former = dir.join(format!("store.redb.before-{now_ms}"));
            fs::rename(file, &former).map_err(io(file))?;
            Some(former)
        }
    };
    fs::rename(&aside, file).map_err(io(&aside))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir))?;
    Ok(former)
}
