//! What is known before the first packet: the settings, and what an earlier life left in the state directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_certs::identity::{IDENTITY_FILE, ROOTS_FILE};
use isthmus_certs::{
    Clock, IdentityError, IdentityStore, JoinToken, PeerError, Revocations, TrustDomain, WorkloadIdentity, sha256,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::warn;

use super::files::{StateFiles, write_private};
use super::last_good::{self, Owner, Restored};
use super::{ControlError, Dialer, FirstContact, Seal, revoked};
use crate::state::standing::Standing;
use crate::tcp::DialOptions;

const RECORD_FILE: &str = "enrolled.json";

/// What the configuration says.
#[derive(Debug)]
pub struct Settings {
    /// `host:port`; `None`: the one of the join token, or of the last enrolment.
    pub address: Option<String>,
    /// Needed only until the identity is in the state directory.
    pub token: Option<JoinToken>,
    /// What else proves who this is, where there is no token.
    pub enrol: Option<FirstContact>,
    /// `None`: in memory only, and a restart needs a new token.
    pub state_dir: Option<PathBuf>,
    pub seal: Seal,
    /// How old the last good snapshot may be that is served without a control plane; `None`: none is kept.
    pub last_good: Option<Duration>,
    /// What tells this machine from a copy of it; empty: it has nothing of the kind.
    pub machine_id: Vec<u8>,
    pub dial: DialOptions,
    /// Told to the control plane.
    pub build_version: String,
}

/// Ready to [`run`](super::run).
pub struct Start {
    contact: Option<FirstContact>,
    build_version: String,
    dial: DialOptions,
    machine: Vec<u8>,
    max_stale: Option<Duration>,
    address: String,
    identities: Arc<IdentityStore>,
    workload: Option<String>,
    files: Option<Arc<StateFiles>>,
    last_good: Mutex<Option<Restored>>,
    /// Those that are on disk.
    kept_revocations: Mutex<Revocations>,
    renew_now: Arc<Notify>,
    standing: Arc<Standing>,
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
        let Settings { address, token, enrol, state_dir, seal, last_good, machine_id, dial, build_version } = settings;
        let files = state_dir.map(|dir| Arc::new(StateFiles::new(dir, seal)));
        let held = match &files {
            Some(files) => Held::read(files, clock.as_ref())?,
            None => None,
        };
        let contact = token.clone().map(FirstContact::by_token).or(enrol);
        let trust_domain = trust_domain(held.as_ref(), contact.as_ref())?;
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
                Err(e) if contact.is_none() => return Err(e),
                Err(_) => {}
            }
        }
        let from_token = || token.as_ref().map(|token| token.address.clone());
        let address = address.or_else(from_token).or(recorded_address).ok_or(ControlError::NoAddress)?;
        let kept = match &files {
            Some(files) => {
                let unusable = |reason| ControlError::StateDir { path: files.dir().join(revoked::FILE), reason };
                revoked::read(files.dir()).map_err(unusable)?
            }
            None => Revocations::default(),
        };
        let kept_revocations = Mutex::new(kept.clone());
        identities.revoke(kept);
        let machine = if machine_id.is_empty() { machine_id } else { sha256(&machine_id).to_vec() };
        let standing = Arc::new(Standing::default());
        standing.note(|facts| {
            facts.address.clone_from(&address);
            facts.sealed = files.as_ref().map(|files| files.seal().in_words()).unwrap_or_default();
        });
        let start = Self {
            contact,
            build_version,
            dial,
            machine,
            max_stale: last_good,
            address,
            identities,
            workload,
            files,
            last_good: Mutex::default(),
            kept_revocations,
            renew_now: Arc::default(),
            standing,
        };
        start.read_last_good();
        Ok(start)
    }

    /// What cannot be taken is said, and waited for: the control plane knows better anyway.
    fn read_last_good(&self) {
        let (Some(files), Some(max_stale)) = (self.keeps_last_good(), self.max_stale) else { return };
        let (Some(owner), identities) = (self.owner(), &self.identities) else { return };
        let read = || -> Result<Option<Restored>, String> {
            let Some(content) = files.read(last_good::FILE)? else { return Ok(None) };
            let unchecked = last_good::parse(&content).map_err(|e| e.to_string())?;
            let when = (identities.clock().now_ms(), max_stale);
            let checked = unchecked.check(&owner, &identities.bundle(), files.read_seen()?, when);
            checked.map(Some).map_err(|e| e.to_string())
        };
        match read() {
            Ok(restored) => *self.last_good.lock().unwrap_or_else(PoisonError::into_inner) = restored,
            Err(why) => {
                warn!("the last good snapshot is not taken: {why}");
                self.standing.note(|facts| facts.last_good_refused = Some(why));
            }
        }
    }

    /// Where the last good snapshot is kept; none where it is not.
    pub(super) fn keeps_last_good(&self) -> Option<&Arc<StateFiles>> {
        self.files.as_ref().filter(|_| self.max_stale.is_some())
    }

    pub(super) fn max_stale(&self) -> Duration {
        self.max_stale.unwrap_or_default()
    }

    /// Whose a last good snapshot must be. None before enrolment.
    pub(super) fn owner(&self) -> Option<Owner> {
        let (id, workload) = (self.identities.current()?.id.clone(), self.workload.clone()?);
        Some(Owner { id, workload, machine: self.machine.clone() })
    }

    /// The same for a workload that has just enrolled.
    pub(super) fn owner_of(&self, workload: &str) -> Option<Owner> {
        let id = self.identities.current()?.id.clone();
        Some(Owner { id, workload: workload.to_owned(), machine: self.machine.clone() })
    }

    pub(super) fn take_last_good(&self) -> Option<Restored> {
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn state_dir(&self) -> Option<&Path> {
        self.files.as_ref().map(|files| files.dir())
    }

    pub(super) fn kept_revocations(&self) -> &Mutex<Revocations> {
        &self.kept_revocations
    }

    /// Notified: the certificate is renewed at once, whatever is left of it.
    pub fn renew_now(&self) -> &Arc<Notify> {
        &self.renew_now
    }

    /// How things are with the control plane: for who is asked.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
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
        Dialer::tcp(&self.address, self.dial)
    }

    pub(super) fn first_contact(&self) -> Option<&FirstContact> {
        self.contact.as_ref()
    }

    pub(super) fn dial(&self) -> DialOptions {
        self.dial
    }

    pub(super) fn build_version(&self) -> &str {
        &self.build_version
    }

    /// Keeps a first identity, where there is a state directory. The record goes first: an identity without it could
    /// not be used after a restart, and its token is spent.
    pub(super) async fn save_first(&self, identity: &WorkloadIdentity, workload: &str) -> Result<(), ControlError> {
        let record = Record {
            workload: workload.to_owned(),
            address: self.address.clone(),
            trust_domain: self.identities.trust_domain().as_str().to_owned(),
        };
        self.on_disk(move |files| record.write(files.dir())).await?;
        self.save(identity).await
    }

    /// Keeps a renewed identity, where there is a state directory.
    pub(super) async fn save(&self, identity: &WorkloadIdentity) -> Result<(), ControlError> {
        let identity = identity.clone();
        self.on_disk(move |files| write_identity(files, &identity)).await
    }

    async fn on_disk(
        &self,
        write: impl FnOnce(&StateFiles) -> Result<(), String> + Send + 'static,
    ) -> Result<(), ControlError> {
        let Some(files) = self.files.clone() else { return Ok(()) };
        let path = files.dir().to_owned();
        let result = tokio::task::spawn_blocking(move || write(&files)).await;
        result.unwrap_or_else(|e| Err(e.to_string())).map_err(|reason| ControlError::StateDir { path, reason })
    }
}

