//! On a full disk nothing acknowledged is lost, what cannot be written is refused, and with room again it goes on. The disk
//! is a small tmpfs, which needs root or a user namespace to mount: the test starts itself in one.

use super::*;
use crate::flows::store::FlowStore;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const DISK: &str = "ISTHMUS_TEST_FULL_DISK";

fn site(n: u64) -> Change {
    let json = json!({ "n": n, "ballast": "x".repeat(20_000) });
    let put = Put { key: ResourceRef::new("Site", "", &format!("s{n}")), json, origin: "api".to_string() };
    Change { puts: vec![put], ..Change::default() }
}

#[test]
fn the_writer_on_the_small_disk() {
    let Ok(dir) = std::env::var(DISK) else { return };
    let dir = Path::new(&dir);
    let path = dir.join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    let flows = [dir.join("flows.redb"), dir.join("no-flows-yet.redb")];
    drop(FlowStore::open(&flows[0]).unwrap());
    std::fs::write(dir.join("ballast"), vec![0; 1 << 20]).unwrap();
    let mut revision = 0;
    let refused = loop {
        match store.commit(revision, &site(revision + 1)) {
            Ok(next) => revision = next,
            Err(error) => break error,
        }
        assert!(revision < 10_000, "the disk is not small");
    };
    assert!(matches!(&refused, StoreError::Io(why) if why.contains("space") || why.contains("redb")), "{refused}");
    assert!(revision > 5, "{revision}");
    drop(store);
    // Full still: it starts, and holds all that was acknowledged.
    let held = EmbeddedStore::open(&path).and_then(|store| store.load());
    if let Ok(contents) = &held {
        whole(contents, revision);
    }
    // Neither do records of the past hold it up, and they are not taken for damaged.
    for flows in &flows {
        FlowStore::open(flows).unwrap().size().unwrap();
        assert!(!flows.with_extension("redb.damaged").exists());
    }
    std::fs::remove_file(dir.join("ballast")).unwrap();
    let store = EmbeddedStore::open(&path).unwrap();
    let contents = store.load().unwrap();
    whole(&contents, revision);
    let next = store.commit(contents.revision, &site(contents.revision + 1)).unwrap();
    println!("full at {revision}, started while full: {}, went on to {next}", held.is_ok());
    assert!(held.is_ok(), "does not start on a full disk: {held:?}");
}

/// All that was acknowledged, and at most one that was not, none of it by halves.
fn whole(contents: &Contents, acknowledged: u64) {
    assert!(contents.revision == acknowledged || contents.revision == acknowledged + 1, "{}", contents.revision);
    assert_eq!(contents.resources.len() as u64, contents.revision);
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=6m tmpfs \"$0\" && exec \"$@\"";
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::full_disk_test::the_writer_on_the_small_disk", "--nocapture"])
        .env(DISK, dir.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    if said.contains("unshare failed") || said.contains("mount:") {
        assert!(
            std::env::var_os("CI").is_none(),
            "no mount namespace, and CI promised that nothing is skipped: {said}"
        );
        eprintln!("SKIPPED: no mount namespace: {said}");
        return;
    }
    assert!(ran.status.success() && said.contains("full at"), "{said}");
    eprintln!("{said}");
}
