//! How traffic gets here, and how the proxy's own traffic does not.
//!
//! Comes before everything else in the path: nftables sends the app's TCP connections to the outbound listener and
//! those of others to the inbound one, by `redirect`, for IPv4 and IPv6 alike. The listeners read the original
//! destination back. Loopback, the exempt proxy itself and what the configuration excludes are left alone.

mod exempt;
pub mod expression;
mod message;
mod nftables;
mod plan;
mod rule;

pub use exempt::Exemption;
pub use nftables::{Capture, CaptureError};
pub use plan::{Action, Condition, InboundPorts, Plan, Rule, Scope, TABLE};
