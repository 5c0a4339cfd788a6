//! HTTP/2 (RFC 9113) between two sidecars, both roles. A transport of few connections with very many streams, which holds
//! no buffers while it is idle; apps that speak HTTP/2 meet the h2 crate. One task per connection reads and writes
//! ([`connection`]), whoever has a stream works on the connection's [`state`] directly, from any worker, and what many
//! streams say leaves in one write.
//!
//! In packet order: [`frame`] and [`hpack`] (bytes), [`head`] (messages), [`receive`], [`message`] and [`control`] (what the
//! peer's frames mean), [`stream`] (one stream's state), [`send`] and [`output`] (what goes out), [`handle`] (what callers
//! hold).
//!
//! Refuses, for the connection: frames and blocks that cannot be read, floods (resets before a stream was looked at, heads
//! without end, answers that the peer does not read), windows overrun. For one stream: malformed messages, bodies that are
//! not as long as they say, heads beyond what was offered, streams beyond the bound.

#![forbid(unsafe_code)]

pub mod connection;
mod control;
pub mod error;
pub mod frame;
pub mod grpc;
pub mod handle;
pub mod head;
pub mod hpack;
mod message;
mod output;
mod receive;
mod send;
mod settings;
mod state;
mod stream;

pub use connection::{Connection, Traffic, accept, connect};
pub use error::StreamError;
pub use grpc::{GRPC_MESSAGE, GRPC_STATUS, GRPC_TIMEOUT, grpc_timeout};
pub use h2::Reason;
pub use handle::{Answering, Pings, RecvStream, SendRequest, SendResponse, SendStream};
pub use message::MAX_INTERIM;
pub use settings::{Http2Settings, MAX_HEADER_BYTES};

#[cfg(test)]
#[path = "flood_test.rs"]
mod flood_test;
#[cfg(test)]
#[path = "mesh_test.rs"]
mod mesh_test;
#[cfg(test)]
#[path = "nghttp2_test.rs"]
mod nghttp2_test;
#[cfg(test)]
#[path = "peer_test.rs"]
mod peer_test;
#[cfg(test)]
#[path = "small_frames_test.rs"]
mod small_frames_test;
