//! HTTP/1 as apps speak it, both sides: [`head`] (strict parsing), [`framing`] (where a body ends), [`chunked`], [`write`]
//! (heads on the wire), [`names`] (their spelling), [`connection`] (one TCP connection and what is read of it), [`incoming`] and [`outgoing`] (bodies),
//! [`server`] (an app that calls), [`exchange`] (an app that is called).
//!
//! Refuses whatever two readers could understand differently (RFC 9112 §11.2): a message is never repaired and passed on.
//! An idle connection holds no buffer: reads land in one buffer of the worker thread, and only what came is kept.

pub mod chunked;
pub mod connection;
pub mod exchange;
pub mod framing;
pub mod head;
pub mod incoming;
pub mod names;
pub mod outgoing;
pub mod server;
pub mod write;

pub use connection::Connection;
pub use framing::Framing;
pub use head::{HeadError, RequestHead, ResponseHead};
pub use names::Names;
pub use server::{Ended, serve};

#[cfg(test)]
#[path = "chunked_test.rs"]
mod chunked_test;
#[cfg(test)]
#[path = "connection_test.rs"]
mod connection_test;
#[cfg(test)]
#[path = "head_test.rs"]
mod head_test;
#[cfg(test)]
#[path = "names_test.rs"]
mod names_test;
#[cfg(test)]
#[path = "smuggling_test.rs"]
mod smuggling_test;

/// A head, its first line included, up to so many bytes: the 64 KiB of fields that apps may send, and a long target.
pub const MAX_HEAD: usize = 80 * 1024;
/// More header fields than this are an attack on somebody's hash table.
pub const MAX_FIELDS: usize = 256;
