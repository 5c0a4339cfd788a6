//! Where the operator on this host asks the proxy about itself.

use std::path::PathBuf;

use serde::Deserialize;

/// The admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// A unix socket, made with mode 0600. Default: none is opened.
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct AdminFile {
    socket: Option<PathBuf>,
}

impl AdminFile {
    pub(super) fn check(self) -> Admin {
        Admin { socket: self.socket }
    }
}
