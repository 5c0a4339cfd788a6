//! What can go wrong while a world is built or used. Each says what was being done; the cause is in the source.

use std::io;
use std::time::Duration;

use isthmus_netlink::NetlinkError;

use crate::privilege::PrivilegeError;

/// A failure of the world, not of what is tested in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine or container does not let us make namespaces; the text says why and what to do.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// What was being done, with the name of the thing.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a change of the network.
    #[error("{doing}: {source}")]
    Netlink {
        /// What was being done, with the name of the thing.
        doing: String,
        /// The kernel's answer, with its extended text where it gave one.
        source: NetlinkError,
    },
    /// Something did not happen in time.
    #[error("waited {} ms for {what}{}", after.as_millis(), after_text(detail))]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// The last that was seen of it, such as the end of a log; may be empty.
        detail: String,
    },
    /// A program is not on this machine.
    #[error("{program} is not installed (looked in {looked_in})")]
    Missing {
        /// Its name.
        program: String,
        /// The directories.
        looked_in: String,
    },
    /// A program or a peer did something else than it should.
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn system(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { doing: doing.into(), source: source.into() }
    }

    pub(crate) fn netlink(doing: impl Into<String>, source: NetlinkError) -> Self {
        Self::Netlink { doing: doing.into(), source }
    }
}

fn after_text(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!("; last seen:\n{detail}") }
}
