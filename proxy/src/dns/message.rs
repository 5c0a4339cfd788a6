//! One question and its answer as they are on the wire (RFC 1035). Pure; what comes back is outside bytes.
//!
//! Refuses answers to another question, to another id, cut short, or with names that point at themselves. Of an answer
//! only addresses count, and only those that its own chain of CNAMEs leads to from the name that was asked for.

use std::net::IpAddr;
use std::time::Duration;

/// What UDP may carry without EDNS.
pub const MAX_UDP: usize = 512;
const CNAME: u16 = 5;
const INTERNET: u16 = 1;
/// Of one answer; more has no use here.
const MAX_RECORDS: usize = 64;
const MAX_NAME: usize = 255;
/// A compressed name of 255 bytes has at most that many labels.
const MAX_JUMPS: usize = 127;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    A = 1,
    Aaaa = 28,
}

/// What a resolver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// None: there is no such name, or it has no address of this kind.
    Addresses(Vec<IpAddr>, Duration),
    /// It does not fit: ask over TCP.
    Truncated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("not a name that can be asked for")]
    Name,
    #[error("the answer is cut short")]
    Short,
    #[error("the answer is to another question")]
    NotOurs,
    #[error("the answer's names contradict themselves")]
    Malformed,
    #[error("the resolver answers with code {0}")]
    Code(u8),
}

/// RFC 1035 §4.1.1.
const HEADER: usize = 12;

/// A query for `name`, with recursion desired.
///
/// # Errors
/// Where `name` is none.
pub fn query(id: u16, name: &str, kind: Kind) -> Result<Vec<u8>, MessageError> {
    let mut bytes = Vec::with_capacity(name.len() + 18);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        bytes.push(length.ok_or(MessageError::Name)?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    if name.len() + 2 > MAX_NAME {
        return Err(MessageError::Name);
    }
    bytes.extend_from_slice(&(kind as u16).to_be_bytes());
    bytes.extend_from_slice(&INTERNET.to_be_bytes());
    Ok(bytes)
}

/// Reads what came back for [`query`].
///
/// # Errors
/// [`MessageError`]; `NotOurs` may be somebody's forgery, with the true answer still under way.
pub fn answer(bytes: &[u8], id: u16, name: &str, kind: Kind) -> Result<Answer, MessageError> {
    let header: &[u8; 12] = bytes.first_chunk().ok_or(MessageError::Short)?;
    let at = |place: usize| u16::from_be_bytes([header[place], header[place + 1]]);
    let is_response = header[2] & 0x80 != 0;
    if at(0) != id || !is_response || at(4) != 1 {
        return Err(MessageError::NotOurs);
    }
    let mut reader = Reader { bytes, at: 12 };
    let asked = reader.name()?;
    if asked != name.to_ascii_lowercase() || reader.u16()? != kind as u16 || reader.u16()? != INTERNET {
        return Err(MessageError::NotOurs);
    }
    if header[2] & 0x02 != 0 {
        return Ok(Answer::Truncated);
    }
    match header[3] & 0x0f {
        0 | 3 => {}
        code => return Err(MessageError::Code(code)),
    }
    let records = (0..usize::from(at(6)).min(MAX_RECORDS)).map(|_| reader.record()).collect::<Result<Vec<_>, _>>()?;
    Ok(addresses(&records, asked, kind))
}

/// Follows the CNAMEs, which come in any order.
fn addresses(records: &[Record<'_>], mut name: String, kind: Kind) -> Answer {
    let mut life = Duration::MAX;
    for _ in 0..records.len() {
        let alias = records.iter().find(|record| record.kind == CNAME && record.name == name);
        let Some((alias, target)) = alias.and_then(|alias| Some((alias, alias.target.clone()?))) else { break };
        life = life.min(alias.life);
        name = target;
    }
    let of_name = records.iter().filter(|record| record.kind == kind as u16 && record.name == name);
    let mut found = Vec::new();
    for record in of_name {
        let ip = match kind {
            Kind::A => <[u8; 4]>::try_from(record.data).map(IpAddr::from),
            Kind::Aaaa => <[u8; 16]>::try_from(record.data).map(IpAddr::from),
        };
        if let Ok(ip) = ip {
            life = life.min(record.life);
            found.push(ip);
        }
    }
    Answer::Addresses(found, life)
}

struct Record<'a> {
    name: String,
    kind: u16,
    life: Duration,
    data: &'a [u8],
    /// Of a CNAME.
    target: Option<String>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], MessageError> {
        let taken = self.bytes.get(self.at..self.at.saturating_add(count)).ok_or(MessageError::Short)?;
        self.at += count;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn record(&mut self) -> Result<Record<'a>, MessageError> {
        let name = self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let life = self.take(4)?;
        let life = u32::from_be_bytes([life[0], life[1], life[2], life[3]]);
        let length = usize::from(self.u16()?);
        let begins = self.at;
        let data = self.take(length)?;
        let kind = if class == INTERNET { kind } else { 0 };
        let target = (kind == CNAME).then(|| Reader { bytes: self.bytes, at: begins }.name()).transpose()?;
        Ok(Record { name, kind, life: Duration::from_secs(life.into()), data, target })
    }

    /// In lower case, without the closing dot. Pointers go backwards only, so that they end, and not into the header,
    /// where no name is.
    fn name(&mut self) -> Result<String, MessageError> {
        let mut name = String::new();
        let mut at = self.at;
        let mut end = None;
        for _ in 0..=MAX_JUMPS + MAX_NAME {
            let length = *self.bytes.get(at).ok_or(MessageError::Short)?;
            match length {
                0 => {
                    self.at = end.unwrap_or(at + 1);
                    return Ok(name);
                }
                1..=63 => {
                    let label = self.bytes.get(at + 1..at + 1 + usize::from(length)).ok_or(MessageError::Short)?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    // What is no host name is compared with host names only, and is none of them.
                    name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
                    if name.len() > 2 * MAX_NAME {
                        return Err(MessageError::Malformed);
                    }
                    at += 1 + usize::from(length);
                }
                192..=255 => {
                    let low = *self.bytes.get(at + 1).ok_or(MessageError::Short)?;
                    let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                    if target >= at || target < HEADER {
                        return Err(MessageError::Malformed);
                    }
                    end = end.or(Some(at + 2));
                    at = target;
                }
                _ => return Err(MessageError::Malformed),
            }
        }
        Err(MessageError::Malformed)
    }
}
