//! The signature over what a proxy holds, so that it may keep it on its disk and serve from there while no control plane
//! can be reached: it can tell then that nobody changed it, whose it is and how old.

use isthmus_certs::{IdentityStore, statement};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::view::{self, Key, ViewOf};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// After so long without a change the proxy gets a fresh signature: what it keeps is as old as the last of them. A part of
/// what a proxy accepts (24 h), and for 10,000 proxies eleven in a second.
pub(super) const REFRESH: Duration = Duration::from_secs(900);

/// The digests of what one proxy holds once it has applied all that was sent.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<Key, [u8; 32]>);

impl Held {
    pub(super) fn apply(&mut self, upserts: &[Arc<wire::Resource>], removals: &[wire::ResourceKey]) {
        for key in removals {
            self.0.remove(&view::key(key));
        }
        for resource in upserts {
            if let Some(key) = &resource.key {
                // The very bytes that are sent: maps are ordered, so that they are the same each time.
                self.0.insert(view::key(key), view::digest(&resource.encode_to_vec()));
            }
        }
    }

    /// None: there is no certificate to sign with, which proxies can live without.
    pub(super) fn sign(
        &self,
        own: &IdentityStore,
        workload: &str,
        version: u64,
        signed_unix_ms: i64,
    ) -> Option<wire::ViewSignature> {
        let signer = own.current()?;
        let text = view::text(ViewOf { workload, version, signed_unix_ms }, &self.0);
        let signature = statement::sign(&signer, &text)?;
        let chain_der = signer.chain.iter().map(|der| der.to_vec()).collect();
        Some(wire::ViewSignature { signed_unix_ms, chain_der, signature })
    }
}
