//! Files that hold secrets: readable by their owner alone from the first byte, and never half written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

/// A chain with a key has 3 KiB. A longer file is not ours.
const MAX_FILE: u64 = 256 * 1024;

/// Creates `dir` (and its parents) with mode 0700 if it is missing.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Replaces `dir/name` in one step, with mode 0600. When this returns, the new content survives a power cut; when it
/// fails, the old content is still there.
pub fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    // A left-over of a crash may have been made by somebody else or with other rights: start afresh.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    // The rename itself is durable only once the directory is.
    File::open(dir)?.sync_all()
}

/// Reads a file of bounded size. The content is wiped when dropped. `None` if there is no such file.
pub fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len().min(MAX_FILE) as usize;
    let mut content = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {MAX_FILE} bytes")));
    }
    Ok(Some(content))
}
