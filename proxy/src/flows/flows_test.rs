//! From the workers' tables to what is reported.

use isthmus_certs::SpiffeId;

use super::*;
use crate::state::policy::Arrived;

fn observed(port: u16) -> Observed<'static> {
    Observed {
        way: Way::In,
        peer: None,
        ip: [10, 10, 1, 10].into(),
        port,
        arrived: Arrived::Plain,
        method: None,
        path: None,
        host: None,
        verdict: Verdict::Allowed,
        reason: None,
        policy: None,
        rule: None,
        audit: None,
    }
}

#[test]
fn the_workers_counts_are_merged_and_their_times_are_those_between_two_looks() {
    let (shipper, mut collector) = Collector::new(1_000);
    let (one, two) = (Flows::new(shipper.clone()), Flows::new(shipper));
    one.record(&observed(80));
    two.record(&observed(80));
    two.record(&observed(81));
    one.ship();
    two.ship();
    collector.merge(6_000);
    one.record(&observed(80));
    one.ship();
    collector.merge(9_000);
    let mut taken = collector.take(10).flows;
    taken.sort_by_key(|(key, _)| key.port);
    let counted: Vec<_> = taken.iter().map(|(key, counted)| (key.port, *counted)).collect();
    assert_eq!(
        counted,
        [
            (80, Counted { count: 3, first_ms: 1_000, last_ms: 9_000 }),
            (81, Counted { count: 1, first_ms: 1_000, last_ms: 6_000 }),
        ]
    );
    assert!(collector.is_empty());
}

#[test]
fn a_control_runtime_that_does_not_look_costs_no_count() {
    let (shipper, mut collector) = Collector::new(0);
    let flows = Flows::new(shipper);
    for _ in 0..500 {
        flows.record(&observed(80));
        flows.ship();
    }
    collector.merge(1);
    flows.ship();
    collector.merge(2);
    assert_eq!(collector.take(10).flows[0].1.count, 500);
}

#[test]
fn a_control_plane_that_is_away_for_long_costs_bounded_memory_and_what_is_lost_is_counted() {
    let (shipper, mut collector) = Collector::new(0);
    let flows = Flows::new(shipper);
    for round in 0..5u16 {
        for port in 0..4_000u16 {
            let id = SpiffeId::parse(&format!("spiffe://shop.example/ns/n{round}/sa/web")).unwrap();
            flows.record(&Observed { peer: Some(&id), ..observed(port + 1) });
        }
        flows.ship();
        collector.merge(1);
        // As if that worker had forgotten them, or were another one.
        *flows.table.borrow_mut() = FlowTable::default();
    }
    let taken = collector.take(usize::MAX);
    assert_eq!((taken.flows.len(), taken.dropped), (collect::MOST_HELD, 20_000 - collect::MOST_HELD as u64));
    assert_eq!(collector.dropped_in_all(), taken.dropped, "which the metric says, whoever can be told");
}
