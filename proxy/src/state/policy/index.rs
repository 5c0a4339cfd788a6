//! Which rules of a list can match at all, found by hashing what is known and not by trying one rule after the other.
//!
//! For each attribute that rules often differ in, a rule either has no condition on it, or stands under the values that
//! its condition names. The rules left after all attributes are the candidates: few, in their order, and tried in full,
//! so that nothing here needs to be exact. It must only never leave out a rule that would have matched. So the cost of a
//! decision follows the candidates; beyond them, 64 rules cost one word each, and 1,024 one look-up for each attribute.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use isthmus_proto::model::{HostPattern, PathPattern};

use super::compile::CompiledConditions;
use super::matching::{Known, Side};
use super::prefixes::Prefixes;

/// Rules that share one index: their bits are 16 words, which stay on the stack.
pub(super) const CHUNK: usize = 1_024;
const WORDS: usize = CHUNK / 64;

/// One bit for each rule of a chunk.
pub(super) type Bits = [u64; WORDS];

/// The rules that one value leads to: 64 of them in each word, as most values lead to few.
#[derive(Debug, Default, Clone)]
pub(super) struct Hits(Vec<(u8, u64)>);

/// At most [`CHUNK`] rules.
#[derive(Debug)]
pub(super) struct Index {
    /// Of [`Bits`], how many are in use.
    words: usize,
    all: Bits,
    /// Those that are not in audit mode.
    enforced: Bits,
    /// `None`: no rule has a condition on it.
    identities: Option<Attribute>,
    namespaces: Option<Attribute>,
    sites: Option<Attribute>,
    methods: Option<Attribute>,
    hosts: Option<Attribute>,
    paths: Option<Attribute>,
}

#[derive(Debug)]
struct Attribute {
    /// Rules with no condition on it, or with one that cannot be looked up.
    without: Bits,
    exact: HashMap<Box<[u8]>, Hits, RandomState>,
    prefixes: Prefixes<Hits>,
}

/// What a condition's values are filed under.
enum Key<'a> {
    Exact(&'a [u8]),
    Folded(&'a str),
    Prefix(&'a [u8]),
    /// Cannot be looked up.
    Any,
}

impl Index {
    /// `rules`: whether each is in audit mode, and its conditions; `None` for one that was not understood.
    pub(super) fn new(rules: &[(bool, Option<&CompiledConditions>)]) -> Self {
        let mut index = Self {
            words: rules.len().div_ceil(64),
            all: [0; WORDS],
            enforced: [0; WORDS],
            identities: Attribute::of(rules, |c| {
                c.asked.identities.as_ref().map(|ids| {
                    let exact = ids.exact.iter().map(|id| Key::Exact(id.as_str().as_bytes()));
                    let keys = exact.chain(ids.prefixes.iter().map(|prefix| Key::Prefix(prefix.as_bytes())));
                    keys.chain(ids.wildcards.iter().map(|_| Key::Any)).collect()
                })
            }),
            namespaces: Attribute::of(rules, |c| {
                c.asked.namespaces.as_ref().map(|set| set.iter().map(exact).collect())
            }),
            sites: Attribute::of(rules, |c| c.asked.sites.as_ref().map(|set| set.iter().map(exact).collect())),
            methods: Attribute::of(rules, |c| {
                c.asked.methods.as_ref().map(|list| list.iter().map(|method| Key::Folded(method)).collect())
            }),
            hosts: Attribute::of(rules, |c| c.asked.hosts.as_ref().map(|list| list.iter().map(host_key).collect())),
            paths: Attribute::of(rules, |c| c.asked.paths.as_ref().map(|list| list.iter().map(path_key).collect())),
        };
        for (place, (audit, _)) in rules.iter().enumerate() {
            set(&mut index.all, place);
            if !audit {
                set(&mut index.enforced, place);
            }
        }
        index
    }

    /// The places of all rules that can match, lowest first. `audit`: also of those in audit mode.
    pub(super) fn candidates(&self, known: &Known, side: Side, audit: bool) -> Candidates {
        let mut left = if audit { self.all } else { self.enforced };
        let mut narrow = |attribute: &Option<Attribute>, values: &[&[u8]]| {
            if let Some(attribute) = attribute {
                attribute.narrow(&mut left[..self.words], side, values);
            }
        };
        narrow(&self.identities, value(known.peer().map(|id| id.as_str())).as_slice());
        narrow(&self.namespaces, value(known.peer().map(|id| id.namespace())).as_slice());
        narrow(&self.sites, value(known.site()).as_slice());
        narrow(&self.methods, value(known.folded_method()).as_slice());
        narrow(&self.hosts, value(known.host()).as_slice());
        if self.paths.is_some() {
            known.with_path_readings(|readings| narrow(&self.paths, readings));
        }
        Candidates { left, word: 0, words: self.words }
    }
}

fn exact(text: &String) -> Key<'_> {
    Key::Exact(text.as_bytes())
}

fn host_key(pattern: &HostPattern) -> Key<'_> {
    match pattern {
        HostPattern::Exact(host) => Key::Exact(host.as_bytes()),
        HostPattern::Suffix(_) => Key::Any,
    }
}

