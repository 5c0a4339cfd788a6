//! What is the same on the spans of many requests (who is asked, where, over which link) is written once and copied as a
//! whole from then on.

use std::cell::RefCell;
use std::hash::Hash;

use foldhash::HashMap;

use super::attributes::Attributes;
use super::span::Span;

/// Blocks that one worker remembers: some 300 bytes each.
const MOST: usize = 256;

/// One worker's blocks of attributes, by what they are made of. They hold for one `World`: when there is another, all are
/// forgotten, and so they are when they are too many.
#[derive(Debug)]
pub struct Prepared<World, Of> {
    known: RefCell<(Option<World>, HashMap<Of, Attributes>)>,
}

impl<World, Of> Default for Prepared<World, Of> {
    fn default() -> Self {
        Prepared { known: RefCell::default() }
    }
}

impl<World: PartialEq, Of: Eq + Hash> Prepared<World, Of> {
    /// Says on `span` what `write` said when it was asked the first time.
    pub fn say(&self, span: &mut Span, world: World, of: Of, write: impl FnOnce(&mut Attributes)) {
        let (known_of, known) = &mut *self.known.borrow_mut();
        if known_of.as_ref() != Some(&world) || known.len() >= MOST && !known.contains_key(&of) {
            known.clear();
            *known_of = Some(world);
        }
        let block = known.entry(of).or_insert_with(|| {
            let mut block = Attributes::default();
            write(&mut block);
            block.shrunk()
        });
        span.set_all(block);
    }
}

#[cfg(test)]
#[path = "prepared_test.rs"]
mod prepared_test;
