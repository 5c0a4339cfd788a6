//! A block of HPACK, read into fields.

use std::collections::VecDeque;

use super::huffman::{self, BadCode};
use super::table::{Field, STATIC, static_field};

/// Why a block cannot be read. Ends the connection: COMPRESSION_ERROR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    #[error("a block ends inside a field")]
    Truncated,
    #[error("a number that is too large")]
    Number,
    #[error("an entry that is not in the table")]
    Index,
    #[error("a text that is not in the Huffman code")]
    Huffman,
    #[error("a change of the table's size where none may be, or beyond what was offered")]
    Resize,
}

impl From<BadCode> for HpackError {
    fn from(_: BadCode) -> Self {
        HpackError::Huffman
    }
}

/// What one peer's encoder has said so far.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    /// What the encoder uses.
    max: usize,
    /// What it may use.
    limit: usize,
    scratch: (Vec<u8>, Vec<u8>),
}

impl Decoder {
    /// `limit`: what our SETTINGS offer; the encoder begins with what it has without them.
    pub fn new(limit: usize) -> Decoder {
        let max = limit.min(super::DEFAULT_TABLE);
        Decoder { table: VecDeque::new(), size: 0, max, limit, scratch: Default::default() }
    }

    /// Reads a whole block. `take` gets each field, with its size as lists of headers are counted.
    pub fn decode(&mut self, block: &[u8], mut take: impl FnMut(Field)) -> Result<(), HpackError> {
        let mut rest = block;
        let mut begun = false;
        while let Some(first) = rest.first().copied() {
            match first {
                0x80.. => {
                    let index = number(&mut rest, 7)?;
                    take(self.entry(index)?.clone());
                }
                0x40..0x80 => {
                    let field = self.literal(&mut rest, 6)?;
                    self.insert(field.clone());
                    take(field);
                }
                0x20..0x40 => {
                    // Only before the block's first field (§4.2).
                    let max = number(&mut rest, 5)?;
                    if begun || max > self.limit {
                        return Err(HpackError::Resize);
                    }
                    self.max = max;
                    self.evict(0);
                    continue;
                }
                // With or without "never indexed", which is for those who store.
                _ => take(self.literal(&mut rest, 4)?),
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(&mut self, rest: &mut &[u8], bits: u32) -> Result<Field, HpackError> {
        let index = number(rest, bits)?;
        if index == 0 {
            let mut scratch = std::mem::take(&mut self.scratch);
            let name = text(rest, &mut scratch.0)?;
            let value = text(rest, &mut scratch.1)?;
            let field = Field::new(name, value);
            self.scratch = scratch;
            return Ok(field);
        }
        let mut scratch = std::mem::take(&mut self.scratch.1);
        let field = self.entry(index)?.with_value(text(rest, &mut scratch)?);
        self.scratch.1 = scratch;
        Ok(field)
    }

    fn entry(&self, index: usize) -> Result<&Field, HpackError> {
        let field = if index <= STATIC.len() { static_field(index) } else { self.table.get(index - STATIC.len() - 1) };
        field.ok_or(HpackError::Index)
    }

    fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(size);
        // One that is larger than the table empties it (§4.4).
        if size <= self.max {
            self.size += size;
            self.table.push_front(field);
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

/// An integer with a prefix of `bits` (§5.1).
fn number(rest: &mut &[u8], bits: u32) -> Result<usize, HpackError> {
    let (first, mut tail) = rest.split_first().ok_or(HpackError::Truncated)?;
    let most = (1usize << bits) - 1;
    let mut number = usize::from(*first) & most;
    if number == most {
        // Nothing here is larger than 2^28: four bytes are enough.
        let mut shift = 0;
        loop {
            let (byte, after) = tail.split_first().ok_or(HpackError::Truncated)?;
            tail = after;
            if shift > 21 {
                return Err(HpackError::Number);
            }
            number += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = tail;
    Ok(number)
}

fn text<'a, 'b: 'a>(rest: &mut &'b [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], HpackError> {
    let coded = rest.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
    let length = number(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *rest = after;
    if !coded {
        return Ok(bytes);
    }
    scratch.clear();
    huffman::decode(bytes, scratch)?;
    Ok(scratch)
}
