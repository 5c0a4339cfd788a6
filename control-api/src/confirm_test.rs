//! Changes that end by themselves, on a ledger and a clock of the test's own.

use super::*;
use crate::index::Trust;
use crate::store::MemoryStore;
use crate::validate::parse;
use isthmus_certs::{ManualClock, TrustDomain};

const NOW: i64 = 1_800_000_000_000;

/// A log of the test's own; its directory lives as long.
fn audit(clock: &ManualClock) -> (tempfile::TempDir, AuditLog) {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(&dir.path().join("audit"), Arc::new(MemoryStore::new()), Arc::new(clock.clone())).unwrap();
    (dir, log)
}

fn site(name: &str, range: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: {{ name: {name} }}\nspec: {{ ranges: [{range}] }}\n"
    )
}

fn proposal(yaml: &str) -> Proposal {
    let (puts, problems) = parse("t.yaml", yaml);
    assert_eq!(problems, []);
    Proposal { puts, ..Proposal::default() }
}

fn ledger(store: &Arc<MemoryStore>, clock: &ManualClock) -> Ledger {
    let trust = Trust {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        roots_der: Vec::new(),
        revocations: Default::default(),
        issuing: Default::default(),
    };
    Ledger::open(store.clone(), trust, Arc::new(clock.clone())).unwrap()
}

/// dc1 is there; then, to be confirmed within a minute, dc1 is another and dc2 is new.
fn waiting(store: &Arc<MemoryStore>, clock: &ManualClock) -> Ledger {
    let ledger = ledger(store, clock);
    ledger.propose(&proposal(&site("dc1", "10.1.0.0/16")), false).unwrap();
    let change = proposal(&format!("{}---\n{}", site("dc1", "10.9.0.0/16"), site("dc2", "10.2.0.0/16")));
    let first = |world: &World, change: &Change| note(&**ledger.store(), world, change, NOW + 60_000, "ann");
    assert_eq!(ledger.propose_after(&change, false, first).unwrap().revision, 2);
    ledger
}

fn ranges(ledger: &Ledger) -> Vec<String> {
    let world = ledger.world();
    let of = |resource: &Arc<crate::validate::resource::Resource>| match &resource.spec {
        Spec::Site(site) => format!("{} {}", resource.key.name, site.ranges[0]),
        _ => panic!(),
    };
    world.resources.values().map(of).collect()
}

#[test]
fn what_nobody_confirms_is_taken_back_also_after_a_restart() {
    for restarted in [false, true] {
        let (store, clock) = (Arc::new(MemoryStore::new()), ManualClock::at_ms(NOW));
        let (dir, log) = audit(&clock);
        let mut ledger = waiting(&store, &clock);
        look(&ledger, &log).unwrap();
        assert_eq!(ranges(&ledger), ["dc1 10.9.0.0/16", "dc2 10.2.0.0/16"]);
        let refused = nobody_waits(&**ledger.store(), 2);
        assert!(matches!(&refused, Err(StoreError::Waiting { revision: 2, operator }) if operator == "ann"));
        if restarted {
            ledger = self::ledger(&store, &clock);
            forget_unborn(&*store, ledger.world().revision).unwrap();
        }
        clock.set_ms(NOW + 60_000);
        look(&ledger, &log).unwrap();
        assert_eq!(ranges(&ledger), ["dc1 10.1.0.0/16"]);
        nobody_waits(&*store, ledger.world().revision).unwrap();
        let revision = ledger.world().revision;
        look(&ledger, &log).unwrap();
        assert_eq!(ledger.world().revision, revision, "once is enough");
        let mut said = Vec::new();
        crate::audit::segments::read_all(&dir.path().join("audit"), None, |line| said.push(line.to_owned())).unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("rolled-back") && said[0].contains("revision 2 of operator ann"), "{said:?}");
    }
}

#[test]
fn what_is_confirmed_stays() {
    let (store, clock) = (Arc::new(MemoryStore::new()), ManualClock::at_ms(NOW));
    let (_dir, log) = audit(&clock);
    let ledger = waiting(&store, &clock);
    let found = pending(&*store, 2).unwrap().unwrap();
    assert!(confirm(&*store, &found).unwrap());
    assert!(!confirm(&*store, &found).unwrap());
    clock.set_ms(NOW + 120_000);
    look(&ledger, &log).unwrap();
    assert_eq!(ranges(&ledger), ["dc1 10.9.0.0/16", "dc2 10.2.0.0/16"]);
}

#[test]
fn a_crash_before_the_commit_leaves_nothing_to_take_back() {
    let (store, clock) = (Arc::new(MemoryStore::new()), ManualClock::at_ms(NOW));
    let ledger = ledger(&store, &clock);
    let crash = |world: &World, change: &Change| {
        note(&*store, world, change, NOW + 60_000, "ann")?;
        Err(StoreError::Io("the power went".into()))
    };
    ledger.propose_after(&proposal(&site("dc1", "10.1.0.0/16")), false, crash).unwrap_err();
    forget_unborn(&*store, 0).unwrap();
    // The next change gets the number that the lost one would have had.
    let ledger = self::ledger(&store, &clock);
    ledger.propose(&proposal(&site("dc2", "10.2.0.0/16")), false).unwrap();
    clock.set_ms(NOW + 60_000);
    let (_dir, log) = audit(&clock);
    look(&ledger, &log).unwrap();
    assert_eq!(ranges(&ledger), ["dc2 10.2.0.0/16"]);
}
