//! How traffic gets here, and how the proxy's own traffic does not.
//!
//! Comes before everything else in the path: nftables sends the app's TCP connections to the outbound listener and
//! those of others to the inbound one, by `redirect`, for IPv4 and IPv6 alike. The listeners read the original
//! destination back. Loopback, the exempt proxy itself and what the configuration excludes are left alone.

mod changes;
mod error;
mod exempt;
pub mod expression;
mod iptables;
mod iptables_text;
mod message;
mod nftables;
mod plan;
mod program;
mod rule;
mod scope;
pub mod source;
mod text;

pub use changes::Changes;
pub use error::CaptureError;
pub use exempt::Exemption;
pub use iptables::{Iptables, Kind};
pub use iptables_text::inputs as iptables_inputs;
pub use nftables::{Applied, Capture, Protection, Snapshot, Standing};
pub use plan::{Action, Condition, Plan, Rule, TABLE};
pub use scope::{InboundPorts, Scope, ScopeError, Udp};
