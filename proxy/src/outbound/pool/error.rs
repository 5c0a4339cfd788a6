//! Why there is no mesh connection, and which errors say that nothing was done.

use isthmus_http2::StreamError;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::reason::Reason;
use crate::tls::HandshakeError;

/// Why there is no mesh connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error("the peer at {0} cannot be reached: {1}")]
    Dial(SocketAddr, Arc<std::io::Error>),
    #[error("no mesh connection to {0}: {1}")]
    Handshake(SocketAddr, Arc<HandshakeError>),
    #[error("the attempt to connect was given up")]
    GivenUp,
}

impl ConnectError {
    pub fn reason(&self) -> Reason {
        match self {
            ConnectError::Dial(_, error) if error.kind() == std::io::ErrorKind::TimedOut => Reason::Timeout,
            ConnectError::Handshake(_, error) => match &**error {
                HandshakeError::Peer(_) => Reason::PeerIdentity,
                HandshakeError::Timeout | HandshakeError::Silent => Reason::Timeout,
                HandshakeError::Io(_) => Reason::ConnectFailed,
            },
            ConnectError::Dial(..) | ConnectError::GivenUp => Reason::ConnectFailed,
        }
    }
}

/// Whether a stream that ended so was certainly not processed. RFC 9113 §8.7: REFUSED_STREAM, and a GOAWAY whose last id
/// is lower, say that nothing was done. A remote GOAWAY is the end of exactly those streams; with another reason than
/// NO_ERROR the peer was in no state to promise anything.
pub fn is_unprocessed(error: &StreamError) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let gone = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
    refused || gone
}
