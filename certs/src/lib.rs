//! SPIFFE identities, certificates, trust bundles, verifiers and rotation timing. No network IO.

pub mod clock;
pub mod id;

pub use clock::{Clock, ManualClock, SystemClock};
pub use id::{IdError, SpiffeId, TrustDomain};
