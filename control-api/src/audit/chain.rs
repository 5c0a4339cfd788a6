//! The chain that holds the audit log's lines together. Pure: lines in, a verdict out.
//!
//! A line is one JSON object whose last member is `hash`: the SHA-256 of the hash before it (32 zero bytes before the
//! first) and of the line without that member. So no line can be changed, taken out or put in without a trace; lines cut
//! off at the end are found against the head, which is kept elsewhere as well.

use sha2::{Digest, Sha256};
use std::fmt;

const HASH_MEMBER: &str = ",\"hash\":\"";
const HASH_DIGITS: usize = 64;

/// Where the chain stands: how many lines, and the hash of the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: [u8; 32],
}

/// Why a line is not what was written. `line` counts from 1 through the whole log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("line {line} is no line of an audit log")]
    Unreadable { line: u64 },
    #[error("line {line}: {missing} line(s) before it were removed")]
    Removed { line: u64, missing: u64 },
    #[error("line {line} was put in, or lines were exchanged: it says that it is number {says}")]
    Misplaced { line: u64, says: u64 },
    #[error("line {line} was changed, or one before it: its hash is another one")]
    Changed { line: u64 },
    #[error("the log ends at line {found}, but line {known} was written: the end was cut off")]
    CutOff { found: u64, known: u64 },
    #[error("line {line} is not the one that was written: the log from there on is another one")]
    Forked { line: u64 },
}

/// The line for `json`, an object's text, and where the chain stands then.
pub fn seal(head: &Head, json: &str) -> (String, Head) {
    let hash = link(head, json);
    let body = json.strip_suffix('}').unwrap_or(json);
    let line = format!("{body}{HASH_MEMBER}{}\"}}", hex(&hash));
    (line, Head { seq: head.seq + 1, hash })
}

/// Checks the line after `head`; returns its JSON without the hash, and where the chain stands then.
pub fn check(head: &Head, line: &str) -> Result<(String, Head), Fault> {
    let number = head.seq + 1;
    let (json, stated) = split(line).ok_or(Fault::Unreadable { line: number })?;
    let says = seq_of(&json).ok_or(Fault::Unreadable { line: number })?;
    if says > number {
        return Err(Fault::Removed { line: number, missing: says - number });
    }
    if says < number {
        return Err(Fault::Misplaced { line: number, says });
    }
    let hash = link(head, &json);
    if hash != stated {
        return Err(Fault::Changed { line: number });
    }
    Ok((json, Head { seq: number, hash }))
}

/// The head that a line states for itself: where a segment in the middle is taken up.
pub fn stated_head(line: &str) -> Option<Head> {
    let (json, hash) = split(line)?;
    Some(Head { seq: seq_of(&json)?, hash })
}

/// `{…,"hash":"…"}` taken apart.
fn split(line: &str) -> Option<(String, [u8; 32])> {
    let rest = line.strip_suffix("\"}")?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(HASH_DIGITS)?)?;
    let body = rest.strip_suffix(HASH_MEMBER)?;
    Some((format!("{body}}}"), unhex(digits)?))
}

fn seq_of(json: &str) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    serde_json::from_str::<Numbered>(json).ok().map(|numbered| numbered.seq)
}

fn link(head: &Head, json: &str) -> [u8; 32] {
    Sha256::new().chain_update(head.hash).chain_update(json.as_bytes()).finalize().into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.as_bytes();
    if digits.len() != HASH_DIGITS {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// `4211:9f86d0…`, to be noted elsewhere and checked against later.
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex(&self.hash))
    }
}

impl std::str::FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, unhex(hash)?)));
        let (seq, hash) = parsed.ok_or("a head reads NUMBER:HASH, as `isthmus audit verify` prints it")?;
        Ok(Head { seq, hash })
    }
}
