//! What is known before the first packet: the settings, and what an earlier life left in the state directory.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use isthmus_certs::{
    Clock, IdentityError, IdentityStore, JoinToken, PeerError, Revocations, TrustDomain, WorkloadIdentity,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{ControlError, Dialer, revoked};
use crate::tcp::DialOptions;

const RECORD_FILE: &str = "enrolled.json";

/// What the configuration says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port`; `None`: the one of the join token, or of the last enrolment.
    pub address: Option<String>,
    /// Needed only until the identity is in the state directory.
    pub token: Option<JoinToken>,
    /// `None`: in memory only, and a restart needs a new token.
    pub state_dir: Option<PathBuf>,
    pub dial: DialOptions,
    /// Told to the control plane.
    pub build_version: String,
}

/// Ready to [`run`](super::run).
pub struct Start {
    settings: Settings,
    address: String,
    identities: Arc<IdentityStore>,
    workload: Option<String>,
    /// The epoch of the revocations that are on disk.
    kept_revocations: AtomicU64,
    renew_now: Arc<Notify>,
}

/// What is kept beside the identity. No secret.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    workload: String,
    address: String,
    trust_domain: String,
}

impl Start {
    /// Reads the state directory. Fails where neither it nor a join token tells who we are.
    pub fn prepare(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, ControlError> {
        let held = match &settings.state_dir {
            Some(dir) => Held::read(dir, clock.as_ref())?,
            None => None,
        };
        let trust_domain = trust_domain(held.as_ref(), settings.token.as_ref())?;
        let identities = IdentityStore::new(trust_domain, clock);
        let mut workload = None;
        let mut recorded_address = None;
        if let Some(held) = held {
            recorded_address = Some(held.record.address);
            match held.identity {
                Ok(identity) => {
                    identities.replace(identity)?;
                    workload = Some(held.record.workload);
                }
                Err(e) if settings.token.is_none() => return Err(e),
                Err(_) => {}
            }
        }
        let from_token = || settings.token.as_ref().map(|token| token.address.clone());
        let address = settings.address.clone().or_else(from_token).or(recorded_address);
        let kept = match &settings.state_dir {
            Some(dir) => {
                let unusable = |reason| ControlError::StateDir { path: dir.join(revoked::FILE), reason };
                revoked::read(dir).map_err(unusable)?
            }
            None => Revocations::default(),
        };
        let kept_revocations = AtomicU64::new(kept.epoch);
        identities.revoke(kept);
        let address = address.ok_or(ControlError::NoAddress)?;
        Ok(Self { address, settings, identities, workload, kept_revocations, renew_now: Arc::default() })
    }

    pub(super) fn state_dir(&self) -> Option<&Path> {
        self.settings.state_dir.as_deref()
    }

    pub(super) fn kept_revocations(&self) -> &AtomicU64 {
        &self.kept_revocations
    }

    /// Notified: the certificate is renewed at once, whatever is left of it.
    pub fn renew_now(&self) -> &Arc<Notify> {
        &self.renew_now
    }

    /// Where the identity is and will be: hand it to both paths.
    pub fn identities(&self) -> &Arc<IdentityStore> {
        &self.identities
    }

    /// `<namespace>/<name>`; `None`: not enrolled yet.
    pub fn workload(&self) -> Option<&str> {
        self.workload.as_deref()
    }

    pub(super) fn dialer(&self) -> Dialer {
        Dialer::tcp(&self.address, self.settings.dial)
    }

    pub(super) fn token(&self) -> Option<&JoinToken> {
        self.settings.token.as_ref()
    }

    pub(super) fn build_version(&self) -> &str {
        &self.settings.build_version
    }

    /// Keeps a first identity, where there is a state directory. The record goes first: an identity without it could
    /// not be used after a restart, and its token is spent.
    pub(super) async fn save_first(&self, identity: &WorkloadIdentity, workload: &str) -> Result<(), ControlError> {
        let Some(dir) = self.settings.state_dir.clone() else {
            return Ok(());
        };
        let record = Record {
            workload: workload.to_owned(),
            address: self.address.clone(),
            trust_domain: self.identities.trust_domain().as_str().to_owned(),
        };
        let written = dir.clone();
        let result = tokio::task::spawn_blocking(move || record.write(&written)).await;
        result.unwrap_or_else(|e| Err(e.to_string())).map_err(|reason| ControlError::StateDir { path: dir, reason })?;
        self.save(identity).await
    }

    /// Keeps a renewed identity, where there is a state directory.
    pub(super) async fn save(&self, identity: &WorkloadIdentity) -> Result<(), ControlError> {
        let Some(path) = self.settings.state_dir.clone() else {
            return Ok(());
        };
        let (dir, identity) = (path.clone(), identity.clone());
        let result = tokio::task::spawn_blocking(move || identity.save(&dir).map_err(|e| e.to_string())).await;
        result.unwrap_or_else(|e| Err(e.to_string())).map_err(|reason| ControlError::StateDir { path, reason })
    }
}

fn trust_domain(held: Option<&Held>, token: Option<&JoinToken>) -> Result<TrustDomain, ControlError> {
    match (held.map(|h| h.trust_domain.clone()), token.map(|t| t.trust_domain.clone())) {
        (Some(held), Some(token)) if held != token => Err(ControlError::OtherTrustDomain { held, token }),
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Err(ControlError::NotEnrolled),
    }
}

/// What an earlier life left.
struct Held {
    record: Record,
    trust_domain: TrustDomain,
    identity: Result<WorkloadIdentity, ControlError>,
}

impl Held {
    fn read(dir: &Path, clock: &dyn Clock) -> Result<Option<Self>, ControlError> {
        let path = dir.join(RECORD_FILE);
        let unusable = |reason: String| ControlError::StateDir { path: path.clone(), reason };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(unusable(e.to_string())),
        };
        let damaged = "is damaged: empty the state directory and enrol again with a new join token";
        let record: Record = serde_json::from_slice(&text).map_err(|e| unusable(format!("{damaged} ({e})")))?;
        let trust_domain =
            TrustDomain::parse(&record.trust_domain).map_err(|e| unusable(format!("{damaged} ({e})")))?;
        let identity = match WorkloadIdentity::load(dir, &trust_domain, clock.now()) {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(ControlError::NotEnrolled),
            Err(IdentityError::Certificate(PeerError::Expired)) => Err(ControlError::Expired { path: dir.to_owned() }),
            Err(e) => Err(e.into()),
        };
        Ok(Some(Self { record, trust_domain, identity }))
    }
}

impl Record {
    fn write(&self, dir: &Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| e.to_string())?;
        write_private(dir, RECORD_FILE, &text)
    }
}

/// Written aside, made durable, then renamed: a crash leaves the old one or the new one.
pub(super) fn write_private(dir: &Path, name: &str, text: &[u8]) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let aside = dir.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside).map_err(io)?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&aside, dir.join(name)).map_err(io)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}
