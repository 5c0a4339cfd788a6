//! Who is out, though the certificate says otherwise. Pushed with the snapshot; no list is ever fetched.
//!
//! A revocation names one certificate by its serial, or an identity together with a moment: whatever was issued for it up
//! to then is refused for ever, whatever is issued later (for a proof made later) is good. It grows with its epoch and is
//! never rolled back: a set of a lower epoch than the one that is held is refused.
//!
//! The control plane signs each set, so that whoever holds it can show it to a control plane that has forgotten it, because
//! somebody put an older state back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::TrustBundle;
use crate::ca::BACKDATE;
use crate::id::{SpiffeId, TrustDomain};
use crate::identity::WorkloadIdentity;
use crate::leaf::{PeerIdentity, Serial};
use crate::statement;

/// A set of revocations. Those whose certificates have all ended need not be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Grows with every revocation that was ever made in this mesh; 0: none.
    pub epoch: u64,
    pub serials: BTreeSet<Serial>,
    /// Seconds since the Unix epoch: certificates issued up to and in this second are revoked.
    pub identities: BTreeMap<SpiffeId, u64>,
    /// Whose word it is.
    pub proof: Option<Proof>,
}

/// The control plane's signature over a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub signed_unix_s: u64,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub signature: Vec<u8>,
}

/// What is signed begins so.
const CONTEXT: &[u8] = b"isthmus revocations, v1\0";

impl Revocations {
    /// Whether this certificate is revoked.
    pub fn cover(&self, peer: &PeerIdentity) -> bool {
        self.serials.contains(&peer.serial) || self.cover_identity(&peer.id, issued_at(peer))
    }

    /// Whether a certificate that this identity is issued at `at` would be revoked.
    pub fn cover_identity(&self, id: &SpiffeId, at: UnixTime) -> bool {
        self.identities.get(id).is_some_and(|until| at.as_secs() <= *until)
    }

    /// Signed by `signer`. Without a proof where the library fails.
    pub fn signed(mut self, signer: &WorkloadIdentity, now: UnixTime) -> Self {
        let signed_unix_s = now.as_secs();
        let signature = statement::sign(signer, &self.text(signed_unix_s));
        let chain = signer.chain.clone();
        self.proof = signature.map(|signature| Proof { signed_unix_s, chain, signature });
        self
    }

    /// When the control plane of this mesh signed just this set. `None`: it did not.
    pub fn signed_at(&self, bundle: &TrustBundle, trust_domain: &TrustDomain) -> Option<UnixTime> {
        let Proof { signed_unix_s, chain, signature } = self.proof.as_ref()?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(*signed_unix_s));
        let who = SpiffeId::control_plane(trust_domain);
        statement::check((chain, signature), &self.text(*signed_unix_s), &who, bundle, at).ok().map(|()| at)
    }

    /// Each part with its length, so that no two sets have one text.
    fn text(&self, signed_unix_s: u64) -> Vec<u8> {
        let mut text = CONTEXT.to_vec();
        let mut number = |number: u64, of: &[u8]| {
            text.extend_from_slice(&number.to_be_bytes());
            text.extend_from_slice(of);
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        number(signed_unix_s, &[]);
        number(self.epoch, &[]);
        number(count(self.serials.len()), &[]);
        self.serials.iter().for_each(|serial| number(count(serial.as_bytes().len()), serial.as_bytes()));
        for (id, until) in &self.identities {
            number(count(id.as_str().len()), id.as_str().as_bytes());
            number(*until, &[]);
        }
        text
    }

    /// What either of the two revokes. The epoch stays, and the proof goes where something was added.
    pub fn and(&self, other: &Revocations) -> Revocations {
        let mut both = self.clone();
        both.serials.extend(other.serials.iter().cloned());
        for (id, until) in &other.identities {
            let held = both.identities.entry(id.clone()).or_insert(*until);
            *held = (*held).max(*until);
        }
        if both.serials != self.serials || both.identities != self.identities {
            both.proof = None;
        }
        both
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.identities.is_empty()
    }
}

/// By the issuer's clock. Every certificate of a mesh is backdated by the same time.
pub fn issued_at(peer: &PeerIdentity) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(peer.not_before.as_secs()) + BACKDATE)
}

#[cfg(test)]
#[path = "revocation_test.rs"]
mod revocation_test;
