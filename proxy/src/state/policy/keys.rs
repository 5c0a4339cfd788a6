//! What a rule's condition can be found by: texts, prefixes, suffixes, ranges and templates, each with whatever stands
//! under it. A look-up costs one hash for each form that is in use, however many values there are.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use foldhash::fast::{FixedState, RandomState};
use ipnet::IpNet;
use isthmus_proto::model::Template;

use super::prefixes::Prefixes;
use crate::state::ranges::masked;

/// One value of a condition. Letters are folded by whoever makes it, where they are folded on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    /// `.shop.example`
    Suffix(Box<[u8]>),
    /// Length, and the range's first address.
    Range(bool, u8, u128),
    Template(Shape, u64),
}

/// Which segments of a template are written; at most 63 of them count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Shape {
    written: u64,
    segments: u8,
    open: bool,
}

/// Keys with a value each.
#[derive(Debug)]
pub(super) struct Keys<T> {
    exact: HashMap<Box<[u8]>, T, RandomState>,
    prefixes: Prefixes<T>,
    suffixes: HashMap<Box<[u8]>, T, RandomState>,
    ranges: Forms<(bool, u8), u128, T>,
    templates: Forms<Shape, u64, T>,
}

impl Key {
    pub(super) fn range(range: &IpNet) -> Key {
        let range = range.trunc();
        Key::Range(range.addr().is_ipv4(), range.prefix_len(), masked(range.addr(), range.prefix_len()))
    }

    /// `None`: it has too many segments.
    pub(super) fn template(template: &Template, open: bool, fold: bool) -> Option<Key> {
        let segments = template.segments();
        let count = u8::try_from(segments.len()).ok().filter(|count| *count < 64)?;
        let written = segments.iter().enumerate().filter(|(_, segment)| segment.is_some());
        let shape = Shape { written: written.fold(0, |bits, (place, _)| bits | 1 << place), segments: count, open };
        let mut hasher = Segments::new(fold);
        segments.iter().flatten().for_each(|segment| hasher.add(segment.as_bytes()));
        Some(Key::Template(shape, hasher.finish()))
    }
}

/// A hash of written segments, which need not be unique: whoever finds a rule by it tries the rule in full.
struct Segments(foldhash::fast::FoldHasher<'static>, bool);

impl Segments {
    fn new(fold: bool) -> Segments {
        Segments(FixedState::default().build_hasher(), fold)
    }

    fn add(&mut self, segment: &[u8]) {
        if self.1 {
            segment.iter().for_each(|b| self.0.write_u8(b.to_ascii_lowercase()));
        } else {
            self.0.write(segment);
        }
        self.0.write_u8(b'/');
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

impl<T> Keys<T> {
    pub(super) fn new(values: impl IntoIterator<Item = (Key, T)>) -> Self {
        let (mut exact, mut suffixes) = (HashMap::default(), HashMap::default());
        let mut prefixes: HashMap<Box<[u8]>, T, RandomState> = HashMap::default();
        let mut ranges: Forms<(bool, u8), u128, T> = Vec::new();
        let mut templates: Forms<Shape, u64, T> = Vec::new();
        for (key, value) in values {
            match key {
                Key::Exact(text) => drop(exact.insert(text, value)),
                Key::Prefix(text) => drop(prefixes.insert(text, value)),
                Key::Suffix(text) => drop(suffixes.insert(text, value)),
                Key::Range(v4, length, first) => {
                    drop(of_form(&mut ranges, (v4, length)).insert(first, value));
                }
                Key::Template(shape, hash) => drop(of_form(&mut templates, shape).insert(hash, value)),
            }
        }
        Self { exact, prefixes: Prefixes::new(prefixes), suffixes, ranges, templates }
    }

    /// What stands under the text itself, a prefix or a template of it.
    pub(super) fn of_text(&self, text: &[u8], fold: bool, mut each: impl FnMut(&T)) {
        if !self.exact.is_empty()
            && let Some(value) = self.exact.get(text)
        {
            each(value);
        }
        self.prefixes.each_of(text, &mut each);
        for (shape, by_hash) in &self.templates {
            if let Some(value) = shape.hash_of(text, fold).and_then(|hash| by_hash.get(&hash)) {
                each(value);
            }
        }
    }

    /// What stands under the host itself, or a name above it.
    pub(super) fn of_host(&self, host: &[u8], mut each: impl FnMut(&T)) {
        if let Some(value) = self.exact.get(host) {
            each(value);
        }
        if self.suffixes.is_empty() {
            return;
        }
        for dot in host.iter().enumerate().filter(|(place, b)| **b == b'.' && *place > 0).map(|(place, _)| place) {
            if let Some(value) = self.suffixes.get(&host[dot..]) {
                each(value);
            }
        }
    }

    /// What stands under a range that holds the address.
    pub(super) fn of_address(&self, ip: IpAddr, mut each: impl FnMut(&T)) {
        for ((v4, length), by_first) in &self.ranges {
            if *v4 == ip.is_ipv4()
                && let Some(value) = by_first.get(&masked(ip, *length))
            {
                each(value);
            }
        }
    }
}

/// Under one form, values by what fills it.
type Forms<F, V, T> = Vec<(F, HashMap<V, T, RandomState>)>;

fn of_form<F: PartialEq, V, T>(forms: &mut Forms<F, V, T>, form: F) -> &mut HashMap<V, T, RandomState> {
    let place = forms.iter().position(|(known, _)| *known == form).unwrap_or(forms.len());
    if place == forms.len() {
        forms.push((form, HashMap::default()));
    }
    &mut forms[place].1
}

impl Shape {
    /// The hash of the segments that are written, if the text has this shape.
    fn hash_of(&self, text: &[u8], fold: bool) -> Option<u64> {
        let mut hasher = Segments::new(fold);
        let mut parts = text.split(|b| *b == b'/');
        for place in 0..self.segments {
            let part = parts.next()?;
            if self.written & (1 << place) != 0 {
                hasher.add(part);
            } else if part.is_empty() {
                return None;
            }
        }
        (parts.next().is_some() == self.open).then(|| hasher.finish())
    }
}
