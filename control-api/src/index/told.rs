//! A resource as proxies are told it. Many proxies hold the same one; what is computed of its bytes is computed once for
//! all of them, when somebody first asks.

use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::view;
use prost::Message as _;
use std::ops::Deref;
use std::sync::OnceLock;

#[derive(Debug)]
pub struct Told {
    resource: wire::Resource,
    digest: OnceLock<[u8; 32]>,
}

impl Told {
    /// As it is sent: maps are ordered, so that it is the same each time.
    pub fn bytes(&self) -> Vec<u8> {
        self.resource.encode_to_vec()
    }

    /// Of the very bytes that are sent.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| view::digest(&self.bytes()))
    }
}

impl From<wire::Resource> for Told {
    fn from(resource: wire::Resource) -> Self {
        Told { resource, digest: OnceLock::new() }
    }
}

impl Deref for Told {
    type Target = wire::Resource;

    fn deref(&self) -> &wire::Resource {
        &self.resource
    }
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        self.resource == other.resource
    }
}