/// Roots first: an identity whose root is missing could not be loaded, more roots than needed do no harm.
fn write_identity(files: &StateFiles, identity: &WorkloadIdentity) -> Result<(), String> {
    let [own, roots] = identity.to_pem().map_err(|e| e.to_string())?;
    files.write(ROOTS_FILE, roots.as_bytes())?;
    files.write(IDENTITY_FILE, own.as_bytes())
}

fn trust_domain(held: Option<&Held>, contact: Option<&FirstContact>) -> Result<TrustDomain, ControlError> {
    match (held.map(|h| h.trust_domain.clone()), contact.map(|c| c.trust_domain.clone())) {
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
    fn read(files: &StateFiles, clock: &dyn Clock) -> Result<Option<Self>, ControlError> {
        let path = files.dir().join(RECORD_FILE);
        let unusable = |reason: String| ControlError::StateDir { path: path.clone(), reason };
        let Some(text) = files.read(RECORD_FILE).map_err(unusable)? else { return Ok(None) };
        let damaged = "is damaged: empty the state directory and enrol again with a new join token";
        let record: Record = serde_json::from_slice(&text).map_err(|e| unusable(format!("{damaged} ({e})")))?;
        let trust_domain =
            TrustDomain::parse(&record.trust_domain).map_err(|e| unusable(format!("{damaged} ({e})")))?;
        let identity = Self::identity(files, &trust_domain, clock);
        Ok(Some(Self { record, trust_domain, identity }))
    }

    fn identity(
        files: &StateFiles,
        trust_domain: &TrustDomain,
        clock: &dyn Clock,
    ) -> Result<WorkloadIdentity, ControlError> {
        let unusable = |reason| ControlError::StateDir { path: files.dir().join(IDENTITY_FILE), reason };
        let Some(own) = files.read(IDENTITY_FILE).map_err(unusable)? else { return Err(ControlError::NotEnrolled) };
        let roots = files.read(ROOTS_FILE).map_err(unusable)?.unwrap_or_default();
        match WorkloadIdentity::from_pem([&own, &roots], trust_domain, clock.now()) {
            Err(IdentityError::Certificate(PeerError::Expired)) => {
                Err(ControlError::Expired { path: files.dir().to_owned() })
            }
            read => Ok(read?),
        }
    }
}

impl Record {
    fn write(&self, dir: &Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| e.to_string())?;
        write_private(dir, RECORD_FILE, &text)
    }
}
