//! Where connections enter: one listener per worker on each port (`SO_REUSEPORT`), IPv4 and IPv6 in one socket.
//!
//! Mesh connections then go to the least loaded worker ([`Share`]).
//!
//! Refuses what capture did not redirect here ([`original_destination`]), and takes no more connections than it has
//! permits for: the rest wait in the kernel's queue, where they cost the proxy nothing.

mod accept;
mod bind;
mod original;
mod share;

pub use accept::{Gate, Permit, accept};
pub use bind::{BindError, Bound, bind};
pub use original::original_destination;
pub use share::{Received, Served, Share, Weight, shares};

#[cfg(test)]
#[path = "listen_test.rs"]
mod listen_test;
#[cfg(test)]
#[path = "share_test.rs"]
mod share_test;
