//! How a stream or a connection of HTTP/2 ended, whoever carried it.

use std::io;
use std::sync::Arc;

use h2::Reason;

/// Why a stream brings nothing more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamError {
    #[error("the stream was reset by {}: {reason}", side(*remote))]
    Reset { reason: Reason, remote: bool },
    #[error("the connection was ended by {}: {reason}", side(*remote))]
    GoAway { reason: Reason, remote: bool },
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
}

fn side(remote: bool) -> &'static str {
    if remote { "the peer" } else { "ourselves" }
}

impl StreamError {
    pub fn is_reset(&self) -> bool {
        matches!(self, StreamError::Reset { .. })
    }

    pub fn is_go_away(&self) -> bool {
        matches!(self, StreamError::GoAway { .. })
    }

    pub fn is_remote(&self) -> bool {
        matches!(self, StreamError::Reset { remote: true, .. } | StreamError::GoAway { remote: true, .. })
    }

    /// We ended it, and not because nobody wanted it any more: what came broke a rule.
    pub fn is_ours(&self) -> bool {
        let done = [Reason::NO_ERROR, Reason::CANCEL, Reason::STREAM_CLOSED];
        !self.is_remote() && self.reason().is_some_and(|reason| !done.contains(&reason))
    }

    pub fn reason(&self) -> Option<Reason> {
        match self {
            StreamError::Reset { reason, .. } | StreamError::GoAway { reason, .. } => Some(*reason),
            StreamError::Io(_) => None,
        }
    }

    /// What was asked for cannot be done: the stream has ended already.
    pub(super) fn ended() -> StreamError {
        StreamError::Reset { reason: Reason::STREAM_CLOSED, remote: false }
    }
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        StreamError::Io(Arc::new(error))
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = if error.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::BrokenPipe };
        io::Error::new(kind, error)
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        let remote = error.is_remote();
        match error.reason() {
            Some(reason) if error.is_go_away() => StreamError::GoAway { reason, remote },
            Some(reason) => StreamError::Reset { reason, remote },
            None => {
                let kind = error.get_io().map_or(io::ErrorKind::Other, io::Error::kind);
                StreamError::Io(Arc::new(io::Error::new(kind, error)))
            }
        }
    }
}
