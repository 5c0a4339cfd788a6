//! The CA in use and, while roots are changed, the one that comes or goes. `ca/authorities.json` says which is which; it
//! is replaced in one step, so a kill at any moment leaves the step done or not begun.

use arc_swap::ArcSwap;
use isthmus_certs::private_file::replace;
use isthmus_certs::vault::{CaKey, Kept, KeyVault};
use isthmus_certs::{CertificateAuthority, Clock, RootFingerprint, TrustBundle, TrustDomain};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) const CA_DIR: &str = "ca";
pub(super) const MANIFEST: &str = "authorities.json";

/// What the other CA is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Trusted, and issues nothing yet.
    Coming,
    /// Issues no longer, and is trusted until nobody hangs on it.
    Leaving,
}

/// The CA beside the one in use.
#[derive(Clone)]
pub struct Other {
    pub authority: Arc<CertificateAuthority>,
    pub role: Role,
    pub since_unix_ms: i64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    /// Directories below `ca`; empty: `ca` itself, where the first one is.
    active: String,
    other: Option<Second>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Second {
    directory: String,
    role: Role,
    since_unix_ms: i64,
}

struct Held {
    manifest: Manifest,
    active: Arc<CertificateAuthority>,
    other: Option<Other>,
    bundle: TrustBundle,
}

/// Who signs, and whom everybody trusts. Readers take the present state; it is replaced as a whole.
pub struct Authorities {
    dir: PathBuf,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    vault: Arc<dyn KeyVault>,
    held: ArcSwap<Held>,
    /// One step at a time. Holds the key of a request that was carried away to be signed.
    step: Mutex<Option<CaKey>>,
}

impl Authorities {
    /// Loads what `state_dir` holds, or makes the first CA.
    pub fn load(
        state_dir: &Path,
        trust_domain: &TrustDomain,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let dir = state_dir.join(CA_DIR);
        let manifest = read_manifest(&dir)?;
        let load = |directory: &str| load(&dir.join(directory), trust_domain, &vault, &clock);
        let active = Arc::new(load(&manifest.active)?);
        let other = match &manifest.other {
            Some(second) => Some(Other {
                authority: Arc::new(load(&second.directory)?),
                role: second.role,
                since_unix_ms: second.since_unix_ms,
            }),
            None => None,
        };
        let held = ArcSwap::from_pointee(Held::new(manifest, active, other)?);
        let (trust_domain, step) = (trust_domain.clone(), Mutex::default());
        Ok(Authorities { dir, trust_domain, clock, vault, held, step })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Who issues to workloads and operators.
    pub fn active(&self) -> Arc<CertificateAuthority> {
        self.held.load().active.clone()
    }

    /// Who issues the control plane's own leaf, and whose root join tokens name: the leaving one until it is gone, so that
    /// what was handed out before goes on working.
    pub fn own(&self) -> Arc<CertificateAuthority> {
        let held = self.held.load();
        match &held.other {
            Some(Other { authority, role: Role::Leaving, .. }) => authority.clone(),
            _ => held.active.clone(),
        }
    }

    pub fn other(&self) -> Option<Other> {
        self.held.load().other.clone()
    }

    /// The roots that everybody trusts.
    pub fn bundle(&self) -> TrustBundle {
        self.held.load().bundle.clone()
    }

    /// Takes what is on disk now: another control plane has changed it.
    pub fn reload(&self) -> Result<(), String> {
        let _one_at_a_time = self.step();
        let manifest = read_manifest(&self.dir)?;
        let load = |directory: &str| load(&self.dir.join(directory), &self.trust_domain, &self.vault, &self.clock);
        let active = Arc::new(load(&manifest.active)?);
        let other = match &manifest.other {
            Some(second) => Some(Other {
                authority: Arc::new(load(&second.directory)?),
                role: second.role,
                since_unix_ms: second.since_unix_ms,
            }),
            None => None,
        };
        self.held.store(Arc::new(Held::new(manifest, active, other)?));
        Ok(())
    }

    /// Renews issuing CAs once in their lives, and keeps the new ones on disk.
    pub fn keep_young(&self) -> Result<(), String> {
        let _one_at_a_time = self.step();
        let before = self.held.load_full();
        let load = |directory: &str| load(&self.dir.join(directory), &self.trust_domain, &self.vault, &self.clock);
        let active = Arc::new(load(&before.manifest.active)?);
        let other = match (&before.manifest.other, &before.other) {
            (Some(second), Some(other)) => {
                Some(Other { authority: Arc::new(load(&second.directory)?), ..other.clone() })
            }
            _ => None,
        };
        self.held.store(Arc::new(Held::new(before.manifest.clone(), active, other)?));
        Ok(())
    }

    /// Makes a new root, with keys where the settings now say, and trusts it beside the one in use.
    pub fn start(&self) -> Result<(), String> {
        let _one_at_a_time = self.step();
        self.alone()?;
        let made = CertificateAuthority::generate_in(&self.trust_domain, self.vault.clone(), self.clock.clone());
        self.add(made.map_err(|error| error.to_string())?)
    }

    /// A request for an intermediate, signed with a key that stays here until the answer is imported.
    pub fn request(&self) -> Result<Vec<u8>, String> {
        let mut pending = self.step();
        self.alone()?;
        let label = format!("isthmus intermediate {}", self.trust_domain);
        let key = self.vault.generate(&label).map_err(|error| error.to_string())?;
        let request = isthmus_certs::ca::request(&self.trust_domain, &key).map_err(|error| error.to_string())?;
        let kept = key.keep(None).map_err(|error| error.to_string())?;
        isthmus_certs::ca::save_pending(&self.dir, &kept).map_err(|error| error.to_string())?;
        *pending = Some(key);
        Ok(request)
    }

    /// Takes the intermediate that was made for the last [`request`](Self::request), with the chain above it, and trusts
    /// its root beside the one in use.
    pub fn import(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let mut pending = self.step();
        self.alone()?;
        let key = match pending.take() {
            Some(key) => key,
            None => self.pending()?,
        };
        let (td, vault, clock) = (&self.trust_domain, self.vault.clone(), self.clock.clone());
        let imported = CertificateAuthority::imported(td, key.clone(), chain, vault, clock);
        match imported.map_err(|error| error.to_string()).and_then(|imported| self.add(imported)) {
            Ok(()) => isthmus_certs::ca::forget_pending(&self.dir).map_err(|error| error.to_string()),
            Err(error) => {
                // A wrong file is no reason to carry a new request around.
                *pending = Some(key);
                Err(error)
            }
        }
    }

    /// Issues from the coming CA; the one in use until now leaves. A leaving one is taken back the same way.
    pub fn exchange(&self) -> Result<(), String> {
        let _one_at_a_time = self.step();
        let before = self.held.load_full();
        let (Some(second), Some(other)) = (&before.manifest.other, &before.other) else {
            return Err("there is no second CA; `isthmus ca rotate start` makes one".to_string());
        };
        let since_unix_ms = self.clock.now_ms();
        let left = Second { directory: before.manifest.active.clone(), role: Role::Leaving, since_unix_ms };
        let manifest = Manifest { active: second.directory.clone(), other: Some(left) };
        let leaving = Other { authority: before.active.clone(), role: Role::Leaving, since_unix_ms };
        self.publish(Held::new(manifest, other.authority.clone(), Some(leaving))?)
    }

    /// Trusts the second CA no longer. Its files stay, for whoever has to look into the past.
    pub fn drop_other(&self) -> Result<(), String> {
        let _one_at_a_time = self.step();
        let before = self.held.load_full();
        let manifest = Manifest { active: before.manifest.active.clone(), other: None };
        self.publish(Held::new(manifest, before.active.clone(), None)?)
    }

    fn alone(&self) -> Result<(), String> {
        match &self.held.load().other {
            None => Ok(()),
            Some(_) => Err("a rotation is under way; see `isthmus ca rotate status`".to_string()),
        }
    }

    fn pending(&self) -> Result<CaKey, String> {
        let kept: Option<Kept> = isthmus_certs::ca::load_pending(&self.dir).map_err(|error| error.to_string())?;
        let kept = kept.ok_or("nothing was asked for; make a request with `isthmus ca csr` first")?;
        self.vault.open(&kept, None).map_err(|error| error.to_string())
    }

    fn add(&self, authority: CertificateAuthority) -> Result<(), String> {
        let before = self.held.load_full();
        let root = RootFingerprint::of(authority.root()).to_string();
        let since_unix_ms = self.clock.now_ms();
        // The root may be one that was used before: a company's own, under which the intermediate is renewed.
        let directory = format!("{}-{since_unix_ms}", &root[..16]);
        authority.save(&self.dir.join(&directory)).map_err(|error| error.to_string())?;
        let second = Second { directory, role: Role::Coming, since_unix_ms };
        let manifest = Manifest { active: before.manifest.active.clone(), other: Some(second) };
        let other = Other { authority: Arc::new(authority), role: Role::Coming, since_unix_ms };
        self.publish(Held::new(manifest, before.active.clone(), Some(other))?)
    }

    fn publish(&self, held: Held) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(&held.manifest).map_err(|error| error.to_string())?;
        let path = self.dir.join(MANIFEST);
        replace(&self.dir, MANIFEST, &text).map_err(|error| format!("{}: {error}", path.display()))?;
        self.held.store(Arc::new(held));
        Ok(())
    }

    fn step(&self) -> MutexGuard<'_, Option<CaKey>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn new(manifest: Manifest, active: Arc<CertificateAuthority>, other: Option<Other>) -> Result<Self, String> {
        let roots = [Some(&active), other.as_ref().map(|other| &other.authority)];
        let roots = roots.into_iter().flatten().map(|authority| authority.root());
        let bundle = TrustBundle::from_ders(roots).map_err(|error| error.to_string())?;
        Ok(Held { manifest, active, other, bundle })
    }
}

fn read_manifest(dir: &Path) -> Result<Manifest, String> {
    let path = dir.join(MANIFEST);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Manifest::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn load(
    dir: &Path,
    td: &TrustDomain,
    vault: &Arc<dyn KeyVault>,
    clock: &Arc<dyn Clock>,
) -> Result<CertificateAuthority, String> {
    CertificateAuthority::load_or_generate(dir, td, vault.clone(), clock.clone())
        .map_err(|error| format!("CA in {}: {error}", dir.display()))
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self.held.load();
        let other = held.other.as_ref().map(|other| (other.role, &other.authority));
        write!(f, "Authorities({:?}, other {other:?}, {:?})", held.active, self.vault)
    }
}
