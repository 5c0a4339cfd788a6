//! A process that is killed while it writes loses nothing that it has acknowledged, and leaves no half of a commit.
//!
//! The test starts itself as the writer, reads the acknowledged revisions from its output, kills it with SIGKILL after
//! some of them, and opens the store.

use super::*;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const STORE: &str = "ISTHMUS_TEST_KILLED_STORE";

/// Each commit writes two resources with the same number, so that half a commit would show.
fn pair(number: u64) -> Change {
    let put = |name: &str| Put {
        key: ResourceRef::new("Site", "", name),
        json: json!({ "n": number, "ballast": "x".repeat(5000) }),
        origin: "api".to_string(),
    };
    Change { puts: vec![put("left"), put("right")], ..Change::default() }
}

#[test]
fn the_writer_that_gets_killed() {
    let Ok(path) = std::env::var(STORE) else { return };
    let store = EmbeddedStore::open(path.as_ref()).unwrap();
    let mut revision = store.load().unwrap().revision;
    let mut out = std::io::stdout();
    loop {
        revision = store.commit(revision, &pair(revision + 1)).unwrap();
        writeln!(out, "acknowledged {revision}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost_to_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut known = 0;
    for round in 1..=8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::killed_test::the_writer_that_gets_killed", "--nocapture"])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged = lines.filter_map(|line| line.ok()?.split("acknowledged ").nth(1)?.parse::<u64>().ok());
        known = acknowledged.take(round * 3).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let contents = EmbeddedStore::open(&path).unwrap().load().unwrap();
        assert!(contents.revision >= known, "revision {} lost; {known} was acknowledged", contents.revision);
        let numbers: Vec<_> = contents.resources.values().map(|r| r.json["n"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [contents.revision, contents.revision], "half a commit");
    }
    assert!(known >= 8);
}
