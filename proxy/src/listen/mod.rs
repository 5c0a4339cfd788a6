//! Where connections enter: one listener per worker on each port (`SO_REUSEPORT`), IPv4 and IPv6 in one socket.
//!
//! Refuses what capture did not redirect here ([`original_destination`]), and takes no more connections than it has
//! permits for: the rest wait in the kernel's queue, where they cost the proxy nothing.

mod accept;
mod bind;
mod original;

pub use accept::{Gate, Permit, accept};
pub use bind::{BindError, Bound, bind};
pub use original::original_destination;

#[cfg(test)]
#[path = "listen_test.rs"]
mod listen_test;
