//! The signature over what a proxy holds, so that it may keep it on its disk and serve from there while no control plane
//! can be reached: it can tell then that nobody changed it, whose it is and how old.

use crate::index::View;
use isthmus_certs::{IdentityStore, statement};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::view::{self, ViewOf};
use std::time::Duration;

/// After so long without a change the proxy gets a fresh signature: what it keeps is as old as the last of them. A part of
/// what a proxy accepts (24 h), and for 10,000 proxies eleven in a second.
pub(super) const REFRESH: Duration = Duration::from_secs(900);

/// Over what a proxy holds once it has applied all that was sent. None: there is no certificate to sign with, which proxies
/// can live without.
pub(super) fn sign(
    own: &IdentityStore,
    held: &View,
    workload: &str,
    version: u64,
    signed_unix_ms: i64,
) -> Option<wire::ViewSignature> {
    let signer = own.current()?;
    let held = held.iter().filter_map(|(_, told)| told);
    let held = held.filter_map(|told| told.key.as_ref().map(|key| ((key.kind, key.name.as_str()), told.digest())));
    let text = view::text_of(ViewOf { workload, version, signed_unix_ms }, held.collect());
    let signature = statement::sign(&signer, &text)?;
    let chain_der = signer.chain.iter().map(|der| der.to_vec()).collect();
    Some(wire::ViewSignature { signed_unix_ms, chain_der, signature })
}
