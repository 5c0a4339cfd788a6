//! TLS versions as they are on the wire.

use std::fmt;

/// A version number as in a hello: 0x0301 is TLS 1.0, 0x0304 is TLS 1.3. Ordered as the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireVersion(pub u16);

impl WireVersion {
    pub const TLS1_0: WireVersion = WireVersion(0x0301);
    pub const TLS1_1: WireVersion = WireVersion(0x0302);
    pub const TLS1_2: WireVersion = WireVersion(0x0303);
    pub const TLS1_3: WireVersion = WireVersion(0x0304);

    /// A GREASE value (RFC 8701) stands in `supported_versions` to be ignored.
    pub(super) fn is_grease(self) -> bool {
        let [high, low] = self.0.to_be_bytes();
        high == low && high & 0x0f == 0x0a
    }

    /// Known to be a version of TLS, SSL 3.0 included. What is not known does not count as "new enough".
    pub(super) fn is_known(self) -> bool {
        (0x0300..=0x0304).contains(&self.0)
    }
}

impl fmt::Display for WireVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0x0300 => f.write_str("SSL 3.0"),
            0x0301..=0x0304 => write!(f, "1.{}", self.0 - 0x0301),
            other => write!(f, "{other:#06x}"),
        }
    }
}
