//! Where a robot's token or an invitation comes from: a file, stdin or the environment. Never the command line.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use isthmus_certs::JoinToken;
use isthmus_control::operators::token;
use zeroize::Zeroizing;

use crate::failure::Failure;

pub(super) const VARIABLE: &str = "ISTHMUS_OPERATOR_TOKEN";
/// A token is a few hundred bytes; a larger file is another one.
const MAX_BYTES: u64 = 16 * 1024;

/// None: none was given, and the certificate that is there counts.
pub(super) fn read(file: Option<&Path>) -> Result<Option<JoinToken>, Failure> {
    let (text, from) = match file {
        Some(path) if path.as_os_str() == "-" => (bounded(io::stdin().lock(), "stdin")?, "stdin".to_owned()),
        Some(path) => (private(path)?, path.display().to_string()),
        None => match std::env::var(VARIABLE) {
            Ok(text) => (Zeroizing::new(text), VARIABLE.to_owned()),
            Err(_) => return Ok(None),
        },
    };
    let token = token::parse(&text).map_err(|_| {
        Failure::new(
            format!("{from}: this is not a robot's token or an invitation"),
            "copy the whole line that `isthmus robot create` or `isthmus invite` printed; it starts with \
             isthmus-operator1.",
        )
    });
    token.map(Some)
}

/// A token that is used again and again is worth as much as a key.
fn private(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |e: io::Error| Failure::new(format!("{}: {e}", path.display()), "check the path of the token file");
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(Failure::new(
            format!("{}: mode {mode:04o} lets others on this machine read the token", path.display()),
            format!("chmod 600 {}", path.display()),
        ));
    }
    bounded(file, &path.display().to_string())
}

fn bounded(from: impl Read, name: &str) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    from.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| Failure::new(format!("{name}: {e}"), "give the token as one line of text"))?;
    Ok(text)
}
