//! A directory of YAML files that is kept applied. A change is taken once the files have stood still for one look, so
//! that a file that is being written is not taken for a short one.
//!
//! A file with a fault keeps what it last said, and the other files go on. A file that is gone takes its resources with
//! it; a directory that cannot be read changes nothing.

use crate::ledger::{Author, Ledger, Outcome, Proposal, Writer};
use crate::store::StoreError;
use crate::validate::{Parsed, Problem, ResourceRef, by_command_only, parse};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at: an mtime scan of a thousand files takes about a millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const MAX_FILE: u64 = 16 << 20;
const MAX_DEPTH: usize = 8;

/// What one look at the directory came to.
#[derive(Debug, Default)]
pub struct Report {
    pub outcome: Outcome,
    /// Files that keep what they last said, and why.
    pub problems: Vec<Problem>,
}

/// Keeps the directory applied. Never returns; to be cancelled between two looks.
pub async fn follow(ledger: Arc<Ledger>, dir: PathBuf) {
    let mut applied = None;
    let mut seen = None;
    loop {
        let now = fingerprint(&dir);
        let first = applied.is_none();
        if (first || now == seen) && now != applied && now.is_some() {
            let (ledger, dir) = (ledger.clone(), dir.clone());
            match tokio::task::spawn_blocking(move || sync(&ledger, &dir)).await {
                Ok(Ok(report)) => {
                    tell(&report);
                    applied = now;
                }
                Ok(Err(error)) => tracing::error!(%error, "resources not applied; trying again"),
                Err(error) => tracing::error!(%error, "resources not applied"),
            }
        }
        seen = now;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn tell(report: &Report) {
    for problem in &report.problems {
        tracing::error!("{problem}");
    }
    for warning in &report.outcome.warnings {
        tracing::warn!("{warning}");
    }
    let Outcome { revision, changes, .. } = &report.outcome;
    tracing::info!(revision, resources = changes.len(), problems = report.problems.len(), "resources read");
}

/// Applies what the directory says now.
pub fn sync(ledger: &Ledger, dir: &Path) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let files = match files(dir) {
        Ok(files) => files,
        Err(error) => {
            report.problems.push(unreadable(dir, &error));
            return Ok(report);
        }
    };
    let mut faulty = BTreeSet::new();
    let mut puts = Vec::new();
    for file in &files {
        let source = file.display().to_string();
        let (parsed, mut problems) = match fs::read_to_string(file) {
            Ok(text) => parse(&source, &text),
            Err(error) => (Vec::new(), vec![unreadable(file, &error)]),
        };
        problems.extend(parsed.iter().filter_map(by_command_only));
        match problems.is_empty() {
            true => puts.extend(parsed),
            false => drop(faulty.insert(source)),
        }
        report.problems.extend(problems);
    }
    settle(ledger, puts, faulty, &mut report)?;
    Ok(report)
}

/// Proposes; whatever is refused for a file's sake goes without that file. Each round sets something aside, so it ends.
fn settle(
    ledger: &Ledger,
    mut puts: Vec<Parsed>,
    mut faulty: BTreeSet<String>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut kept: BTreeSet<ResourceRef> = BTreeSet::new();
    loop {
        let deletes = gone(ledger, &puts, &faulty, &kept);
        let proposal = Proposal {
            puts,
            deletes,
            writer: Writer::Files,
            author: Author::new("files", "read"),
            ..Proposal::default()
        };
        let outcome = ledger.propose(&proposal, false)?;
        if outcome.problems.is_empty() {
            report.outcome = outcome;
            return Ok(());
        }
        let blamed: BTreeSet<String> =
            outcome.problems.iter().map(|problem| problem.source.clone()).filter(|s| !faulty.contains(s)).collect();
        let before = proposal.puts.len();
        report.problems.extend(outcome.problems);
        puts = proposal.puts;
        puts.retain(|parsed| !blamed.contains(&parsed.source));
        if puts.len() == before {
            // What is stored would break: then it is what the files no longer say that has to stay.
            if proposal.deletes.is_empty() {
                return Ok(());
            }
            kept.extend(proposal.deletes);
        }
        faulty.extend(blamed);
    }
}

/// What came from a file, and no sound file says any more.
fn gone(ledger: &Ledger, puts: &[Parsed], faulty: &BTreeSet<String>, kept: &BTreeSet<ResourceRef>) -> Vec<ResourceRef> {
    let said: BTreeSet<&ResourceRef> = puts.iter().map(|parsed| &parsed.resource.key).collect();
    let world = ledger.world();
    let of_files = world.meta.iter().filter(|(key, meta)| {
        let file = meta.origin.strip_prefix("file:");
        file.is_some_and(|file| !faulty.contains(file)) && !said.contains(*key) && !kept.contains(*key)
    });
    of_files.map(|(key, _)| key.clone()).collect()
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        source: path.display().to_string(),
        line: 0,
        column: 0,
        resource: ResourceRef::default(),
        field: String::new(),
        reason: format!("cannot be read: {error}"),
    }
}

/// All `.yaml`, `.yml` and `.json` below the directory, sorted; names that start with a dot are editors' and
/// Kubernetes' own.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(dir, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        // Follows links: a mounted ConfigMap is made of them. One that points nowhere is skipped.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth < MAX_DEPTH {
            collect(&path, depth + 1, found)?;
        }
        let kind = path.extension().and_then(|extension| extension.to_str());
        if metadata.is_file() && matches!(kind, Some("yaml" | "yml" | "json")) && metadata.len() <= MAX_FILE {
            found.push(path);
        }
    }
    Ok(())
}

/// Changes when any file does; none while the directory cannot be read.
fn fingerprint(dir: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    for file in files(dir).ok()? {
        let metadata = fs::metadata(&file).ok()?;
        let stamp = (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime_nsec());
        (file, stamp).hash(&mut hasher);
    }
    Some(hasher.finish())
}
