//! The control plane's own secrets: the CA on disk, its own leaf, and the first operator's credentials.
//!
//! All of it lives in `stateDir`, each file 0600 and replaced in one step, so that a kill at any moment leaves either
//! the old or the new.

use arc_swap::ArcSwap;
use isthmus_certs::{
    CertificateAuthority, Clock, IdentityStore, PrivateKey, PublicKeyInfo, SpiffeId, TrustDomain, WorkloadIdentity,
    peer_identity, pem, rotation,
};
use serde::Deserialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(86_400);
/// The control plane's own leaf: as long as a workload's by default.
const OWN_LIFETIME: Duration = DAY;
const OPERATOR_LIFETIME: Duration = Duration::from_secs(180 * 86_400);
/// An operator's file that ends sooner is made anew at start.
const OPERATOR_LEFT: Duration = Duration::from_secs(30 * 86_400);
const OPERATOR_FILE: &str = "operator.yaml";
const CA_DIR: &str = "ca";

/// Loads the CA of `state_dir`, or makes one.
pub fn load(state_dir: &Path, td: &TrustDomain, clock: Arc<dyn Clock>) -> Result<CertificateAuthority, String> {
    let dir = state_dir.join(CA_DIR);
    CertificateAuthority::load_or_generate(&dir, td, clock).map_err(|error| format!("CA in {}: {error}", dir.display()))
}

/// The control plane's own identity, in a store that each handshake reads.
pub struct Own {
    pub store: Arc<IdentityStore>,
    pub authority: Arc<ArcSwap<CertificateAuthority>>,
    state_dir: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Own {
    pub fn new(authority: CertificateAuthority, state_dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let store = IdentityStore::new(authority.trust_domain().clone(), clock.clone());
        let authority = Arc::new(ArcSwap::from_pointee(authority));
        let own = Own { store, authority, state_dir: state_dir.to_path_buf(), clock };
        own.renew()?;
        Ok(own)
    }

    /// Issues a new leaf to ourselves; handshakes from now on show it.
    fn renew(&self) -> Result<(), String> {
        let authority = self.authority.load();
        let id = SpiffeId::control_plane(authority.trust_domain());
        let identity = issue(&authority, &id, OWN_LIFETIME, &*self.clock)?;
        tracing::info!(serial = %identity.serial, "own certificate issued");
        self.store.replace(identity).map(drop).map_err(|error| error.to_string())
    }

    /// Keeps the leaf and, once in its life, the issuing CA young. Never returns; to be cancelled.
    pub async fn keep_young(&self) {
        let mut failures = 0;
        loop {
            let wait = self.next(failures);
            tokio::time::sleep(wait).await;
            let reload = load(&self.state_dir, self.store.trust_domain(), self.clock.clone());
            let renewed = reload.and_then(|authority| {
                self.authority.store(Arc::new(authority));
                self.renew()
            });
            match renewed {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::error!(%error, failures, "own certificate not renewed");
                }
            }
        }
    }

    fn next(&self, failures: u32) -> Duration {
        let ms = |time: rustls::pki_types::UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1000) * 1000;
        let Some(current) = self.store.current() else {
            return Duration::from_secs(1);
        };
        let now = self.clock.now_ms();
        let jitter = rand::random::<f64>();
        if failures > 0 {
            return rotation::retry_after(failures, now, ms(current.not_after), jitter);
        }
        let at = rotation::next_renewal(now, ms(current.issued_at()), ms(current.not_after), jitter);
        // Never a busy loop, whatever the clock does.
        Duration::from_millis(u64::try_from(at - now).unwrap_or(0)).max(Duration::from_secs(1))
    }

    /// Valid now: without it nobody can connect.
    pub fn is_valid(&self) -> bool {
        self.store.current().is_some_and(|current| current.not_after > self.clock.now())
    }
}

fn issue(
    authority: &CertificateAuthority,
    id: &SpiffeId,
    lifetime: Duration,
    clock: &dyn Clock,
) -> Result<WorkloadIdentity, String> {
    let key = PrivateKey::generate().map_err(|error| error.to_string())?;
    let left = authority.issuing_not_after().as_secs().saturating_sub(clock.now().as_secs() + 60);
    let lifetime = lifetime.min(Duration::from_secs(left));
    let issued = authority.issue(&PublicKeyInfo::of(&key), id, lifetime, &[]).map_err(|error| error.to_string())?;
    WorkloadIdentity::from_issued(issued, key, authority.bundle(), clock.now()).map_err(|error| error.to_string())
}

/// `operator.yaml`, as the cli reads it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperatorFile {
    address: String,
    roots: String,
    certificate: String,
}

/// Makes `<state_dir>/operator.yaml` if it is not there, ends soon, or belongs to another address or root. Returns its
/// path if it was made.
pub fn write_operator(
    authority: &CertificateAuthority,
    state_dir: &Path,
    address: &str,
    clock: &dyn Clock,
) -> Result<Option<PathBuf>, String> {
    let path = state_dir.join(OPERATOR_FILE);
    let roots = pem::write(authority.bundle().roots(), None).map_err(|error| error.to_string())?;
    if is_current(&path, address, &roots, clock) {
        return Ok(None);
    }
    let id = SpiffeId::operator(authority.trust_domain(), "admin").map_err(|error| error.to_string())?;
    let identity = issue(authority, &id, OPERATOR_LIFETIME, clock)?;
    let certificate = pem::write(&identity.chain, None).map_err(|error| error.to_string())?;
    let key = pem::write(&[], Some(&identity.key)).map_err(|error| error.to_string())?;
    // Room for all of it at once: a String that grows leaves copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(4096 + 2 * (roots.len() + certificate.len() + key.len())));
    text.push_str(&format!("address: \"{address}\"\ntrustDomain: {}\n", authority.trust_domain()));
    for (name, pem) in [("roots", &roots), ("certificate", &certificate), ("key", &key)] {
        text.push_str(name);
        text.push_str(": |\n");
        for line in pem.lines() {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
    }
    replace(state_dir, OPERATOR_FILE, text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(path))
}

fn is_current(path: &Path, address: &str, roots: &str, clock: &dyn Clock) -> bool {
    let Ok(text) = fs::read_to_string(path).map(Zeroizing::new) else {
        return false;
    };
    let Ok(file) = serde_saphyr::from_str::<OperatorFile>(&text) else {
        return false;
    };
    let Ok(parts) = pem::parse(file.certificate.as_bytes()) else {
        return false;
    };
    let Ok(identity) = peer_identity(&parts.certificates) else {
        return false;
    };
    let lasts = identity.not_after.as_secs() > clock.now().as_secs() + OPERATOR_LEFT.as_secs();
    lasts && file.address == address && file.roots.trim() == roots.trim()
}

/// Mode 0600 from the first byte on, durable, in one step.
fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}
