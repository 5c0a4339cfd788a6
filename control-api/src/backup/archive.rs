//! The file: JSON lines. A header, the store, one line per file, and the SHA-256 of everything before it. Sealed, all of
//! that is one body behind a line that says so. Refused: another format, a checksum that does not hold, paths that lead out.

use super::{BackupError, encode};
use crate::audit::chain::{hex, unhex};
use crate::store::{Dump, Wrap};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Component, Path, PathBuf};
use zeroize::Zeroizing;

pub(super) const FORMAT: u32 = 1;
const SEALED: &[u8] = b"ISTHMUS SEALED BACKUP 1\n";

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    pub isthmus_backup: u32,
    pub trust_domain: String,
    pub taken_unix_ms: i64,
    pub revision: u64,
    /// `<number>:<hash>`; empty: the store knew none.
    pub audit_head: String,
}

/// All of it.
#[derive(Clone, PartialEq)]
pub struct Archive {
    pub header: Header,
    pub dump: Dump,
    /// By their path in the state directory.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    file: String,
    base64: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sum {
    sha256: String,
}

impl Archive {
    /// The whole file.
    pub fn write(&self, seal: Option<&Wrap>) -> Result<Zeroizing<Vec<u8>>, BackupError> {
        let mut text = Zeroizing::new(Vec::new());
        line(&mut text, &self.header)?;
        line(&mut text, &self.dump)?;
        for (path, bytes) in &self.files {
            line(&mut text, &File { file: path.to_string_lossy().into_owned(), base64: encode(bytes) })?;
        }
        let sum = hex(&Sha256::digest(&*text));
        line(&mut text, &Sum { sha256: sum })?;
        match seal {
            None => Ok(text),
            Some(wrap) => Ok(Zeroizing::new([SEALED, &wrap.wrap(&text)?].concat())),
        }
    }

    /// Reads what [`write`](Self::write) wrote. `name`: for messages.
    pub fn read(name: &str, bytes: &[u8], seal: Option<&Wrap>) -> Result<Archive, BackupError> {
        let damaged = |why: &str| BackupError::Damaged { file: name.to_string(), why: why.to_string() };
        let text = match (bytes.strip_prefix(SEALED), seal) {
            (Some(body), Some(wrap)) => wrap.unwrap_secret(body)?,
            (Some(_), None) => return Err(damaged("it is sealed; name its passphrase with --passphrase-file")),
            (None, _) => Zeroizing::new(bytes.to_vec()),
        };
        let end = text.strip_suffix(b"\n").ok_or_else(|| damaged("its end is missing"))?;
        let cut = end.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| damaged("its end is missing"))? + 1;
        let sum: Sum = serde_json::from_slice(&end[cut..]).map_err(|_| damaged("its end is missing"))?;
        if unhex(&sum.sha256) != Some(Sha256::digest(&text[..cut]).into()) {
            return Err(damaged("its checksum does not hold"));
        }
        Self::read_lines(name, &text[..cut - 1])
    }

    /// What stands before the checksum.
    pub fn read_lines(name: &str, text: &[u8]) -> Result<Archive, BackupError> {
        let damaged = |why: &str| BackupError::Damaged { file: name.to_string(), why: why.to_string() };
        let mut lines = text.split(|byte| *byte == b'\n');
        let mut next = || lines.next().ok_or_else(|| damaged("lines are missing"));
        let header: Header = parse(next()?).map_err(|why| damaged(&why))?;
        if header.isthmus_backup != FORMAT {
            return Err(damaged(&format!("it has format {}, and this build reads {FORMAT}", header.isthmus_backup)));
        }
        let dump = parse(next()?).map_err(|why| damaged(&why))?;
        let mut files = Vec::new();
        for line in lines {
            let File { file, base64 } = parse(line).map_err(|why| damaged(&why))?;
            let path = PathBuf::from(&file);
            if !is_inside(&path) {
                return Err(damaged(&format!("{file} leads out of the state directory")));
            }
            files.push((path, STANDARD.decode(base64).map_err(|error| damaged(&error.to_string()))?));
        }
        Ok(Archive { header, dump, files })
    }
}

fn is_inside(path: &Path) -> bool {
    let known = super::DIRECTORIES.iter().any(|name| path.starts_with(name));
    known && path.components().count() > 1 && path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn parse<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

fn line<T: Serialize>(text: &mut Vec<u8>, value: &T) -> Result<(), BackupError> {
    let written = serde_json::to_writer(&mut *text, value);
    written.map_err(|error| BackupError::Damaged { file: "the backup".to_string(), why: error.to_string() })?;
    text.push(b'\n');
    Ok(())
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Archive({:?}, {} files)", self.header, self.files.len())
    }
}
