//! The log's files: `audit-<number of its first line>.log`, each taken up where the one before ends. Reading alone.

use super::chain::{Fault, Head, check, stated_head};
use super::entry::Entry;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A line has some 400 bytes. A longer one is not ours.
const MAX_LINE: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    #[error("{file}: {fault}")]
    Fault { file: String, fault: Fault },
    #[error("{dir}: there is no audit log here; name the directory `audit` of the control plane's state directory")]
    None { dir: String },
}

pub(super) fn name_of(first: u64) -> String {
    format!("audit-{first:020}.log")
}

/// Files with the number of their first line, oldest first.
pub fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, ReadError> {
    let io = |source| ReadError::Io { file: dir.display().to_string(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("audit-").and_then(|name| name.strip_suffix(".log"));
        if let Some(first) = number.and_then(|number| number.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the whole log and checks every line; `each` sees those that hold. A torn last line, which nobody was promised,
/// is passed over. `known`: a head that the log must contain.
pub fn read_all(dir: &Path, known: Option<Head>, mut each: impl FnMut(&str)) -> Result<Head, ReadError> {
    let files = segments(dir)?;
    if files.is_empty() {
        return Err(ReadError::None { dir: dir.display().to_string() });
    }
    let last = files.len() - 1;
    let mut head = Head::default();
    let mut seen = known.is_none_or(|known| known == Head::default());
    for (index, (_, path)) in files.iter().enumerate() {
        let at = |fault| ReadError::Fault { file: path.display().to_string(), fault };
        read_lines(path, index == last, |line| {
            let (json, next) = check(&head, line)?;
            head = next;
            if let Some(known) = known.filter(|known| known.seq == head.seq) {
                seen = known == head;
                if !seen {
                    return Err(Fault::Forked { line: head.seq });
                }
            }
            each(&json);
            Ok(())
        })
        .map_err(|error| match error {
            LineError::Io(source) => ReadError::Io { file: path.display().to_string(), source },
            LineError::Fault(fault) => at(fault),
        })?;
    }
    match known {
        Some(known) if !seen => {
            let fault = Fault::CutOff { found: head.seq, known: known.seq };
            Err(ReadError::Fault { file: files[last].1.display().to_string(), fault })
        }
        _ => Ok(head),
    }
}

/// Every whole line from number `from` on, unchecked, until `each` says no.
pub fn each_line(dir: &Path, from: u64, mut each: impl FnMut(&str) -> bool) -> Result<(), ReadError> {
    let files = segments(dir)?;
    let needless = files.iter().skip(1).take_while(|(first, _)| *first <= from).count();
    let mut number = files.get(needless).map_or(1, |(first, _)| *first);
    let mut wanted = true;
    for (_, path) in &files[needless.min(files.len())..] {
        let read = read_lines(path, true, |line| {
            wanted = wanted && (number < from || each(line));
            number += 1;
            Ok(())
        });
        if let Err(LineError::Io(source)) = read {
            return Err(ReadError::Io { file: path.display().to_string(), source });
        }
    }
    Ok(())
}

/// The entries of the files that hold anything from `since_ms` on, newest file last. Does not check the chain.
pub fn recent(dir: &Path, since_ms: i64, mut each: impl FnMut(Entry)) -> Result<(), ReadError> {
    let files = segments(dir)?;
    let begins = |path: &Path| first_line(path).ok().flatten().and_then(|line| entry(&line)).map(|entry| entry.at.0);
    // A file is needless if the next one begins early enough.
    let needless = files.iter().skip(1).take_while(|(_, path)| begins(path).is_some_and(|at| at < since_ms)).count();
    for (_, path) in &files[needless.min(files.len())..] {
        let found = read_lines(path, true, |line| {
            entry(line).into_iter().for_each(&mut each);
            Ok(())
        });
        if let Err(LineError::Io(source)) = found {
            return Err(ReadError::Io { file: path.display().to_string(), source });
        }
    }
    Ok(())
}

fn entry(line: &str) -> Option<Entry> {
    serde_json::from_str(line).ok()
}

/// Where the last file stands: the head after its last whole line, and that line's end. `before`: the head that the
/// file takes up.
pub(super) fn tail(path: &Path) -> io::Result<(Option<Head>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * MAX_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(2 * MAX_LINE).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        return Ok((None, 0));
    };
    let begin = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = std::str::from_utf8(&bytes[begin..end]).unwrap_or_default();
    Ok((stated_head(line), from + end as u64 + 1))
}

enum LineError {
    Io(io::Error),
    Fault(Fault),
}

fn first_line(path: &Path) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    BufReader::new(File::open(path)?).take(MAX_LINE).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8(line).ok().map(|line| line.trim_end().to_string()))
}

fn read_lines(
    path: &Path,
    may_be_torn: bool,
    mut each: impl FnMut(&str) -> Result<(), Fault>,
) -> Result<(), LineError> {
    let mut reader = BufReader::new(File::open(path).map_err(LineError::Io)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(LineError::Io)?;
        if read == 0 || (may_be_torn && line.last() != Some(&b'\n') && (read as u64) < MAX_LINE) {
            return Ok(());
        }
        let text = std::str::from_utf8(&line).unwrap_or_default();
        each(text.strip_suffix('\n').unwrap_or(text)).map_err(LineError::Fault)?;
    }
}
