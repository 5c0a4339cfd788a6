//! Every example of deploy/examples is applied as it is, together with its neighbours, without a fault or a warning.

use crate::index::Trust;
use crate::ledger::Ledger;
use crate::source::sync;
use crate::store::MemoryStore;
use isthmus_certs::{ManualClock, TrustDomain};
use std::path::Path;
use std::sync::Arc;

#[test]
fn the_two_sites_example_is_sound() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/two-sites");
    let trust = Trust {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        roots_der: vec![],
        revocations: Default::default(),
        issuing: Default::default(),
    };
    let ledger = Ledger::open(Arc::new(MemoryStore::new()), trust, Arc::new(ManualClock::at_ms(0))).unwrap();
    let report = sync(&ledger, &dir).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.outcome.warnings, Vec::<String>::new());
    let world = ledger.world();
    let names: Vec<String> = world.resources.keys().map(ToString::to_string).collect();
    for expected in
        ["MeshConfig mesh", "Site dc1", "Workload shop/orders", "Service shop/orders-db", "ServicePolicy shop/orders"]
    {
        assert!(names.iter().any(|name| name == expected), "{expected} is not in {names:?}");
    }
    assert!(world.index.identity_of("shop/web").is_some());
}
