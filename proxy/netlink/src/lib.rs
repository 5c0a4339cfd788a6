//! Netlink: the messages that change and show the kernel's network, as bytes, and a socket to exchange them.
//!
//! Generic down here; what nf_tables' messages hold is in the proxy's `redirect`. [`Links`] is the little of rtnetlink
//! that a test's hosts are made with. Reading refuses what is shorter than it says; nothing here can be made to panic,
//! or to take more than its bounds, by what is read.
#![forbid(unsafe_code)]

mod error;
mod links;
mod message;
mod offload;
mod parse;
mod socket;
mod tcp_info;

pub use error::NetlinkError;
pub use links::Links;
pub use message::{Attributes, flags, message};
pub use offload::switch_off;
pub use parse::{Malformed, Received, Refusal, attributes, messages, refusal};
pub use socket::{Family, Listener, Socket};
pub use tcp_info::{TcpDiagnosis, TcpInfo};
