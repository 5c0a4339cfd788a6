//! Paths made few: `/orders/17` and `/orders/18` are both `/orders/{id}`. What looks like an id becomes `{id}` at once; what
//! does not, but comes in ever new spellings at one place, becomes `{id}` when there are too many of them. Queries are
//! never kept.
//!
//! A known path costs one look-up for each of its segments and allocates nothing.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// A path in a table of [`Templates`].
pub type PathId = u32;

/// Too many different paths: all of them are this one.
pub const OTHER: &str = "other";
/// Can be read in more than one way (`//`, `..`, `%2f`), so that a rule on paths treats it as unknown.
pub const UNCLEAR: &str = "unclear";
const OTHER_ID: PathId = u32::MAX;
const UNCLEAR_ID: PathId = u32::MAX - 1;
const ROOT: PathId = 0;

/// Of a worker; at about 100 bytes each this bounds the memory that hostile paths can cost.
const MOST_NODES: usize = 2_048;
/// Literal segments at one place; the next new one is an id.
const MOST_SIBLINGS: u16 = 40;
const MOST_SEGMENTS: usize = 12;
/// Longer ones are no names.
const LONGEST_SEGMENT: usize = 40;
const ID: &str = "{id}";

/// The paths that one worker has seen, as a tree of segments.
#[derive(Default)]
pub struct Templates {
    nodes: Vec<Node>,
    children: HashTable<PathId>,
    hasher: RandomState,
}

struct Node {
    parent: PathId,
    segment: Box<str>,
    literal_children: u16,
}

impl Templates {
    /// The template of a request's path.
    pub fn of(&mut self, target: &str) -> PathId {
        let Some(path) = target.strip_prefix('/') else { return UNCLEAR_ID };
        if self.nodes.is_empty() {
            self.nodes.push(Node { parent: ROOT, segment: Box::default(), literal_children: 0 });
        }
        let (mut at, mut begin, mut count) = (ROOT, 0, 0);
        let mut seen = Seen::default();
        // In one pass: this is done for each request.
        for (end, byte) in path.bytes().map(Some).chain([None]).enumerate() {
            let byte = byte.filter(|byte| *byte != b'?');
            if let Some(byte) = byte.filter(|byte| *byte != b'/') {
                seen.add(byte);
                continue;
            }
            // Both ends are ASCII or the text's own.
            let segment = path.get(begin..end).unwrap_or_default();
            count += 1;
            if count > MOST_SEGMENTS {
                return OTHER_ID;
            }
            at = match kind(segment, seen) {
                Kind::Name if segment.is_empty() && byte.is_some() => return UNCLEAR_ID,
                Kind::Unclear => return UNCLEAR_ID,
                Kind::Name => self.child(at, segment),
                Kind::Id => self.child(at, ID),
            };
            if at == OTHER_ID || byte.is_none() {
                return at;
            }
            (begin, seen) = (end + 1, Seen::default());
        }
        at
    }

    /// What stands for any path.
    pub fn other() -> PathId {
        OTHER_ID
    }

    /// As it is reported.
    pub fn text(&self, id: PathId) -> String {
        match id {
            OTHER_ID => return OTHER.to_owned(),
            UNCLEAR_ID => return UNCLEAR.to_owned(),
            _ => {}
        }
        let (mut segments, mut at) = (Vec::new(), id);
        while at != ROOT {
            let Some(node) = self.nodes.get(at as usize) else { break };
            segments.push(&*node.segment);
            at = node.parent;
        }
        segments.iter().rev().flat_map(|segment| ["/", segment]).collect()
    }

    fn child(&mut self, parent: PathId, segment: &str) -> PathId {
        if let Some(known) = self.find(parent, segment) {
            return known;
        }
        let crowded = self.nodes.get(parent as usize).is_some_and(|node| node.literal_children >= MOST_SIBLINGS);
        if crowded && segment != ID {
            return self.child(parent, ID);
        }
        if self.nodes.len() >= MOST_NODES {
            return OTHER_ID;
        }
        if segment != ID
            && let Some(node) = self.nodes.get_mut(parent as usize)
        {
            node.literal_children += 1;
        }
        let id = self.nodes.len() as PathId;
        self.nodes.push(Node { parent, segment: segment.into(), literal_children: 0 });
        let (hash, nodes, hasher) = (hash(&self.hasher, parent, segment), &self.nodes, &self.hasher);
        self.children.insert_unique(hash, id, |id| {
            nodes.get(*id as usize).map_or(0, |node| self::hash(hasher, node.parent, &node.segment))
        });
        id
    }

