//! TLS on the path: the handshake of a mesh connection ([`mesh`]), and the gate that an app's own TLS passes ([`gate`]).
//!
//! A mesh handshake refuses everybody who is not named by a certificate of this trust domain; the gate refuses versions
//! below the policy's before a byte of content was forwarded.

mod ahead;
pub mod gate;
pub mod mesh;
pub mod originate;
pub mod revoked;
pub mod socket;
pub mod stamped;

pub use gate::{Gate, GateError};
pub use mesh::{HandshakeError, InCommon, MeshPeerId, MeshProtocol, accept, connect, in_common};
pub use revoked::Revoked;
pub use stamped::{LastRead, Stamped};

#[cfg(test)]
#[path = "tls_test.rs"]
mod tls_test;
