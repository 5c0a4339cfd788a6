//! Finds the join token: the environment first, then the file. Never argv, which every user of the host can read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use isthmus_certs::JoinToken;
use zeroize::Zeroizing;

use crate::config::Config;

use super::RunError;

const VARIABLE: &str = "ISTHMUS_JOIN_TOKEN";

/// `None` where there is none: right for a proxy that has its identity already, and else said by what needs it.
pub(super) fn find(config: &Config) -> Result<Option<JoinToken>, RunError> {
    if let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) {
        let text = Zeroizing::new(text.into_string().unwrap_or_default());
        return parse(&text, VARIABLE);
    }
    match &config.join_token_file {
        Some(path) => from_file(path),
        None => Ok(None),
    }
}

fn from_file(path: &Path) -> Result<Option<JoinToken>, RunError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            tracing::info!(path = %path.display(), "no join token there; none is needed once the proxy has its identity");
            return Ok(None);
        }
        Err(error) => {
            return Err(RunError::JoinTokenFile { path: path.to_owned(), error });
        }
    };
    if fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "other users may read the join token: chmod 600");
    }
    parse(&text, &path.display().to_string())
}

fn parse(text: &str, from: &str) -> Result<Option<JoinToken>, RunError> {
    let token = JoinToken::parse(text.trim());
    token.map(Some).map_err(|error| RunError::JoinToken { from: from.to_owned(), error })
}
