//! Revocations: in force before the rules that come with them, and on disk, so that a restart without a control plane lets
//! nobody back in. A set of a lower epoch (a control plane that was restored from a backup) takes nothing away: what it adds
//! is in force as well, and the control plane is shown, in each hello, what it has signed and forgotten.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_certs::{RevocationProof, Revocations, Serial, SpiffeId};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::write_revocations;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::Context;
use super::files::write_private;
use crate::state::Mesh;

pub(super) const FILE: &str = "revoked.json";

/// As it is on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    epoch: u64,
    serials: Vec<String>,
    /// SPIFFE id → issued until, seconds since the Unix epoch.
    identities: BTreeMap<SpiffeId, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<WrittenProof>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenProof {
    signed_unix_s: u64,
    /// Base64, as is the next.
    chain: Vec<String>,
    signature: String,
}

/// Puts what the snapshot says before every handshake.
pub(super) fn take(context: &Context, mesh: &Mesh) {
    let Some(told) = mesh.revocations() else { return };
    let before = context.identities.revocations();
    if !context.identities.revoke(told.clone()) {
        warn!(
            "revocations: the control plane knows {}, we know {}: was it restored from a backup? Ours stay in force",
            told.epoch, before.epoch
        );
        let both = before.and(told);
        if both != *before {
            context.identities.revoke(both);
        }
    } else if told.epoch > before.epoch {
        let (serials, identities) = (told.serials.len(), told.identities.len());
        info!("revocations: epoch {}, {serials} certificates, {identities} identities", told.epoch);
    }
}

/// For a hello. Without the control plane's signature it would be believed by nobody.
pub(super) fn shown(context: &Context) -> Option<wire::Revocations> {
    let held = context.identities.revocations();
    held.proof.as_ref().map(|_| write_revocations(&held))
}

/// Writes them down, if they are not there yet.
pub(super) async fn keep(context: &Context) {
    let now = context.identities.revocations();
    let (Some(dir), kept) = (context.start.state_dir(), context.start.kept_revocations()) else { return };
    if *kept.lock().unwrap_or_else(PoisonError::into_inner) == *now {
        return;
    }
    let dir = dir.to_owned();
    let set = Arc::clone(&now);
    let written = tokio::task::spawn_blocking(move || write(&dir, &set)).await;
    match written.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(()) => *kept.lock().unwrap_or_else(PoisonError::into_inner) = Revocations::clone(&now),
        // In force they are; only a restart before the next snapshot would forget them.
        Err(reason) => error!("revocations: not on disk: {reason}"),
    }
}

fn write(dir: &Path, set: &Revocations) -> Result<(), String> {
    let written = Written {
        epoch: set.epoch,
        serials: set.serials.iter().map(ToString::to_string).collect(),
        identities: set.identities.clone(),
        proof: set.proof.as_ref().map(|proof| WrittenProof {
            signed_unix_s: proof.signed_unix_s,
            chain: proof.chain.iter().map(|der| STANDARD.encode(der)).collect(),
            signature: STANDARD.encode(&proof.signature),
        }),
    };
    let text = serde_json::to_vec_pretty(&written).map_err(|e| e.to_string())?;
    write_private(dir, FILE, &text)
}

/// What an earlier life knew. Unreadable is an error: guessing that nobody was revoked would let somebody in.
pub(super) fn read(dir: &Path) -> Result<Revocations, String> {
    let text = match std::fs::read(dir.join(FILE)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Revocations::default()),
        Err(e) => return Err(e.to_string()),
    };
    let damaged = "is damaged: remove it while the control plane can be reached, which knows who is revoked";
    let written: Written = serde_json::from_slice(&text).map_err(|e| format!("{damaged} ({e})"))?;
    let serials: Option<_> = written.serials.iter().map(|serial| Serial::parse(serial)).collect();
    let serials = serials.ok_or_else(|| format!("{damaged} (a serial)"))?;
    let proof = written.proof.map(read_proof).transpose().map_err(|e| format!("{damaged} ({e})"))?;
    Ok(Revocations { epoch: written.epoch, serials, identities: written.identities, proof })
}

fn read_proof(written: WrittenProof) -> Result<RevocationProof, base64::DecodeError> {
    let chain: Result<Vec<_>, _> = written.chain.iter().map(|der| STANDARD.decode(der).map(Into::into)).collect();
    let signature = STANDARD.decode(&written.signature)?;
    Ok(RevocationProof { signed_unix_s: written.signed_unix_s, chain: chain?, signature })
}