    fn find(&self, parent: PathId, segment: &str) -> Option<PathId> {
        let is = |id: &PathId| {
            self.nodes.get(*id as usize).is_some_and(|node| node.parent == parent && &*node.segment == segment)
        };
        self.children.find(hash(&self.hasher, parent, segment), is).copied()
    }
}

fn hash(hasher: &RandomState, parent: PathId, segment: &str) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u32(parent);
    hasher.write(segment.as_bytes());
    hasher.finish()
}

enum Kind {
    Name,
    /// Names one thing of many; never kept, since it may be somebody's mail address or card number.
    Id,
    Unclear,
}

/// What was seen of a segment's bytes.
#[derive(Clone, Copy, Default)]
struct Seen {
    classes: u8,
    digits: usize,
}

const DIGIT: u8 = 1;
/// Neither a hexadecimal digit nor `-`.
const NOT_HEX: u8 = 2;
/// In no name: what separates parameters, mail addresses, placeholders, what is not ASCII.
const ODD: u8 = 4;
const PERCENT: u8 = 8;
const UNCLEAR_BYTE: u8 = 16;
const PARAMETERS: u8 = 32;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        classes[byte] = match b {
            b'0'..=b'9' => DIGIT,
            b'a'..=b'f' | b'A'..=b'F' | b'-' => 0,
            b'%' => PERCENT | NOT_HEX,
            b'\\' | b'#' | 0..=31 | 127 => UNCLEAR_BYTE | NOT_HEX,
            b';' => ODD | PARAMETERS | NOT_HEX,
            b'@' | b'=' | b',' | b'*' | b'{' | b'}' | 128..=255 => ODD | NOT_HEX,
            _ => NOT_HEX,
        };
        byte += 1;
    }
    classes
};

impl Seen {
    fn add(&mut self, byte: u8) {
        let class = CLASSES[usize::from(byte)];
        self.classes |= class;
        self.digits += usize::from(class & DIGIT);
    }

    fn any(self, class: u8) -> bool {
        self.classes & class != 0
    }
}

fn kind(segment: &str, seen: Seen) -> Kind {
    let bytes = segment.as_bytes();
    if seen.any(UNCLEAR_BYTE) || matches!(bytes, b"." | b"..") {
        return Kind::Unclear;
    }
    if seen.any(PERCENT | PARAMETERS) {
        return if changes_structure(bytes) { Kind::Unclear } else { Kind::Id };
    }
    if bytes.len() > LONGEST_SEGMENT || seen.any(ODD) {
        return Kind::Id;
    }
    let digits = seen.digits;
    if digits == 0 {
        return Kind::Name;
    }
    // `v1` is a version.
    if bytes[0] == b'v' && digits == bytes.len() - 1 {
        return Kind::Name;
    }
    let hex = bytes.len() >= 8 && !seen.any(NOT_HEX);
    if hex || digits == bytes.len() || (bytes.len() >= 3 && digits * 2 >= bytes.len()) { Kind::Id } else { Kind::Name }
}

/// `%` that decodes to what separates or steps, to another `%`, to nothing or to no UTF-8; parameters of an empty segment or
/// of one that steps.
fn changes_structure(segment: &[u8]) -> bool {
    let hex = |b: u8| char::from(b).to_digit(16);
    let (mut rest, mut decoded) = (segment, Vec::with_capacity(segment.len()));
    while let Some(at) = rest.iter().position(|b| *b == b'%') {
        let [_, high, low, tail @ ..] = &rest[at..] else { return true };
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return true };
        let byte = (high * 16 + low) as u8;
        if matches!(byte, b'.' | b'/' | b'\\' | b'%' | b'#' | b'?') || byte.is_ascii_control() {
            return true;
        }
        decoded.extend_from_slice(&rest[..at]);
        decoded.push(byte);
        rest = tail;
    }
    decoded.extend_from_slice(rest);
    let mut parts = decoded.split(|b| *b == b';');
    let steps = matches!(parts.next(), Some(b"" | b"." | b"..")) && parts.next().is_some();
    steps || std::str::from_utf8(&decoded).is_err()
}

#[cfg(test)]
#[path = "template_test.rs"]
mod template_test;
