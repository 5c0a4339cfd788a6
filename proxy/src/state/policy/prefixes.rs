//! All known prefixes of a text, by one binary search.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Prefixes with a value each, sorted. What starts with a prefix follows it at once, so that the search ends at or below
/// the longest prefix of a text, and each knows the next shorter one.
#[derive(Debug)]
pub(super) struct Prefixes<T>(Vec<Entry<T>>);

#[derive(Debug)]
struct Entry<T> {
    prefix: Box<[u8]>,
    /// The longest other entry that this one starts with.
    shorter: Option<u32>,
    value: T,
}

impl<T> Prefixes<T> {
    pub(super) fn new(values: HashMap<Box<[u8]>, T, RandomState>) -> Self {
        let mut entries: Vec<_> =
            values.into_iter().map(|(prefix, value)| Entry { prefix, shorter: None, value }).collect();
        entries.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix));
        // The entries that the one at hand may start with, each starting with the one before.
        let mut open: Vec<usize> = Vec::new();
        for place in 0..entries.len() {
            while open.pop_if(|last| !entries[place].prefix.starts_with(&entries[*last].prefix)).is_some() {}
            entries[place].shorter = open.last().and_then(|last| u32::try_from(*last).ok());
            open.push(place);
        }
        Self(entries)
    }

    /// The values of all prefixes of `text`, longest first.
    pub(super) fn each_of(&self, text: &[u8], mut each: impl FnMut(&T)) {
        let after = self.0.partition_point(|entry| *entry.prefix <= *text);
        let mut next = after.checked_sub(1);
        let mut found = false;
        while let Some(entry) = next.and_then(|place| self.0.get(place)) {
            // Once one is a prefix, all shorter ones are.
            found = found || text.starts_with(&entry.prefix);
            if found {
                each(&entry.value);
            }
            next = entry.shorter.map(|place| place as usize);
        }
    }
}
