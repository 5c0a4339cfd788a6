//! What can go wrong between us and the kernel.

use std::io;

use crate::parse::{Malformed, Refusal};

/// Why a message had not the effect that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel said no, and perhaps why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The socket failed, or the kernel did not answer within the deadline.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel's answer is not netlink.
    #[error("netlink: the kernel's answer cannot be read: {0}")]
    Malformed(#[from] Malformed),
    /// The kernel's answer is longer than anything that we ask for can be.
    #[error("netlink: the kernel's answer is longer than {0} bytes")]
    TooLong(usize),
    /// The kernel's tables changed under each attempt to read them.
    #[error("netlink: what was to be read changed {0} times while it was read")]
    Unstable(usize),
    /// The message was sent, and no answer came.
    #[error("netlink: the kernel did not say whether it did what it was asked")]
    NoAnswer,
}

impl NetlinkError {
    /// The kernel's error number, where it refused or the system call did.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused(refusal) => Some(refusal.errno),
            NetlinkError::Socket(error) => error.raw_os_error(),
            _ => None,
        }
    }
}
