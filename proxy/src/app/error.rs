//! Why a proxy does not run.

use std::io;
use std::path::PathBuf;

use isthmus_certs::TokenError;

use crate::admin::SocketError;
use crate::control::ControlError;
use crate::listen::BindError;
use crate::redirect::CaptureError;

/// Why a proxy cannot start, or cannot go on. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the state directory cannot be opened: {0}")]
    Seal(String),
    #[error(transparent)]
    Admin(#[from] SocketError),
    #[error("cannot read the join token {}: {error}", path.display())]
    JoinTokenFile {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("the join token of {from} cannot be used: {error}")]
    JoinToken {
        from: String,
        #[source]
        error: TokenError,
    },
    #[error(
        "the proxy runs as uid {own}, and capture exempts uid {exempt}: its own connections would be captured for ever; run it as \
         uid {exempt}, or exempt it by mark (capture.exempt.mark)"
    )]
    NotExempt { own: u32, exempt: u32 },
    #[error(
        "cannot set mark {mark} on the proxy's sockets: {error}; give it CAP_NET_ADMIN, or exempt it by its user (capture.exempt.uid)"
    )]
    Mark {
        mark: u32,
        #[source]
        error: io::Error,
    },
    #[error("the access log cannot be written to (accessLog.path): {0}")]
    AccessLog(#[source] io::Error),
    #[error("cannot start a worker thread: {0}; check the limit of processes")]
    Thread(#[source] io::Error),
    #[error("a worker thread ended; its log line says why. This is a fault of the proxy: please report it")]
    WorkerEnded,
    #[error("the control stream's task ended. This is a fault of the proxy: please report it")]
    ControlEnded,
}
