//! The last good snapshot as it is on disk: what is in the file, and what is refused of it. Pure but for what it is handed;
//! `keeper` writes it, `start` reads it.
//!
//! Refused: what the control plane did not sign as it is there, another identity's or machine's, what is older than the
//! newest version that was ever in force here, and what is older than `maxStale`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use isthmus_certs::{PeerError, SpiffeId, TrustBundle, span_in_words, statement};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::ResourceKey;
use isthmus_proto::view::{self, Key, ViewOf};
use prost::Message as _;
use rustls::pki_types::{CertificateDer, UnixTime};

pub(super) const FILE: &str = "last-good";
/// The version of this file's form.
const FORMAT: u32 = 1;
/// A signature from further ahead than clocks may differ is of a clock that is wrong.
const AHEAD_MS: i64 = 300_000;

/// Why a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{FILE} is damaged")]
    Damaged,
    #[error("{FILE} has form {0}, this build reads {FORMAT}")]
    OtherForm(u32),
    #[error("{FILE} is of {found}, we are {ours}")]
    OtherIdentity { found: String, ours: String },
    #[error("{FILE} was written on another machine: it was copied")]
    OtherMachine,
    #[error("{FILE} has version {found}, and {seen} was in force here: it is an older copy")]
    Older { found: u64, seen: u64 },
    #[error("{FILE} is {} old, and maxStale is {}", in_words(*age_ms), in_words(*most_ms))]
    Stale { age_ms: i64, most_ms: i64 },
    #[error("{FILE} was signed {} from now: is the clock right?", in_words(*by_ms))]
    FromTheFuture { by_ms: i64 },
    #[error("the control plane does not sign snapshots: it is older than this proxy")]
    Unsigned,
    #[error("the control plane's signature does not hold: {0}")]
    Signature(PeerError),
}

fn in_words(ms: i64) -> String {
    span_in_words(ms.max(0).unsigned_abs())
}

/// Who the proxy is that a file must be of.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) id: SpiffeId,
    /// `<namespace>/<name>`
    pub(super) workload: String,
    /// SHA-256 of the machine's id; empty: it has none.
    pub(super) machine: Vec<u8>,
}

/// Everything that was sent, as its bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Holding {
    resources: BTreeMap<Key, Vec<u8>>,
    pub(super) version: u64,
    signature: Option<wire::ViewSignature>,
}

impl Holding {
    /// In the order in which the control plane counts: removals, then upserts.
    pub(super) fn apply(&mut self, delta: &wire::RawDelta, keys: Vec<Option<Key>>) {
        for key in &delta.removals {
            self.resources.remove(&view::key(key));
        }
        for (key, bytes) in keys.into_iter().zip(&delta.upserts) {
            if let Some(key) = key {
                self.resources.insert(key, bytes.clone());
            }
        }
        self.version = delta.version;
        self.signature.clone_from(&delta.signature);
    }

    /// Whether the control plane of `owner`'s trust domain signed exactly this, and when.
    pub(super) fn check(&self, owner: &Owner, bundle: &TrustBundle) -> Result<i64, Refused> {
        let signed = self.signature.as_ref().ok_or(Refused::Unsigned)?;
        let digests = self.resources.iter().map(|(key, bytes)| (key.clone(), view::digest(bytes))).collect();
        let of = ViewOf { workload: &owner.workload, version: self.version, signed_unix_ms: signed.signed_unix_ms };
        let chain: Vec<_> = signed.chain_der.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let control_plane = SpiffeId::control_plane(owner.id.trust_domain());
        let seconds = u64::try_from(signed.signed_unix_ms / 1_000).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        statement::check((&chain, &signed.signature), &view::text(of, &digests), &control_plane, bundle, at)
            .map_err(Refused::Signature)?;
        Ok(signed.signed_unix_ms)
    }

    /// The file's content.
    pub(super) fn write(&self, owner: &Owner) -> Vec<u8> {
        let file = wire::LastGood {
            format: FORMAT,
            spiffe_id: owner.id.to_string(),
            workload: owner.workload.clone(),
            machine: owner.machine.clone(),
            version: self.version,
            resources: self.resources.values().cloned().collect(),
            signature: self.signature.clone(),
        };
        file.encode_to_vec()
    }
}

/// A file that can be read. Nothing in it is believed yet.
#[derive(Debug)]
pub struct Unchecked {
    file: wire::LastGood,
    resources: Vec<wire::Resource>,
}

/// Reads a file's content, whoever wrote it.
pub fn parse(content: &[u8]) -> Result<Unchecked, Refused> {
    let file = wire::LastGood::decode(content).map_err(|_| Refused::Damaged)?;
    if file.format != FORMAT {
        return Err(Refused::OtherForm(file.format));
    }
    let resources = file.resources.iter().map(|bytes| wire::Resource::decode(bytes.as_slice()));
    let resources = resources.collect::<Result<Vec<_>, _>>().map_err(|_| Refused::Damaged)?;
    Ok(Unchecked { file, resources })
}

/// What was in force when an earlier process ended, as the control plane signed it.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) delta: wire::Delta,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) signed_ms: i64,
}

impl Unchecked {
    /// `seen`: the newest version that was in force here.
    pub(super) fn check(
        self,
        owner: &Owner,
        bundle: &TrustBundle,
        seen: u64,
        (now_ms, max_stale): (i64, Duration),
    ) -> Result<Restored, Refused> {
        let Unchecked { file, resources } = self;
        if file.spiffe_id != owner.id.as_str() || file.workload != owner.workload {
            let found = format!("{} ({})", file.spiffe_id, file.workload);
            return Err(Refused::OtherIdentity { found, ours: format!("{} ({})", owner.id, owner.workload) });
        }
        if file.machine != owner.machine {
            return Err(Refused::OtherMachine);
        }
        let keys: Option<Vec<Key>> = resources.iter().map(|one| one.key.as_ref().map(view::key)).collect();
        let keys = keys.ok_or(Refused::Damaged)?;
        let holding = Holding {
            resources: keys.into_iter().zip(file.resources).collect(),
            version: file.version,
            signature: file.signature,
        };
        let signed_ms = holding.check(owner, bundle)?;
        if holding.version < seen {
            return Err(Refused::Older { found: holding.version, seen });
        }
        let (age_ms, most_ms) = (now_ms - signed_ms, i64::try_from(max_stale.as_millis()).unwrap_or(i64::MAX));
        if age_ms > most_ms {
            return Err(Refused::Stale { age_ms, most_ms });
        }
        if age_ms < -AHEAD_MS {
            return Err(Refused::FromTheFuture { by_ms: -age_ms });
        }
        let addresses = resources.iter().filter_map(address).collect();
        let delta = wire::Delta {
            version: holding.version,
            upserts: resources,
            first_sync_complete: true,
            ..wire::Delta::default()
        };
        Ok(Restored { delta, addresses, signed_ms })
    }
}

/// An address that the app had dialled: what the next hello asks for.
fn address(resource: &wire::Resource) -> Option<IpAddr> {
    match ResourceKey::try_from(resource.key.clone()?) {
        Ok(ResourceKey::Address(ip)) => Some(ip.to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "last_good_test.rs"]
mod last_good_test;
