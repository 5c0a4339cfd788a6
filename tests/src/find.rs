//! Where programs of the machine are: on PATH, in the directories of administrators' programs, and in PostgreSQL's own.
//! A suite that needs one says so loudly when it is missing, and fails where CI promised that nothing is.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The path of a program, or `None`.
pub fn program(name: &str) -> Option<PathBuf> {
    directories().into_iter().map(|directory| directory.join(name)).find(|path| is_executable(path))
}

/// The path of a program.
///
/// # Errors
/// [`Error::Missing`], with the directories that were looked in.
pub fn required(name: &str) -> Result<PathBuf, Error> {
    program(name).ok_or_else(|| Error::Missing {
        program: name.to_owned(),
        looked_in: directories().iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":"),
    })
}

/// The mesh's own program, for those that measure it: named by `ISTHMUS`, else beside this program, where the same build
/// puts it.
///
/// # Errors
/// What to do where it is at neither place.
pub fn isthmus() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os("ISTHMUS").filter(|value| !value.is_empty()) {
        // Absolute: children may have another working directory.
        return Path::new(&named).canonicalize().map_err(|error| format!("ISTHMUS={}: {error}", named.display()));
    }
    let own = env::current_exe().map_err(|error| format!("looking for our own executable: {error}"))?;
    let beside = own.with_file_name("isthmus");
    if !beside.is_file() {
        let what = "is not there: run `cargo build --release -p isthmus` first, or set ISTHMUS to its path";
        return Err(format!("{} {what}", beside.display()));
    }
    Ok(beside)
}

/// For a suite: `Some` when all are there. Otherwise says on stderr which is missing and what is skipped for it, or
/// panics when the environment variable `CI` is set, because a skipped test proves nothing.
pub fn or_skip(names: &[&str], what: &str) -> Option<Vec<PathBuf>> {
    let found: Vec<Option<PathBuf>> = names.iter().map(|name| program(name)).collect();
    let missing: Vec<&str> =
        names.iter().zip(&found).filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return found.into_iter().collect();
    }
    let message = format!("SKIPPED: {what}: not installed: {}", missing.join(", "));
    assert!(
        env::var_os("CI").is_none_or(|value| value.is_empty()),
        "{message} (CI is set: missing programs are failures)"
    );
    eprintln!("{message}");
    None
}

fn directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    directories
        .extend(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from));
    directories.extend(postgres_directories());
    let mut seen = Vec::new();
    directories.retain(|directory| {
        let new = !seen.contains(directory);
        seen.push(directory.clone());
        new
    });
    directories
}

/// Debian and Ubuntu: `/usr/lib/postgresql/<version>/bin`, newest first; Fedora and Homebrew put them on PATH.
fn postgres_directories() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
