//! What the readers of documents ask for, noted while they read: which fields, in which form, and which have to be there.
//! Schemas are made of this, so that they cannot say anything else than the readers do.

use std::collections::{BTreeMap, BTreeSet};

/// In which form a reader takes a value. Several of one field mean: any of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// One of a closed set of words.
    Word(String),
    Text,
    Flag,
    Number,
    Port,
    Duration,
    List,
    /// Of a list: an empty one is refused.
    NotEmpty,
    /// Texts by names that the author chooses.
    Map,
}

/// What was asked for at one place of a document, over all documents that were read.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub forms: BTreeSet<Form>,
    /// Fields that are read here, and those that are known and read over.
    pub known: BTreeSet<String>,
    pub read_over: BTreeSet<String>,
    /// Without which no document was read.
    pub needed: Option<BTreeSet<String>>,
}

/// By path, with `[]` for each item of a list.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub places: BTreeMap<String, Place>,
    /// As read, with indices: two items of a list need different fields.
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Asked {
    pub(super) fn note(&mut self, path: &str, form: Form) {
        self.places.entry(general(path)).or_default().forms.insert(form);
    }

    pub(super) fn need(&mut self, path: &str, name: &str) {
        self.needs.entry(path.to_string()).or_default().insert(name.to_string());
    }

    pub(super) fn only(&mut self, path: &str, known: &[&str], read_over: &[&str]) {
        self.needs.entry(path.to_string()).or_default();
        let place = self.places.entry(general(path)).or_default();
        place.known.extend(known.iter().map(|name| (*name).to_string()));
        place.read_over.extend(read_over.iter().map(|name| (*name).to_string()));
    }

    /// What one document asked for, added to what others did.
    pub fn add(&mut self, document: Asked) {
        for (path, needed) in document.needs {
            let place = self.places.entry(general(&path)).or_default();
            place.needed = Some(match place.needed.take() {
                Some(before) => before.intersection(&needed).cloned().collect(),
                None => needed,
            });
        }
        for (path, more) in document.places {
            let place = self.places.entry(path).or_default();
            place.forms.extend(more.forms);
            place.known.extend(more.known);
            place.read_over.extend(more.read_over);
        }
    }
}

/// `spec.allow[3].to` → `spec.allow[].to`
fn general(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        out.push_str("[]");
        rest = after.split_once(']').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}
