//! What a span says beside its name, as OTLP's bytes from the first attribute on: each is the field of `Span` that it will
//! be in the message (a `KeyValue`), so that nothing is written twice, and recording a span is one copy of these bytes.
//!
//! The buffer comes from a few that the thread keeps and goes back to them: a span that is recorded allocates nothing.
//! What is the same on many spans is written once and copied as a whole ([`Attributes::set_all`]).

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use super::attribute::Attribute;
use super::wire::{nested, read_varint, varint, varint_length};

/// Attributes beyond this are dropped: a span in the queue has a known size.
const MOST: u8 = 40;
/// A text is cut to this many bytes, for the same reason.
pub(super) const MAX_TEXT: usize = 256;
/// More than what most spans have.
const USUAL: usize = 1024;
/// Buffers that a thread keeps, and how large one may be to be kept: 128 KiB in all.
const SPARE: usize = 32;
const MOST_SPARE: usize = 4 * USUAL;

/// Tags of protobuf: `Span.attributes`, `KeyValue.key` and `.value`, and in `AnyValue` a text, a bool, a number.
const ATTRIBUTE: u8 = 9 << 3 | 2;
const KEY: u8 = 1 << 3 | 2;
const VALUE: u8 = 2 << 3 | 2;
const TEXT: u8 = 1 << 3 | 2;
const BOOL: u8 = 2 << 3;
const INT: u8 = 3 << 3;

/// The value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
}

impl<'a> Value<'a> {
    /// As text, for those who read it.
    pub fn to_text(self) -> Cow<'a, str> {
        match self {
            Value::Text(text) => Cow::Borrowed(text),
            Value::Int(number) => Cow::Owned(number.to_string()),
            Value::Bool(flag) => Cow::Owned(flag.to_string()),
        }
    }
}

/// Names and values, in the order in which they were set.
#[derive(Clone, PartialEq, Eq)]
pub struct Attributes {
    bytes: Vec<u8>,
    count: u8,
}

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Default for Attributes {
    fn default() -> Attributes {
        let spare = SPARES.try_with(|spares| spares.borrow_mut().pop()).ok().flatten();
        Attributes { bytes: spare.unwrap_or_else(|| Vec::with_capacity(USUAL)), count: 0 }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if (USUAL..=MOST_SPARE).contains(&bytes.capacity()) {
            // No place is left for it on a thread that ends.
            let _ = SPARES.try_with(|spares| {
                let mut spares = spares.borrow_mut();
                if spares.len() < SPARE {
                    bytes.clear();
                    spares.push(bytes);
                }
            });
        }
    }
}

impl Attributes {
    /// Adds one; beyond 40 they are left out, text beyond 256 bytes is cut.
    #[inline(always)]
    pub fn set(&mut self, name: &'static str, value: impl Attribute) {
        value.write(name, self);
    }

    /// The same, where there is a value.
    #[inline(always)]
    pub fn set_some(&mut self, name: &'static str, value: Option<impl Attribute>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// All of `others`, in their order.
    pub fn set_all(&mut self, others: &Attributes) {
        if self.count + others.count <= MOST {
            self.bytes.extend_from_slice(&others.bytes);
            self.count += others.count;
        } else {
            others.fields().for_each(|field| self.add_field(field.whole));
        }
    }

    /// As many bytes as it takes, for what is kept; the buffer is there for the next one.
    pub(super) fn shrunk(&self) -> Attributes {
        Attributes { bytes: self.bytes.as_slice().into(), count: self.count }
    }

    /// Those of `others` whose names begin so.
    pub(super) fn set_all_of(&mut self, others: &Attributes, prefix: &str) {
        let chosen = others.fields().filter(|field| field.name.starts_with(prefix.as_bytes()));
        chosen.for_each(|field| self.add_field(field.whole));
    }

    /// In the place of what `name` said before, if it did.
    pub(super) fn replace(&mut self, name: &'static str, value: impl Attribute) {
        let mut before = 0;
        let place = self.fields().find_map(|field| {
            let range = before..before + field.whole.len();
            before = range.end;
            (field.name == name.as_bytes()).then_some(range)
        });
        let Some(place) = place else { return self.set(name, value) };
        let mut one = Attributes::default();
        one.set(name, value);
        self.bytes.splice(place, one.bytes.iter().copied());
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        // Nothing but what was written here is read here.
        self.fields().filter_map(|field| Some((std::str::from_utf8(field.name).ok()?, value(field.value)?)))
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields().any(|field| field.name == name.as_bytes())
    }

    /// Fields of OTLP's `Span`, one after the other.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What `as_bytes` gave elsewhere.
    #[cfg(test)]
    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        Fields(bytes).for_each(|field| self.add_field(field.whole));
    }

