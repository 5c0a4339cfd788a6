//! Messages, read. Whatever says that it is longer than what is there ends the reading with [`Malformed`].

use std::fmt;

use crate::message::{HEADER, flags};

/// A kind says in its upper two bits that it is nested, or in network byte order.
const KIND: u16 = 0x3fff;
/// Attributes of an answer with more than an error number (linux/netlink.h, nlmsgerr_attrs).
const ANSWER_TEXT: u16 = 1;
/// The kernel's texts are lines; what is longer is cut.
const LONGEST_TEXT: usize = 512;

/// Bytes that are not what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {there} bytes long and should be {should}")]
pub struct Malformed {
    what: &'static str,
    there: usize,
    should: usize,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Behind the header: the fixed part, then attributes.
    pub payload: &'a [u8],
}

impl Received<'_> {
    /// The last of a dump.
    pub const DONE: u16 = 3;
    /// An error, or an acknowledgement.
    pub const ERROR: u16 = 2;
}

/// The kernel's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    pub errno: i32,
    /// What the kernel says besides the number; often nothing.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = std::io::Error::from_raw_os_error(self.errno);
        match &self.text {
            Some(text) => write!(f, "{number}: {text}"),
            None => write!(f, "{number}"),
        }
    }
}

/// The messages of one datagram.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<Received<'_>, Malformed>> {
    split(bytes, "a message", HEADER, |header| Some(u32::from_ne_bytes(header.first_chunk().copied()?) as usize)).map(
        |piece| {
            let piece = piece?;
            Ok(Received {
                kind: u16_at(piece, 4),
                flags: u16_at(piece, 6),
                sequence: u32_at(piece, 8),
                payload: piece.get(HEADER..).unwrap_or_default(),
            })
        },
    )
}

/// Kind and value of each attribute.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    split(bytes, "an attribute", 4, |header| Some(usize::from(u16::from_ne_bytes(header.first_chunk().copied()?))))
        .map(|piece| piece.map(|piece| (u16_at(piece, 2) & KIND, piece.get(4..).unwrap_or_default())))
}

/// What an answer of kind [`Received::ERROR`] says: nothing where all is well.
///
/// # Errors
/// Where it is too short for an answer.
pub fn refusal(answer: &Received<'_>) -> Result<Option<Refusal>, Malformed> {
    let short = Malformed { what: "an answer", there: answer.payload.len(), should: 4 + HEADER };
    let errno = answer.payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(short)?;
    if errno == 0 {
        return Ok(None);
    }
    let quoted = answer.payload.get(4..4 + HEADER).ok_or(short)?;
    // The message in question is quoted, its header alone or in full; then come the attributes.
    let quote = if answer.flags & flags::CAPPED != 0 { HEADER } else { u32_at(quoted, 0) as usize };
    let mut text = None;
    if answer.flags & flags::ACK_TLVS != 0 {
        let rest = quote.checked_next_multiple_of(4).and_then(|quote| answer.payload.get(4 + quote..));
        for attribute in attributes(rest.unwrap_or_default()) {
            if let (ANSWER_TEXT, value) = attribute? {
                text = Some(text_of(value));
            }
        }
    }
    Ok(Some(Refusal { errno: errno.saturating_abs(), text }))
}

fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end.min(LONGEST_TEXT)).unwrap_or_default()).into_owned()
}

/// Cuts `bytes` into pieces that begin with their own length, each aligned to four bytes. Ends at the first that lies.
fn split<'a>(
    mut bytes: &'a [u8],
    what: &'static str,
    least: usize,
    length: impl Fn(&[u8]) -> Option<usize>,
) -> impl Iterator<Item = Result<&'a [u8], Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let there = bytes.len();
        let should = length(bytes).unwrap_or(least).max(least);
        let Some(piece) = bytes.get(..should) else {
            bytes = &[];
            return Some(Err(Malformed { what, there, should }));
        };
        // The padding of the last one may be missing.
        bytes = bytes.get(should.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(piece))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
#[path = "parse_test.rs"]
mod parse_test;
