//! Where the join token comes from: a file, stdin or the environment. Never the command line, which every process on the
//! machine can read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use isthmus_certs::JoinToken;

use crate::failure::Failure;

pub(super) const VARIABLE: &str = "ISTHMUS_JOIN_TOKEN";
/// A token is a few hundred bytes; a larger file is another one.
const MAX_BYTES: u64 = 16 * 1024;

/// The token's one line, as it was given, and what it says.
pub(super) struct Given {
    pub(super) text: String,
    pub(super) token: JoinToken,
    pub(super) warning: Option<String>,
}

pub(super) fn read(file: Option<&Path>) -> Result<Given, Failure> {
    let (text, from, warning) = match file {
        Some(path) if path.as_os_str() == "-" => (read_bounded(io::stdin().lock(), "stdin")?, "stdin".to_owned(), None),
        Some(path) => read_file(path)?,
        None => match std::env::var(VARIABLE) {
            Ok(text) => (text, VARIABLE.to_owned(), None),
            Err(_) => {
                return Err(Failure::usage(
                    "there is no join token",
                    format!(
                        "--token-file FILE, --token-file - for stdin, or {VARIABLE}; `isthmus token create` makes one"
                    ),
                ));
            }
        },
    };
    let text = text.trim().to_owned();
    let token = JoinToken::parse(&text).map_err(|e| {
        Failure::new(
            format!("{from}: {e}"),
            "copy the whole line that `isthmus token create` printed; it starts with isthmus1.",
        )
    })?;
    Ok(Given { text, token, warning })
}

fn read_file(path: &Path) -> Result<(String, String, Option<String>), Failure> {
    let failed = |e: io::Error| Failure::new(format!("{}: {e}", path.display()), "check the path of the token file");
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    // It is about to be used up, so this is worth a word and not a refusal.
    let warning = (mode & 0o077 != 0)
        .then(|| format!("{}: mode {mode:04o} let others on this machine read the token", path.display()));
    let text = read_bounded(file, &path.display().to_string())?;
    Ok((text, path.display().to_string(), warning))
}

fn read_bounded(from: impl Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| Failure::new(format!("{name}: {e}"), "give the token as one line of text"))?;
    Ok(text)
}

#[cfg(test)]
#[path = "secret_test.rs"]
mod secret_test;
