//! What a control plane signs about a proxy's view, and a proxy checks before it serves that view from its disk.

use std::collections::BTreeMap;

use isthmus_certs::sha256;

use crate::discovery::v1 as wire;

/// A resource's kind and name, as the wire writes them.
pub type Key = (i32, String);

/// The key of a message.
pub fn key(of: &wire::ResourceKey) -> Key {
    (of.kind, of.name.clone())
}

/// What is said of a view.
#[derive(Clone, Copy, Debug)]
pub struct ViewOf<'a> {
    /// `<namespace>/<name>`
    pub workload: &'a str,
    pub version: u64,
    pub signed_unix_ms: i64,
}

/// SHA-256 of a resource's bytes.
pub fn digest(resource: &[u8]) -> [u8; 32] {
    sha256(resource)
}

/// The text of the statement; discovery.proto describes it.
pub fn text(of: ViewOf<'_>, resources: &BTreeMap<Key, [u8; 32]>) -> Vec<u8> {
    let all = resources.iter().map(|((kind, name), digest)| ((*kind, name.as_str()), *digest));
    text_of_ordered(of, all)
}

/// The same of resources in any order, each with its key once.
pub fn text_of(of: ViewOf<'_>, mut resources: Vec<((i32, &str), [u8; 32])>) -> Vec<u8> {
    resources.sort_unstable_by_key(|(key, _)| *key);
    text_of_ordered(of, resources.into_iter())
}

fn text_of_ordered<'a>(
    of: ViewOf<'_>,
    resources: impl ExactSizeIterator<Item = ((i32, &'a str), [u8; 32])>,
) -> Vec<u8> {
    let mut text = Vec::with_capacity(64 + resources.len() * 80);
    text.extend_from_slice(b"isthmus view, v1\0");
    put(&mut text, of.workload.as_bytes());
    text.extend_from_slice(&of.version.to_be_bytes());
    text.extend_from_slice(&of.signed_unix_ms.to_be_bytes());
    text.extend_from_slice(&(resources.len() as u64).to_be_bytes());
    for ((kind, name), digest) in resources {
        text.extend_from_slice(&i64::from(kind).to_be_bytes());
        put(&mut text, name.as_bytes());
        text.extend_from_slice(&digest);
    }
    text
}

fn put(text: &mut Vec<u8>, part: &[u8]) {
    text.extend_from_slice(&(part.len() as u64).to_be_bytes());
    text.extend_from_slice(part);
}

#[cfg(test)]
#[path = "view_test.rs"]
mod view_test;
