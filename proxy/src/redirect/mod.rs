//! How traffic gets here, and how the proxy's own traffic does not.

mod exempt;

pub use exempt::Exemption;
