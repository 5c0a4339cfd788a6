//! HPACK (RFC 7541) as two sidecars use it: [`decode`] takes whatever an encoder may say, [`encode`] makes few bytes of what
//! repeats. [`table`] holds what both know by heart.
//!
//! Refuses what the RFC calls a decoding error; each ends the connection, because nothing after it can be read.

pub mod decode;
pub mod encode;
pub mod huffman;
pub mod table;

pub use decode::{Decoder, HpackError};
pub use encode::Encoder;
pub use table::{Field, Pseudo};

#[cfg(test)]
#[path = "hpack_test.rs"]
mod hpack_test;

/// What an entry costs beyond its bytes (§4.1).
pub const ENTRY: usize = 32;
/// The dynamic table until somebody says otherwise (§4.2, RFC 9113 §6.5.2).
pub const DEFAULT_TABLE: usize = 4_096;
