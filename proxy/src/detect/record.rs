//! The first handshake message of a TLS byte stream, put together from however many records and reads carry it.
//!
//! Refuses records and messages beyond the bounds of RFC 8446 §5.1, empty handshake records (a way to make a parser
//! spin), and anything that is not a handshake.

use std::borrow::Cow;

/// 2^14 of plaintext; a hello is never encrypted, so the slack that ciphers need does not apply.
pub const MAX_RECORD: usize = 1 << 14;
/// A hello longer than this is refused. The largest real ones (ML-KEM, ECH, many ALPNs) are under 4 KiB.
pub const MAX_HELLO: usize = 1 << 16;

const HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;

/// What stands at the head of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Not all there yet.
    Incomplete,
    /// A complete handshake message: its type, its body, and how many bytes on the wire its records take.
    Handshake { kind: u8, body: Cow<'a, [u8]>, wire_len: usize },
    /// A complete alert record: the other side refuses. `wire_len` bytes may be passed on to say so.
    Alert { wire_len: usize },
    /// Not TLS, or TLS that nobody sends.
    Invalid(&'static str),
}

/// Reads one handshake message. ChangeCipherSpec records before it (RFC 8446 §D.4 sends one before a second
/// ClientHello) count into `wire_len` and are otherwise ignored.
pub fn first_message(bytes: &[u8]) -> Message<'_> {
    let mut at = 0;
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut collected = 0;
    loop {
        let Some(header) = bytes.get(at..at + HEADER) else {
            return incomplete_or_invalid(&bytes[at.min(bytes.len())..]);
        };
        let (kind, length) = (header[0], usize::from(header[3]) << 8 | usize::from(header[4]));
        if header[1] != 3 || length == 0 || length > MAX_RECORD {
            return Message::Invalid("record header out of bounds");
        }
        let end = at + HEADER + length;
        match kind {
            CHANGE_CIPHER_SPEC if parts.is_empty() && length == 1 && at == 0 => {
                at = end;
                continue;
            }
            ALERT if parts.is_empty() => {
                return if bytes.len() >= end { Message::Alert { wire_len: end } } else { Message::Incomplete };
            }
            HANDSHAKE => {}
            _ => return Message::Invalid("not a handshake record"),
        }
        let part = &bytes[at + HEADER..bytes.len().min(end)];
        parts.push(part);
        collected += part.len();
        let complete_record = bytes.len() >= end;
        if collected >= 4 {
            match message(&parts, collected) {
                Ok(Some(wanted)) if complete_record || collected >= wanted => {
                    if collected >= wanted && complete_record {
                        return finish(parts, wanted, end);
                    }
                }
                Ok(_) => {}
                Err(why) => return Message::Invalid(why),
            }
        }
        if !complete_record {
            return Message::Incomplete;
        }
        at = end;
    }
}

/// A partial record header is judged by what is there, so that garbage is not waited for.
fn incomplete_or_invalid(rest: &[u8]) -> Message<'static> {
    match (rest.first(), rest.get(1)) {
        (Some(kind), _) if !matches!(*kind, HANDSHAKE | CHANGE_CIPHER_SPEC | ALERT) => {
            Message::Invalid("not a handshake record")
        }
        (_, Some(major)) if *major != 3 => Message::Invalid("record header out of bounds"),
        _ => Message::Incomplete,
    }
}

/// The message's whole length with its 4 bytes of header, once those are there.
fn message(parts: &[&[u8]], collected: usize) -> Result<Option<usize>, &'static str> {
    if collected < 4 {
        return Ok(None);
    }
    let mut header = parts.iter().flat_map(|part| part.iter().copied()).skip(1);
    let mut length = 0;
    for _ in 0..3 {
        length = length << 8 | usize::from(header.next().unwrap_or(0));
    }
    if length > MAX_HELLO {
        return Err("hello is longer than 64 KiB");
    }
    Ok(Some(length + 4))
}

fn finish<'a>(parts: Vec<&'a [u8]>, wanted: usize, wire_len: usize) -> Message<'a> {
    let whole: Cow<'a, [u8]> = match parts.as_slice() {
        [one] => Cow::Borrowed(*one),
        many => Cow::Owned(many.concat()),
    };
    let kind = whole[0];
    let body = match whole {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[4..wanted]),
        Cow::Owned(bytes) => Cow::Owned(bytes[4..wanted].to_vec()),
    };
    Message::Handshake { kind, body, wire_len }
}

/// A cursor over a hello's body: every read is checked.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// A vector with one byte of length.
    pub(super) fn vec8(&mut self) -> Option<Reader<'a>> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Reader)
    }

    /// A vector with two bytes of length.
    pub(super) fn vec16(&mut self) -> Option<Reader<'a>> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Reader)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
