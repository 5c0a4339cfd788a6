//! A ServerHello (RFC 8446 §4.1.3): the version that the app on the callee's side really chose. Until an acceptable
//! one came back, nothing after the ClientHello is forwarded.

use super::client_hello::Parsed;
use super::record::{Message, Reader, first_message};
use super::version::WireVersion;

const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;
/// SHA-256 of "HelloRetryRequest": a ServerHello with this random is one (RFC 8446 §4.1.3).
pub const HELLO_RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What matters of a ServerHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    /// The version chosen: `supported_versions`, else `legacy_version`.
    pub version: WireVersion,
    /// A HelloRetryRequest: another ClientHello and the real ServerHello follow.
    pub retry: bool,
}

/// Parses the ServerHello at the head of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed<ServerHello> {
    match first_message(bytes) {
        Message::Incomplete => Parsed::Incomplete,
        Message::Invalid(why) => Parsed::Invalid(why),
        Message::Alert { wire_len } => Parsed::Alert(wire_len),
        Message::Handshake { kind: SERVER_HELLO, body, wire_len } => match parse_body(&body) {
            Some(hello) => Parsed::Hello(hello, wire_len),
            None => Parsed::Invalid("ServerHello is cut short or contradicts itself"),
        },
        Message::Handshake { .. } => Parsed::Invalid("not a ServerHello"),
    }
}

fn parse_body(body: &[u8]) -> Option<ServerHello> {
    let mut body = Reader(body);
    let legacy_version = WireVersion(body.u16()?);
    let random = body.take(32)?;
    body.vec8()?; // session id
    body.take(3)?; // cipher suite, compression method
    let mut hello = ServerHello { version: legacy_version, retry: random == HELLO_RETRY_RANDOM };
    if !body.is_empty() {
        let mut extensions = body.vec16()?;
        let mut seen = false;
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let mut content = extensions.vec16()?;
            if kind == SUPPORTED_VERSIONS {
                if seen {
                    return None;
                }
                seen = true;
                hello.version = WireVersion(content.u16()?);
            }
        }
    }
    // A version that nobody knows is not "at least" any other.
    hello.version.is_known().then_some(hello)
}
