//! What the proxy shows of itself: `/metrics` (15020) and readiness (15021) to the network, everything else on a unix
//! socket that only its owner opens.
//!
//! Refuses more than a few connections at once, anything but small reads, and whatever is not on the short list of
//! paths: these ports are reachable when nothing else is, and must cost nothing. No answer holds a secret.

mod dump;
mod public;
mod readiness;
mod serve;
mod socket;
mod status;

pub use public::{metrics_page, readiness_page};
pub use readiness::Readiness;
pub use serve::{Answer, serve_tcp, serve_unix};
pub use socket::{Admin, AdminSocket, SetLogLevel, SocketError};

#[cfg(test)]
#[path = "admin_test.rs"]
mod admin_test;
