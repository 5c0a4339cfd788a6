//! Why traffic could not be captured.

use std::io;

use isthmus_netlink::NetlinkError;

use super::plan::TABLE;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENOPROTOOPT: i32 = 92;
const EPROTONOSUPPORT: i32 = 93;
const EOPNOTSUPP: i32 = 95;

/// Why traffic could not be captured. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The process may not change the rules of this network namespace.
    #[error(
        "not permitted to capture traffic: give the proxy CAP_NET_ADMIN in its network namespace (systemd: \
         AmbientCapabilities=CAP_NET_ADMIN; Kubernetes: the init container's securityContext), or set capture.mode: none"
    )]
    NotPermitted,
    /// Another process holds the table.
    #[error(
        "another isthmus proxy captures traffic in this network namespace already; stop it first (nft list table inet {TABLE})"
    )]
    AlreadyCaptured,
    /// The kernel lacks something.
    #[error(
        "this kernel cannot capture with nf_tables: {0}; nf_tables with nft_chain_nat, nft_redir and nft_fib_inet is needed \
         (modprobe them, or build them in), or set capture.mode: iptables"
    )]
    Unsupported(#[source] NetlinkError),
    /// Anything else the kernel said.
    #[error("the kernel refused the capture rules: {0}")]
    Kernel(#[source] NetlinkError),
    /// Other programs change rules faster than we can apply ours.
    #[error(
        "the rule set changed again and again while capture was being applied; another program rewrites it in a loop"
    )]
    Contended,
    /// Somebody else has put rules into our table.
    #[error(
        "there is more in table inet {TABLE} than isthmus makes; look at it (nft list table inet {TABLE}) and remove it first"
    )]
    Foreign,
    /// The program that speaks for the kernel cannot be run.
    #[error("cannot run {program}: {error}; install iptables, or use a kernel with nf_tables (capture.mode: nftables)")]
    NoProgram {
        program: String,
        #[source]
        error: io::Error,
    },
    /// That program refused.
    #[error("{program} refused the capture rules: {said}")]
    Program { program: String, said: String },
    /// A socket of ours.
    #[error("cannot hear of changes of the rules: {0}")]
    Changes(#[source] io::Error),
}

impl CaptureError {
    pub(super) fn from_netlink(error: NetlinkError) -> CaptureError {
        match error.errno() {
            Some(EPERM) => CaptureError::NotPermitted,
            Some(ENOENT | ENOPROTOOPT | EOPNOTSUPP | EPROTONOSUPPORT) => CaptureError::Unsupported(error),
            _ => CaptureError::Kernel(error),
        }
    }
}
