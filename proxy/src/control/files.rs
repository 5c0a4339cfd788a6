//! The state directory: small files, each replaced in one step, 0600, and sealed where this machine can seal.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::seal::Seal;

const SEEN_FILE: &str = "seen.json";
/// A view of the design size, several times. A longer file is not ours.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// What a sealed file's name ends with.
const SEALED: &str = "sealed";

/// The directory and how its secrets are kept.
#[derive(Debug)]
pub(super) struct StateFiles {
    dir: PathBuf,
    seal: Seal,
}

/// The newest version that was in force here, so that an older copy of the snapshot is known as such.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seen {
    version: u64,
}

impl StateFiles {
    pub(super) fn new(dir: PathBuf, seal: Seal) -> StateFiles {
        StateFiles { dir, seal }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Sealed where that is possible; what was there in plain is removed then.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let Some(sealed) = self.seal.close(name, content)? else {
            return write_private(&self.dir, name, content);
        };
        write_private(&self.dir, &format!("{name}.{SEALED}"), &sealed)?;
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(format!("{name} stays in plain: {e}")),
            _ => Ok(()),
        }
    }

    /// Sealed or in plain, whichever is there. None: neither.
    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        match read_private(&self.dir.join(format!("{name}.{SEALED}")))? {
            Some(sealed) => self.seal.open(name, &sealed).map(Some),
            None => read_private(&self.dir.join(name)),
        }
    }

    pub(super) fn write_seen(&self, version: u64) -> Result<(), String> {
        let text = serde_json::to_vec(&Seen { version }).map_err(|e| e.to_string())?;
        write_private(&self.dir, SEEN_FILE, &text)
    }

    /// 0: none was ever in force. A number that cannot be read is an error: guessing would let an old copy in.
    pub(super) fn read_seen(&self) -> Result<u64, String> {
        let Some(text) = read_private(&self.dir.join(SEEN_FILE))? else { return Ok(0) };
        let seen: Seen = serde_json::from_slice(&text).map_err(|_| format!("{SEEN_FILE} is damaged"))?;
        Ok(seen.version)
    }
}

fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("{size} bytes are no file of ours"));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_end(&mut content).map_err(|e| e.to_string())?;
    Ok(Some(content))
}

/// Written aside, made durable, then renamed: a crash leaves the old one or the new one.
pub(super) fn write_private(dir: &Path, name: &str, text: &[u8]) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let aside = dir.join(format!(".{name}.new"));
    // A left-over of a crash may have been made with other rights: start afresh.
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.to_string()),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(io)?;
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&aside, dir.join(name)));
    if let Err(e) = written {
        // Half of a file would only take the room that is missing.
        let _ = fs::remove_file(&aside);
        return Err(e.to_string());
    }
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}
