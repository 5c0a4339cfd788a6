//! What there is before anything listens: store, record, CA, trust, ledger; and how the trust is read again where another
//! control plane has changed it.

use super::{AUDIT_DIR, ControlError};
use crate::audit::AuditLog;
use crate::authority::{self, Authorities, Own, shared};
use crate::config::Config;
use crate::confirm;
use crate::flows::store::FlowStore;
use crate::history::Keep;
use crate::identity::issuer::Issuer;
use crate::identity::{restore, revocation};
use crate::index::Trust;
use crate::ledger::Ledger;
use crate::ledger::follow::ReadTrust;
use crate::store::{self, Store, StoreError};
use isthmus_certs::{Clock, TrustDomain};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opening waits for the disk and makes keys.
pub(super) async fn open_aside(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<Ledger>, Own, Arc<FlowStore>), ControlError> {
    let (config, clock) = (config.clone(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || open(&config, clock)).await;
    opened.map_err(|error| ControlError::Authority(error.to_string()))?
}

fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<(Arc<Ledger>, Own, Arc<FlowStore>), ControlError> {
    let trust_domain = TrustDomain::parse(&config.trust_domain)?;
    let dir = &config.state_dir;
    let state_dir = |source| ControlError::StateDir { dir: dir.display().to_string(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(state_dir)?;
    // The store first: its lock keeps a second control plane from making a second CA.
    shared::check(config).map_err(ControlError::Authority)?;
    let store = store::open::configured(config)?;
    let audit = AuditLog::open(&dir.join(AUDIT_DIR), store.clone(), clock.clone())?;
    let vault = authority::vault(&config.authority).map_err(ControlError::Authority)?;
    let load = || Authorities::load(dir, &trust_domain, vault.clone(), clock.clone());
    let authorities = one_ca(&*store, dir, load).map_err(ControlError::Authority)?;
    let audit = Arc::new(audit);
    let issuer = Arc::new(Issuer::new(Arc::new(authorities), audit.clone())?);
    let (tokens, revocations) = restore::catch_up(&issuer, &*store)?;
    if tokens + revocations > 0 {
        tracing::warn!(
            tokens,
            revocations,
            "the store is older than the audit log: what was used up or revoked stays so"
        );
    }
    let own = Own::new(issuer.clone(), clock.clone()).map_err(ControlError::Authority)?;
    let revocations = revocation::in_force(&revocation::list(&*store)?, clock.now().as_secs());
    let revocations = revocation::signed(revocations, &own.store);
    own.store.revoke(revocations.clone());
    let roots_der = issuer.authorities().bundle().roots().iter().map(|root| root.to_vec()).collect();
    let issuing = authority::rotation::issuing(&issuer, clock.now_ms());
    let trust = Trust { trust_domain, roots_der, revocations: Arc::new(revocations), issuing };
    let flows = Arc::new(FlowStore::open(&dir.join("flows.redb"))?);
    let keep = Keep { revisions: config.history.revisions, age: config.history.age };
    let ledger = Ledger::open(store, trust, clock)?.keeping(keep).recorded_in(audit);
    confirm::forget_unborn(&**ledger.store(), ledger.world().revision)?;
    Ok((Arc::new(ledger), own, flows))
}

/// Loads the CA, or makes it; where others share the store, it is theirs.
fn one_ca(
    store: &dyn Store,
    dir: &Path,
    load: impl Fn() -> Result<Authorities, String>,
) -> Result<Authorities, String> {
    if !store.is_shared() || shared::fetch(store, dir)? {
        return load();
    }
    let made = load()?;
    if shared::offer(store, dir)? {
        return Ok(made);
    }
    shared::put_aside(dir)?;
    shared::fetch(store, dir)?;
    load()
}

/// What another control plane did to roots and revocations, read from where it is kept.
pub(super) fn read_trust(own: Arc<Own>, store: Arc<dyn Store>, dir: PathBuf) -> ReadTrust {
    let failed = |why: String| StoreError::Damaged { what: "roots and revocations".to_string(), why };
    Box::new(move |trust: &Trust| {
        let authorities = own.authorities();
        let before = authorities.bundle();
        shared::fetch(&*store, &dir).and_then(|_| authorities.reload()).map_err(failed)?;
        if authorities.bundle() != before {
            own.renew().map_err(failed)?;
        }
        let now_ms = own.issuer.audit().now_ms();
        let records = revocation::list(&*store).map_err(|error| failed(error.to_string()))?;
        let revocations = revocation::in_force(&records, u64::try_from(now_ms / 1000).unwrap_or(0));
        let revocations = revocation::signed(revocations, &own.store);
        own.store.revoke(revocations.clone());
        let roots_der = authorities.bundle().roots().iter().map(|root| root.to_vec()).collect();
        let issuing = authority::rotation::issuing(&own.issuer, now_ms);
        Ok(Trust { roots_der, revocations: Arc::new(revocations), issuing, ..trust.clone() })
    })
}
