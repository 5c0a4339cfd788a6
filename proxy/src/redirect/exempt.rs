//! The proxy's own connections must not be captured: a captured one would come back to the proxy for ever.

/// What capture leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exemption {
    /// All sockets of the processes of this user. The proxy runs as it, and nothing else may.
    Uid(u32),
    /// Sockets with this mark (`SO_MARK`), which each socket that the proxy opens must carry: to apps, to peers, to the
    /// control plane, to a collector. Needs `CAP_NET_ADMIN` in the network namespace.
    Mark(u32),
}

impl Exemption {
    /// The mark to set on sockets, if exemption is by mark.
    pub fn mark(self) -> Option<u32> {
        match self {
            Exemption::Uid(_) => None,
            Exemption::Mark(mark) => Some(mark),
        }
    }
}
