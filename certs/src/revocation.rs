//! Who is out, though the certificate says otherwise. Pushed with the snapshot; no list is ever fetched.
//!
//! A revocation names one certificate by its serial, or an identity together with a moment: whatever was issued for it up
//! to then is refused for ever, whatever is issued later (for a proof made later) is good. It grows with its epoch and is
//! never rolled back: a set of a lower epoch than the one that is held is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustls_pki_types::UnixTime;

use crate::ca::BACKDATE;
use crate::id::SpiffeId;
use crate::leaf::{PeerIdentity, Serial};

/// A set of revocations. Those whose certificates have all ended need not be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Grows with every revocation that was ever made in this mesh; 0: none.
    pub epoch: u64,
    pub serials: BTreeSet<Serial>,
    /// Seconds since the Unix epoch: certificates issued up to and in this second are revoked.
    pub identities: BTreeMap<SpiffeId, u64>,
}

impl Revocations {
    /// Whether this certificate is revoked.
    pub fn cover(&self, peer: &PeerIdentity) -> bool {
        self.serials.contains(&peer.serial) || self.cover_identity(&peer.id, issued_at(peer))
    }

    /// Whether a certificate that this identity is issued at `at` would be revoked.
    pub fn cover_identity(&self, id: &SpiffeId, at: UnixTime) -> bool {
        self.identities.get(id).is_some_and(|until| at.as_secs() <= *until)
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.identities.is_empty()
    }
}

/// By the issuer's clock. Every certificate of a mesh is backdated by the same time.
fn issued_at(peer: &PeerIdentity) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(peer.not_before.as_secs()) + BACKDATE)
}

#[cfg(test)]
#[path = "revocation_test.rs"]
mod revocation_test;