    fn fields(&self) -> Fields<'_> {
        Fields(&self.bytes)
    }

    fn add_field(&mut self, whole: &[u8]) {
        if self.count < MOST {
            self.bytes.extend_from_slice(whole);
            self.count += 1;
        }
    }

    #[inline(always)]
    pub(super) fn text(&mut self, name: &'static str, text: &str) {
        if self.count >= MOST {
            return;
        }
        self.count += 1;
        if name.len() + text.len() + 6 < 0x80 {
            self.begin(name, text.len() + 2);
            self.bytes.extend_from_slice(&[TEXT, text.len() as u8]);
            self.bytes.extend_from_slice(text.as_bytes());
        } else {
            self.long_text(name, text);
        }
    }

    /// One short text; `false`: together they are long.
    #[inline(always)]
    pub(super) fn pieces(&mut self, name: &'static str, pieces: &[&str]) -> bool {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if name.len() + length + 6 >= 0x80 {
            return false;
        }
        if self.count < MOST {
            self.count += 1;
            self.begin(name, length + 2);
            self.bytes.extend_from_slice(&[TEXT, length as u8]);
            pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece.as_bytes()));
        }
        true
    }

    /// Text of outside origin is cut, at a character, so that no request makes a large span.
    fn long_text(&mut self, name: &'static str, text: &str) {
        let text = &text[..text.floor_char_boundary(MAX_TEXT)];
        self.begin_long(name, 1 + varint_length(text.len()) + text.len());
        self.bytes.push(TEXT);
        varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    #[inline(always)]
    pub(super) fn int(&mut self, name: &'static str, number: i64) {
        if self.count >= MOST {
            return;
        }
        self.count += 1;
        let left = number.cast_unsigned();
        if left >> 21 == 0 {
            // Always three bytes, with zeros above: where times differ, spans are as long as each other all the same, and
            // whoever compresses them finds the next name where it was in the last one.
            self.begin(name, 4);
            self.bytes.extend_from_slice(&[INT, left as u8 | 0x80, (left >> 7) as u8 | 0x80, (left >> 14) as u8]);
        } else {
            self.large_int(name, left);
        }
    }

    /// An `int64` of protobuf: below zero it is ten bytes.
    fn large_int(&mut self, name: &'static str, number: u64) {
        let length = (u64::BITS - number.leading_zeros()).div_ceil(7) as usize;
        self.begin(name, 1 + length);
        self.bytes.push(INT);
        varint(&mut self.bytes, number);
    }

    #[inline(always)]
    pub(super) fn bool(&mut self, name: &'static str, flag: bool) {
        if self.count < MOST {
            self.count += 1;
            self.begin(name, 2);
            self.bytes.extend_from_slice(&[BOOL, u8::from(flag)]);
        }
    }

    /// Up to a value of so many bytes. Compiled into whoever knows the name, whose copy is a few moves then.
    #[inline(always)]
    fn begin(&mut self, name: &'static str, value: usize) {
        let pair = name.len() + value + 4;
        if pair < 0x80 {
            self.bytes.extend_from_slice(&[ATTRIBUTE, pair as u8, KEY, name.len() as u8]);
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.extend_from_slice(&[VALUE, value as u8]);
        } else {
            self.begin_long(name, value);
        }
    }

    fn begin_long(&mut self, name: &'static str, value: usize) {
        let pair = 1 + varint_length(name.len()) + name.len() + 1 + varint_length(value) + value;
        self.bytes.reserve(pair + 3);
        self.bytes.push(ATTRIBUTE);
        varint(&mut self.bytes, pair as u64);
        self.bytes.push(KEY);
        varint(&mut self.bytes, name.len() as u64);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(VALUE);
        varint(&mut self.bytes, value as u64);
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// One attribute as it lies in the bytes.
struct Field<'a> {
    whole: &'a [u8],
    name: &'a [u8],
    /// An `AnyValue`.
    value: &'a [u8],
}

struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let whole = self.0;
        let mut pair = nested(&mut self.0, ATTRIBUTE)?;
        let name = nested(&mut pair, KEY)?;
        let value = nested(&mut pair, VALUE)?;
        Some(Field { whole: &whole[..whole.len() - self.0.len()], name, value })
    }
}

fn value(mut of: &[u8]) -> Option<Value<'_>> {
    match *of.first()? {
        TEXT => Some(Value::Text(std::str::from_utf8(nested(&mut of, TEXT)?).ok()?)),
        BOOL => Some(Value::Bool(of.get(1) == Some(&1))),
        _ => Some(Value::Int(read_varint(&mut &of[1..])?.cast_signed())),
    }
}

#[cfg(test)]
#[path = "attributes_test.rs"]
mod attributes_test;
