//! What a backup keeps, and what going back to it must not bring back.

use super::*;
use crate::audit::{AuditLog, Event, What};
use crate::store::{Change, EmbeddedStore, Put, Store, TokenRecord, TokenState, Wrap, open};
use crate::validate::ResourceRef;
use isthmus_certs::{Clock, ManualClock};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const NOW: i64 = 1_800_000_000_000;

struct Host {
    dir: tempfile::TempDir,
    config: Config,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let text = format!("trustDomain: shop.example\nstateDir: {}\nadvertise: \"10.0.0.1:15012\"\n", state.display());
        let path = dir.path().join("control.yaml");
        fs::write(&path, text).unwrap();
        Host { config: Config::load(&path).unwrap(), dir }
    }

    fn state(&self) -> &Path {
        &self.config.state_dir
    }

    fn store(&self) -> EmbeddedStore {
        isthmus_certs::private_file::make_dir(self.state()).unwrap();
        EmbeddedStore::open(&open::file(self.state())).unwrap()
    }

    /// Two resources, three tokens, a revocation, a CA and an audit log.
    fn fill(&self) {
        let store = Arc::new(self.store());
        let ca = self.state().join("ca/second");
        isthmus_certs::private_file::make_dir(&ca).unwrap();
        isthmus_certs::private_file::replace(&ca, "root.pem", b"a root").unwrap();
        commit(&*store, 0, &["a", "b"]);
        for id in ["fresh", "spent"] {
            assert!(store.swap_token(id, None, Some(&token(id))).unwrap());
        }
        use_up(&*store, "spent");
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_ms(NOW));
        let audit = AuditLog::open(&self.state().join("audit"), store.clone(), clock).unwrap();
        audit.append(Event { what: What::Issued, ..Event::default() }).unwrap();
        assert!(store.swap_fact("revoked/id/x", None, Some(&json!({ "epoch": 1 }))).unwrap());
        assert!(store.swap_fact("confirm/pending", None, Some(&json!({ "revision": 9 }))).unwrap());
    }

    fn take(&self) -> Archive {
        take(&self.config, self.store().dump().unwrap(), NOW).unwrap()
    }
}

fn commit(store: &dyn Store, after: u64, names: &[&str]) {
    let put = |name: &&str| Put { key: ResourceRef::new("Site", "", name), json: json!({}), origin: "api".to_string() };
    let change = Change { puts: names.iter().map(put).collect(), ..Change::default() };
    store.commit(after, &change).unwrap();
}

fn token(id: &str) -> TokenRecord {
    TokenRecord {
        id: id.to_string(),
        secret_sha256: [7; 32],
        workload: "shop/web".to_string(),
        spiffe_id: "spiffe://shop.example/ns/shop/sa/web".to_string(),
        created_unix_ms: NOW,
        expires_unix_ms: NOW + 3_600_000,
        state: TokenState::Unused,
    }
}

fn use_up(store: &dyn Store, id: &str) {
    let seen = store.token(id).unwrap().unwrap();
    let used = TokenRecord { state: TokenState::Used { key_sha256: [1; 32], at_unix_ms: NOW }, ..seen.clone() };
    assert!(store.swap_token(id, Some(&seen), Some(&used)).unwrap());
}

#[test]
fn a_backup_is_read_back_whole_or_not_at_all() {
    let host = Host::new();
    host.fill();
    let archive = host.take();
    assert_eq!((archive.dump.resources.len(), archive.files.len(), archive.header.revision), (2, 2, 1));
    let bytes = archive.write(None).unwrap();
    assert_eq!(Archive::read("b", &bytes, None).unwrap(), archive);
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(Archive::read("b", &damaged, None).is_err(), "byte {at}");
        assert!(Archive::read("b", &bytes[..at], None).is_err(), "cut at {at}");
    }
    let seal = Wrap::cheap("correct horse battery");
    let sealed = archive.write(Some(&seal)).unwrap();
    let text = String::from_utf8_lossy(&sealed);
    assert!(!text.contains("shop.example") && !text.contains("Site"), "readable though sealed");
    assert_eq!(Archive::read("b", &sealed, Some(&seal)).unwrap(), archive);
    assert!(Archive::read("b", &sealed, None).unwrap_err().to_string().contains("--passphrase-file"));
    assert!(Archive::read("b", &sealed, Some(&Wrap::cheap("another one"))).is_err());
    for path in ["../x", "ca/../../x", "/etc/passwd", "operator.yaml", "ca"] {
        let files = vec![(PathBuf::from(path), vec![1])];
        let out = Archive { files, ..archive.clone() }.write(None).unwrap();
        assert!(Archive::read("b", &out, None).unwrap_err().to_string().contains("leads out"), "{path}");
    }
}

