//! What `join` did to this machine, written down before it is done, so that `leave` undoes exactly that and a join that
//! fails half way leaves nothing behind.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The proxy's own traffic is exempt from capture by this uid (DESIGN.md, Ports).
pub(crate) const PROXY_UID: u32 = 1337;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Joined {
    /// The control plane's address and the trust domain, for messages.
    pub(crate) address: String,
    pub(crate) trust_domain: String,
    /// Written by `join`, and taken away by `leave`.
    pub(crate) files: Vec<PathBuf>,
    /// Made by `join`, and removed by `leave` with what the proxy keeps there.
    pub(crate) state_dir: PathBuf,
    /// The systemd unit, where there is systemd.
    pub(crate) unit: Option<String>,
    /// The user `isthmus` did not exist before.
    pub(crate) user_created: bool,
}

pub(crate) fn path(config_dir: &Path) -> PathBuf {
    config_dir.join("joined.json")
}

impl Joined {
    /// None: this machine has not joined, or not with this directory.
    pub(crate) fn read(config_dir: &Path) -> Result<Option<Self>, Failure> {
        let path = path(config_dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(Failure::new(format!("{}: {e}", path.display()), "run as root: sudo isthmus …"));
            }
        };
        let joined = serde_json::from_str(&text).map_err(|e| {
            let what = format!("{}: {e}; it is not as `isthmus join` wrote it", path.display());
            Failure::new(what, "remove by hand what it lists, then the file itself")
        })?;
        Ok(Some(joined))
    }

    pub(crate) fn write(&self, config_dir: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Failure::plain(e.to_string()))?;
        file(&path(config_dir), &format!("{text}\n"), 0o644, None)
    }
}

/// A directory that may exist already; made with `mode`, and given to `owner` where that is asked for.
pub(crate) fn dir(path: &Path, mode: u32, owner: Option<u32>) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|e| unwritable(path, &e))?;
    give(path, owner)
}

/// A file with its mode from the first byte, in place only when it is whole.
pub(crate) fn file(path: &Path, text: &str, mode: u32, owner: Option<u32>) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let write = || {
        // A leftover of a join that was cut off. It may have another mode.
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| unwritable(path, &e))?;
    give(&beside, owner)?;
    fs::rename(&beside, path).map_err(|e| unwritable(path, &e))
}

fn give(path: &Path, owner: Option<u32>) -> Result<(), Failure> {
    let Some(id) = owner else { return Ok(()) };
    rustix::fs::chown(path, Some(Uid::from_raw(id)), Some(Gid::from_raw(id))).map_err(|e| unwritable(path, &e.into()))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root: sudo isthmus join …",
        io::ErrorKind::ReadOnlyFilesystem => {
            "this filesystem is read-only; name others with --config-dir and --state-dir"
        }
        _ => "check the directory, or name another with --config-dir or --state-dir",
    };
    Failure::new(format!("{}: {error}", path.display()), advice)
}

#[cfg(test)]
#[path = "record_test.rs"]
mod record_test;
