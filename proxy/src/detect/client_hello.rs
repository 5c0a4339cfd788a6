//! A ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2): whom it asks for, and the newest version it can speak.

use super::record::{Message, Reader, first_message};
use super::version::WireVersion;

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// What matters of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name of the SNI extension, lower-cased; absent without the extension.
    pub server_name: Option<String>,
    /// The protocols offered, in order; those that are not text are left out.
    pub alpn: Vec<String>,
    /// The newest version offered: the highest in `supported_versions`, else `legacy_version`.
    pub newest: WireVersion,
}

/// The result of looking at a stream's first bytes for a ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    Incomplete,
    /// The hello, and how many bytes on the wire it takes.
    Hello(T, usize),
    /// The other side refuses: an alert of so many bytes on the wire.
    Alert(usize),
    Invalid(&'static str),
}

/// Parses the ClientHello at the head of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed<ClientHello> {
    match first_message(bytes) {
        Message::Incomplete => Parsed::Incomplete,
        Message::Invalid(why) => Parsed::Invalid(why),
        Message::Alert { wire_len } => Parsed::Alert(wire_len),
        Message::Handshake { kind: CLIENT_HELLO, body, wire_len } => match parse_body(&body) {
            Some(hello) => Parsed::Hello(hello, wire_len),
            None => Parsed::Invalid("ClientHello is cut short or contradicts itself"),
        },
        Message::Handshake { .. } => Parsed::Invalid("not a ClientHello"),
    }
}

fn parse_body(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    let legacy_version = WireVersion(body.u16()?);
    body.take(32)?; // random
    body.vec8()?; // session id
    body.vec16()?; // cipher suites
    body.vec8()?; // compression methods
    let mut hello = ClientHello { server_name: None, alpn: Vec::new(), newest: legacy_version };
    if body.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.vec16()?;
    let mut versions_seen = false;
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vec16()?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(content)?,
            ALPN => hello.alpn = alpn(content)?,
            // Twice the same extension: which one the callee's TLS stack reads, we cannot know.
            SUPPORTED_VERSIONS if versions_seen => return None,
            SUPPORTED_VERSIONS => {
                versions_seen = true;
                hello.newest = newest(content)?;
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut content: Reader<'_>) -> Option<Option<String>> {
    let mut names = content.vec16()?;
    while !names.is_empty() {
        let kind = names.u8()?;
        let name = names.vec16()?;
        if kind == 0 {
            return Some(std::str::from_utf8(name.0).ok().map(str::to_ascii_lowercase));
        }
    }
    Some(None)
}

fn alpn(mut content: Reader<'_>) -> Option<Vec<String>> {
    let mut names = content.vec16()?;
    let mut offered = Vec::new();
    while !names.is_empty() {
        let name = names.vec8()?;
        offered.extend(std::str::from_utf8(name.0).ok().map(str::to_owned));
    }
    Some(offered)
}

/// The highest known version; a list of nothing but unknown ones gives 0, which no policy accepts.
fn newest(mut content: Reader<'_>) -> Option<WireVersion> {
    let mut versions = content.vec8()?;
    let mut newest = WireVersion(0);
    while !versions.is_empty() {
        let version = WireVersion(versions.u16()?);
        if !version.is_grease() && version.is_known() {
            newest = newest.max(version);
        }
    }
    Some(newest)
}
