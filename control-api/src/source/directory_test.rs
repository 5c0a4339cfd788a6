//! A directory that is right, that is half right, and that shrinks.

use super::sync;
use crate::index::Trust;
use crate::ledger::{Ledger, Proposal};
use crate::store::MemoryStore;
use crate::validate::parse;
use isthmus_certs::{ManualClock, TrustDomain};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn ledger() -> Ledger {
    let trust = Trust {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        roots_der: vec![],
        revocations: Default::default(),
        issuing: Default::default(),
    };
    Ledger::open(Arc::new(MemoryStore::new()), trust, Arc::new(ManualClock::at_ms(0))).unwrap()
}

fn site(name: &str, range: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: {{ name: {name} }}\nspec: {{ ranges: [{range}] }}\n"
    )
}

fn names(ledger: &Ledger) -> Vec<String> {
    ledger.world().resources.keys().map(|key| key.name.clone()).collect()
}

fn write(dir: &Path, file: &str, text: &str) {
    fs::write(dir.join(file), text).unwrap();
}

#[test]
fn a_faulty_file_keeps_what_it_last_said_and_disturbs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger();
    write(dir.path(), "a.yaml", &site("a", "10.1.0.0/16"));
    write(dir.path(), "b.yaml", &site("b", "10.2.0.0/16"));
    write(dir.path(), "notes.txt", "not a resource");
    assert_eq!(sync(&ledger, dir.path()).unwrap().problems, []);
    assert_eq!(names(&ledger), ["a", "b"]);

    write(dir.path(), "a.yaml", "kind: Sit");
    write(dir.path(), "b.yaml", &site("b", "10.3.0.0/16"));
    write(dir.path(), "c.yaml", &site("c", "10.3.4.0/24"));
    let report = sync(&ledger, dir.path()).unwrap();
    assert!(report.problems.iter().any(|p| p.source.ends_with("a.yaml")));
    assert!(report.problems.iter().any(|p| p.source.ends_with("c.yaml") && p.reason.contains("overlaps")));
    assert_eq!(names(&ledger), ["a", "b"]);
}

#[test]
fn a_file_that_is_gone_takes_its_resources_with_it_but_a_directory_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger();
    write(dir.path(), "a.yaml", &site("a", "10.1.0.0/16"));
    write(dir.path(), "b.yaml", &site("b", "10.2.0.0/16"));
    sync(&ledger, dir.path()).unwrap();
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    sync(&ledger, dir.path()).unwrap();
    assert_eq!(names(&ledger), ["b"]);
    let report = sync(&ledger, &dir.path().join("gone")).unwrap();
    assert_eq!(report.problems.len(), 1);
    assert_eq!(names(&ledger), ["b"]);
}

#[test]
fn a_resource_belongs_to_the_source_that_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger();
    write(dir.path(), "a.yaml", &site("a", "10.1.0.0/16"));
    sync(&ledger, dir.path()).unwrap();
    let by_api = |name: &str, range: &str| {
        let puts = parse("-", &site(name, range)).0;
        ledger.propose(&Proposal { puts, ..Proposal::default() }, false).unwrap()
    };
    let refused = by_api("a", "10.9.0.0/16");
    assert!(refused.problems[0].reason.contains("comes from the file"), "{refused:?}");
    by_api("x", "10.8.0.0/16");
    write(dir.path(), "x.yaml", &site("x", "10.7.0.0/16"));
    let report = sync(&ledger, dir.path()).unwrap();
    assert!(report.problems[0].reason.contains("applied through the API"), "{report:?}");
    fs::remove_file(dir.path().join("x.yaml")).unwrap();
    sync(&ledger, dir.path()).unwrap();
    assert_eq!(names(&ledger), ["a", "x"]);
}
