//! Fields, written as HPACK. What was seen before is put into the dynamic table when it comes again, and is one or two
//! bytes from then on; what comes once (times, ids, paths with numbers) never takes anybody's place there. Looked up by
//! hash in small tables that forget on collision: that costs bytes, and nothing else.
//!
//! Credentials are never put there: apps share a mesh connection, and one could learn another's by how short its own
//! guess became (RFC 7541 §7.1). Texts go as they are: to be short once is not worth the Huffman code's time.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderName, HeaderValue};

use super::table::{Pseudo, STATIC, static_name, static_pair};
use super::{DEFAULT_TABLE, ENTRY};

/// No table of ours is larger, whatever the peer offers.
pub const MOST: usize = 16 * 1024;
const SLOTS: usize = 512;
/// Entries longer than this go literally: they would push out all others.
const LONGEST: usize = 1_024;

/// Our side of one connection's compression.
#[derive(Debug)]
pub struct Encoder {
    /// The newest first.
    table: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// The peer has changed its offer: the next block begins with what we use, the least first (RFC 7541 §4.2).
    resized: Option<(usize, usize)>,
    /// Entries that were ever put in.
    inserted: u32,
    hasher: RandomState,
    /// None: nothing is remembered.
    slots: Option<Box<Slots>>,
}

#[derive(Debug)]
struct Slots {
    /// By the hash of a field, and of a name: the number of the entry that has it.
    fields: [u32; SLOTS],
    names: [u32; SLOTS],
    /// By the hash of a field: another part of that hash, where it was seen once.
    seen: [u32; SLOTS],
}

#[derive(Debug)]
struct Entry {
    /// Name and value.
    text: Box<[u8]>,
    name: usize,
}

#[derive(Clone, Copy)]
struct Hash {
    name: u64,
    field: u64,
}

fn slot(hash: u64) -> usize {
    hash as usize % SLOTS
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder {
            table: VecDeque::new(),
            size: 0,
            max: DEFAULT_TABLE,
            resized: None,
            inserted: 0,
            hasher: RandomState::default(),
            slots: Some(Box::new(Slots { fields: [0; SLOTS], names: [0; SLOTS], seen: [0; SLOTS] })),
        }
    }
}

impl Encoder {
    /// One that says everything in full, and is small.
    pub fn forgetful() -> Encoder {
        Encoder { slots: None, ..Encoder::default() }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn resize(&mut self, offered: usize) {
        let max = offered.min(MOST);
        if max == self.max {
            return;
        }
        let least = self.resized.map_or(max, |(least, _)| least.min(max));
        self.resized = Some((least, max));
        self.max = max;
        self.evict(0);
    }

    /// To be called before the first field of each block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let Some((least, last)) = self.resized.take() else { return };
        if least < last {
            number(least, 5, 0x20, out);
        }
        number(last, 5, 0x20, out);
    }

    pub fn pseudo(&mut self, pseudo: Pseudo, value: &[u8], out: &mut Vec<u8>) {
        match static_pair(pseudo, value) {
            Some(index) => number(index, 7, 0x80, out),
            None => self.field(pseudo.name(), value, out),
        }
    }

    pub fn header(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
        let secret = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE].contains(name) || value.is_sensitive();
        if secret {
            let hash = self.hasher.hash_one(name.as_str().as_bytes());
            return self.literal(0x10, 4, name.as_str(), value.as_bytes(), hash, out);
        }
        self.field(name.as_str(), value.as_bytes(), out);
    }

    fn field(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let hash = self.hash(name, value);
        let Some(slots) = &mut self.slots else { return self.literal(0, 4, name, value, hash.name, out) };
        let (place, mark) = (slot(hash.field), (hash.field >> 32) as u32 | 1);
        let entry = slots.fields[place];
        if let Some(index) = self.find(entry, name, Some(value)) {
            return number(index, 7, 0x80, out);
        }
        let size = name.len() + value.len() + ENTRY;
        let again = self.slots.as_mut().is_some_and(|slots| std::mem::replace(&mut slots.seen[place], mark) == mark);
        if !again || size > LONGEST.min(self.max) {
            return self.literal(0, 4, name, value, hash.name, out);
        }
        self.literal(0x40, 6, name, value, hash.name, out);
        self.insert(name, value, size, hash);
    }

    fn hash(&self, name: &str, value: &[u8]) -> Hash {
        let name = self.hasher.hash_one(name.as_bytes());
        Hash { name, field: name.rotate_left(23) ^ self.hasher.hash_one(value) }
    }

    /// The index of entry `number`, where it is still there and says just this.
    fn find(&self, number: u32, name: &str, value: Option<&[u8]>) -> Option<usize> {
        let place = self.inserted.checked_sub(number)? as usize;
        let entry = self.table.get(place).filter(|_| number > 0)?;
        let (its_name, its_value) = entry.text.split_at(entry.name);
        (its_name == name.as_bytes() && value.is_none_or(|value| value == its_value))
            .then_some(STATIC.len() + 1 + place)
    }

    fn literal(&self, kind: u8, bits: u32, name: &str, value: &[u8], hash: u64, out: &mut Vec<u8>) {
        let entry = self.slots.as_ref().map_or(0, |slots| slots.names[slot(hash)]);
        let known = self.find(entry, name, None).or_else(|| static_name(name));
        number(known.unwrap_or(0), bits, kind, out);
        if known.is_none() {
            number(name.len(), 7, 0, out);
            out.extend_from_slice(name.as_bytes());
        }
        number(value.len(), 7, 0, out);
        out.extend_from_slice(value);
    }

    fn insert(&mut self, name: &str, value: &[u8], size: usize, hash: Hash) {
        self.evict(size);
        let Some(slots) = &mut self.slots else { return };
        // Numbers begin anew long before they would be taken twice.
        if self.inserted == u32::MAX {
            self.inserted = 0;
            [&mut slots.fields, &mut slots.names].into_iter().for_each(|slots| slots.fill(0));
        }
        self.inserted += 1;
        self.size += size;
        self.table.push_front(Entry { text: [name.as_bytes(), value].concat().into(), name: name.len() });
        slots.fields[slot(hash.field)] = self.inserted;
        slots.names[slot(hash.name)] = self.inserted;
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.text.len() + ENTRY;
        }
    }
}

/// An integer with a prefix of `bits` under `kind` (§5.1).
fn number(value: usize, bits: u32, kind: u8, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    if value < most {
        return out.push(kind | value as u8);
    }
    out.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
