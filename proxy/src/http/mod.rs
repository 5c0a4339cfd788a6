//! HTTP as it passes through: which headers may, how bodies move between HTTP/1 and HTTP/2, how a refusal is said.
//!
//! These blocks know nothing of policy or state. They refuse what can be read in more than one way
//! ([`crate::reason::Reason::MalformedRequest`]) and internal headers that are missing, repeated or malformed
//! ([`crate::reason::Reason::BadInternalHeader`]).

pub mod body;
pub mod client;
pub mod exchange;
pub mod followed;
pub mod h1;
pub mod headers;
pub mod internal;
pub mod keepalive;
pub mod patience;
pub mod respond;
pub mod server;
pub mod spans;
pub mod stream;
pub mod stream_io;
pub mod target;
pub mod transfer;
pub mod tunnel;
mod websockets;

pub use body::{Body, BodyError};
pub use exchange::{Answer, Asked, Caller};

#[cfg(test)]
#[path = "abuse_test.rs"]
pub(crate) mod abuse_test;
#[cfg(test)]
#[path = "http_test.rs"]
mod http_test;
#[cfg(test)]
#[path = "patience_test.rs"]
mod patience_test;