#[test]
fn on_the_same_host_nothing_that_was_used_or_revoked_since_comes_back() {
    let host = Host::new();
    host.fill();
    let archive = host.take();
    {
        let store = host.store();
        commit(&store, 1, &["c"]);
        use_up(&store, "fresh");
        assert!(store.swap_fact("revoked/id/y", None, Some(&json!({ "epoch": 5 }))).unwrap());
        assert!(store.swap_token("late", None, Some(&token("late"))).unwrap());
    }
    let before = host.store().dump().unwrap();
    let refused = restore(&host.config, &archive, false, NOW).unwrap_err();
    assert!(matches!(&refused, BackupError::InTheWay(why) if why.contains("--force")), "{refused}");
    assert_eq!(host.store().dump().unwrap(), before, "refused, and yet something changed");

    let done = restore(&host.config, &archive, true, NOW).unwrap();
    let store = host.store();
    let dump = store.dump().unwrap();
    assert!(done.audit_goes_on && done.tokens_revoked == 0, "{done:?}");
    assert_eq!((done.resources, dump.resources.len()), (2, 2));
    assert!(dump.revision == done.revision && dump.revision > 1 << 20, "a proxy would refuse an older view");
    assert!(matches!(store.token("fresh").unwrap().unwrap().state, TokenState::Used { .. }));
    assert!(store.token("late").unwrap().is_some(), "its fate is known here");
    assert!(store.fact("revoked/id/x").unwrap().is_some() && store.fact("revoked/id/y").unwrap().is_some());
    assert_eq!(store.fact("confirm/pending").unwrap(), None);
    assert_eq!(store.fact("audit/head").unwrap().as_ref(), before.facts.get("audit/head"));
    let former = EmbeddedStore::open(&done.former.unwrap()).unwrap();
    assert_eq!(former.dump().unwrap(), before, "the store that was there is kept");
    AuditLog::open(&host.state().join("audit"), Arc::new(store), Arc::new(ManualClock::at_ms(NOW))).unwrap();
}

#[test]
fn on_a_new_host_a_token_that_may_have_been_used_is_revoked() {
    let (old, new) = (Host::new(), Host::new());
    old.fill();
    let archive = old.take();
    let done = restore(&new.config, &archive, false, NOW).unwrap();
    assert_eq!((done.files, done.tokens_revoked, done.audit_goes_on, done.former.clone()), (2, 1, false, None));
    let store = new.store();
    assert_eq!(store.token("fresh").unwrap().unwrap().state, TokenState::Revoked);
    assert!(matches!(store.token("spent").unwrap().unwrap().state, TokenState::Used { .. }));
    assert!(store.fact("revoked/id/x").unwrap().is_some());
    let root = new.state().join("ca/second/root.pem");
    assert_eq!(fs::read(&root).unwrap(), b"a root");
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o600);
    let log = AuditLog::open(&new.state().join("audit"), Arc::new(store), Arc::new(ManualClock::at_ms(NOW))).unwrap();
    assert_eq!(log.head().seq, 1, "the record goes on where the backup has it");
    drop(log);
    // The CA that is there may have been rotated since: it stays.
    fs::write(&root, b"a later root").unwrap();
    restore(&new.config, &archive, true, NOW + 1).unwrap();
    assert_eq!(fs::read(&root).unwrap(), b"a later root");
}

#[test]
fn another_mesh_and_another_audit_log_are_refused() {
    let (host, other) = (Host::new(), Host::new());
    host.fill();
    let archive = host.take();
    let mut config = other.config.clone();
    config.trust_domain = "other.example".to_string();
    assert!(matches!(restore(&config, &archive, true, NOW), Err(BackupError::OtherMesh { .. })));
    // A log of its own, as long as the backup's.
    other.fill();
    let audit = Arc::new(other.store());
    let log = AuditLog::open(&other.state().join("audit"), audit, Arc::new(ManualClock::at_ms(NOW + 5))).unwrap();
    drop(log);
    fs::remove_dir_all(other.state().join("audit")).unwrap();
    fs::create_dir(other.state().join("audit")).unwrap();
    let foreign = EmbeddedStore::open(&other.dir.path().join("foreign.redb")).unwrap();
    let clock = Arc::new(ManualClock::at_ms(NOW + 5));
    let log = AuditLog::open(&other.state().join("audit"), Arc::new(foreign), clock).unwrap();
    log.append(Event { what: What::Renewed, ..Event::default() }).unwrap();
    let refused = restore(&other.config, &archive, true, NOW).unwrap_err();
    assert!(matches!(&refused, BackupError::InTheWay(why) if why.contains("audit log")), "{refused}");
}
