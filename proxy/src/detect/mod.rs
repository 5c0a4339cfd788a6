//! What an app speaks, told from its first bytes. Pure parsers of outside bytes, each bounded; they know nothing of
//! policy. The paths read a connection's first bytes with [`peek`], classify them here, and hand the bytes on unread.
//!
//! Refuses nothing: what is not recognised is [`Protocol::Opaque`], and it is policy that decides what may be opaque.

pub mod client_hello;
pub mod peek;
pub mod record;
pub mod server_hello;
pub mod version;

pub use client_hello::ClientHello;
pub use peek::{Peeked, Prefixed, Seen, peek, peek_into};
pub use server_hello::ServerHello;
pub use version::WireVersion;

#[cfg(test)]
#[path = "detect_test.rs"]
mod detect_test;
#[cfg(test)]
#[path = "hello_bytes_test.rs"]
pub(crate) mod hello_bytes;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A request line with a registered method.
    Http1,
    /// The HTTP/2 connection preface (RFC 9113 §3.4): prior knowledge, as gRPC clients without TLS do it.
    Http2,
    /// A TLS record that carries a ClientHello.
    Tls,
    /// PostgreSQL's SSLRequest: one byte comes back before the ClientHello.
    PostgresSsl,
    /// PostgreSQL's GSSENCRequest: one byte comes back, and an SSLRequest may follow.
    PostgresGss,
    /// Anything else, and anything silent.
    Opaque,
}

/// A verdict, or the wish for more bytes. Never more than [`LONGEST_PREFIX`] bytes are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Known(Protocol),
    More,
}

/// RFC 9113 §3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length 8, then 80877103: "SSLRequest" in PostgreSQL's protocol documentation.
pub const POSTGRES_SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
/// Length 8, then 80877104: "GSSENCRequest". A server without GSSAPI answers it like an SSLRequest, and is then asked
/// for TLS or plain on the same connection.
pub const POSTGRES_GSS_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];
/// No more bytes than this are ever needed for a verdict.
pub const LONGEST_PREFIX: usize = 24;

/// The methods of the IANA registry that programs use. An unregistered method on a port that is not declared HTTP is
/// opaque: Redis' inline commands and many others look just like one.
const METHODS: &[&[u8]] = &[
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"QUERY",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"SEARCH",
    b"REPORT",
    b"MERGE",
    b"CHECKOUT",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"PURGE",
    b"ACL",
];

/// The verdict on a connection's first bytes. The same bytes give the same verdict however they were fragmented: a
/// longer prefix never changes a verdict that a shorter one gave.
pub fn classify(bytes: &[u8]) -> Verdict {
    let candidates = [
        literal(bytes, HTTP2_PREFACE, Protocol::Http2),
        literal(bytes, POSTGRES_SSL_REQUEST, Protocol::PostgresSsl),
        literal(bytes, POSTGRES_GSS_REQUEST, Protocol::PostgresGss),
        tls(bytes),
        http1(bytes),
    ];
    let mut undecided = false;
    for candidate in candidates {
        match candidate {
            Some(Verdict::Known(protocol)) => return Verdict::Known(protocol),
            Some(Verdict::More) => undecided = true,
            None => {}
        }
    }
    if undecided { Verdict::More } else { Verdict::Known(Protocol::Opaque) }
}

fn literal(bytes: &[u8], expected: &[u8], protocol: Protocol) -> Option<Verdict> {
    let common = bytes.len().min(expected.len());
    if bytes[..common] != expected[..common] {
        return None;
    }
    Some(if common == expected.len() { Verdict::Known(protocol) } else { Verdict::More })
}

/// A handshake record (22), any 3.x version, a length that is legal, and a ClientHello (1) in it.
fn tls(bytes: &[u8]) -> Option<Verdict> {
    let fits = |place: usize, test: fn(u8) -> bool| bytes.get(place).is_none_or(|byte| test(*byte));
    if !fits(0, |b| b == 22) || !fits(1, |b| b == 3) || !fits(2, |b| b <= 4) || !fits(5, |b| b == 1) {
        return None;
    }
    if let (Some(high), Some(low)) = (bytes.get(3), bytes.get(4)) {
        let length = usize::from(*high) << 8 | usize::from(*low);
        if length == 0 || length > record::MAX_RECORD {
            return None;
        }
    }
    Some(if bytes.len() >= 6 { Verdict::Known(Protocol::Tls) } else { Verdict::More })
}

/// `METHOD SP` and the start of a target: origin-form, asterisk-form, absolute-form, or CONNECT's authority.
fn http1(bytes: &[u8]) -> Option<Verdict> {
    for method in METHODS {
        let common = bytes.len().min(method.len());
        if bytes[..common] != method[..common] {
            continue;
        }
        let (Some(space), target) = (bytes.get(method.len()), bytes.get(method.len() + 1)) else {
            return Some(Verdict::More);
        };
        if *space != b' ' {
            continue;
        }
        return match target {
            None => Some(Verdict::More),
            Some(b'/' | b'*' | b'h' | b'H') => Some(Verdict::Known(Protocol::Http1)),
            Some(byte) if *method == b"CONNECT" && (byte.is_ascii_alphanumeric() || *byte == b'[') => {
                Some(Verdict::Known(Protocol::Http1))
            }
            Some(_) => None,
        };
    }
    None
}