fn path_key(pattern: &PathPattern) -> Key<'_> {
    match pattern {
        PathPattern::Exact(path) => Key::Exact(path.as_bytes()),
        PathPattern::Prefix(prefix) => Key::Prefix(prefix.as_bytes()),
        PathPattern::Template(_) => Key::Any,
    }
}

fn value(text: Option<&str>) -> Option<&[u8]> {
    text.map(str::as_bytes)
}

impl Attribute {
    fn of<'a>(
        rules: &[(bool, Option<&'a CompiledConditions>)],
        keys: impl Fn(&'a CompiledConditions) -> Option<Vec<Key<'a>>>,
    ) -> Option<Self> {
        let mut without: Bits = [0; WORDS];
        let mut exact: HashMap<Box<[u8]>, Hits, RandomState> = HashMap::default();
        let mut prefixes: HashMap<Box<[u8]>, Hits, RandomState> = HashMap::default();
        let mut used = false;
        for (place, (_, conditions)) in rules.iter().enumerate() {
            let Some(keys) = conditions.and_then(&keys) else {
                set(&mut without, place);
                continue;
            };
            used = true;
            for key in keys {
                match key {
                    Key::Exact(value) => exact.entry(value.into()).or_default().add(place),
                    Key::Folded(text) => {
                        exact.entry(text.to_ascii_uppercase().into_bytes().into()).or_default().add(place);
                    }
                    Key::Prefix(prefix) => prefixes.entry(prefix.into()).or_default().add(place),
                    Key::Any => set(&mut without, place),
                }
            }
        }
        used.then(|| Self { without, exact, prefixes: Prefixes::new(prefixes) })
    }

    /// Keeps of `left` what can match one of `values`; none of these: it is not known.
    fn narrow(&self, left: &mut [u64], side: Side, values: &[&[u8]]) {
        if values.is_empty() && side == Side::Deny {
            return; // Unknown satisfies every deny.
        }
        let mut stay = self.without;
        for value in values {
            if let Some(hits) = self.exact.get(*value) {
                hits.mark(&mut stay);
            }
            self.prefixes.each_of(value, |hits| hits.mark(&mut stay));
        }
        for (word, stay) in left.iter_mut().zip(stay) {
            *word &= stay;
        }
    }
}

impl Hits {
    /// Places come in rising order.
    fn add(&mut self, place: usize) {
        let (word, bit) = ((place / 64) as u8, 1 << (place % 64));
        match self.0.last_mut() {
            Some((last, bits)) if *last == word => *bits |= bit,
            _ => self.0.push((word, bit)),
        }
    }

    fn mark(&self, bits: &mut Bits) {
        for (word, hits) in &self.0 {
            bits[usize::from(*word)] |= hits;
        }
    }
}

fn set(bits: &mut Bits, place: usize) {
    bits[place / 64] |= 1 << (place % 64);
}

/// Places of rules, lowest first.
pub(super) struct Candidates {
    left: Bits,
    word: usize,
    words: usize,
}

impl Iterator for Candidates {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.word < self.words {
            let bits = self.left[self.word];
            if bits != 0 {
                self.left[self.word] = bits & (bits - 1);
                return Some(self.word * 64 + bits.trailing_zeros() as usize);
            }
            self.word += 1;
        }
        None
    }
}
