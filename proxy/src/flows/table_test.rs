//! What is counted together, and what happens when there is too much of it.

use super::*;

fn observed<'a>(peer: &'a SpiffeId, path: &'a str) -> Observed<'a> {
    Observed {
        way: Way::In,
        peer: Some(peer),
        ip: [10, 10, 1, 10].into(),
        port: 8080,
        arrived: Arrived::Mesh,
        method: Some("GET"),
        path: Some(path),
        host: None,
        verdict: Verdict::Allowed,
        reason: None,
        policy: Some("shop/orders"),
        rule: Some(0),
        audit: None,
    }
}

fn web() -> SpiffeId {
    SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").unwrap()
}

#[test]
fn the_same_is_counted_together_and_a_difference_in_anything_apart() {
    let (mut table, web) = (FlowTable::default(), web());
    let batch = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/batch").unwrap();
    let base = observed(&web, "/orders/1");
    table.record(&base);
    table.record(&observed(&web, "/orders/2"));
    let different = [
        Observed { way: Way::Out, ..base },
        Observed { way: Way::OutUnread, ..base },
        Observed { peer: None, ..base },
        Observed { peer: Some(&batch), ..base },
        Observed { ip: [10, 10, 1, 11].into(), ..base },
        Observed { port: 8081, ..base },
        Observed { arrived: Arrived::Plain, ..base },
        Observed { arrived: Arrived::AppTls { version: None, declared: true }, ..base },
        Observed { method: Some("POST"), ..base },
        Observed { method: None, path: None, ..base },
        Observed { path: Some("/"), ..base },
        Observed { host: Some("orders.shop"), ..base },
        Observed { verdict: Verdict::Refused, reason: Some(Reason::NotAllowed), ..base },
        Observed { verdict: Verdict::WouldRefuse, reason: Some(Reason::NotAllowed), ..base },
        Observed { policy: None, ..base },
        Observed { rule: Some(1), ..base },
        Observed { rule: None, ..base },
        Observed { audit: Some((Reason::NotAllowed, Some("shop/new"))), ..base },
        Observed { audit: Some((Reason::NotAllowed, None)), ..base },
    ];
    different.iter().for_each(|one| table.record(one));
    let drained = table.drain();
    assert_eq!(drained.counts.len(), 1 + different.len());
    let first = drained.counts.iter().find(|(_, count)| *count == 2).expect("the two orders");
    assert_eq!(first.0.path.as_deref(), Some("/orders/{id}"));
    // Nothing new: the ways are known, and cost nothing until they are seen again.
    assert!(table.drain().counts.is_empty());
    table.record(&base);
    let again = table.drain();
    assert!(matches!(&again.counts[..], [(key, 1)] if Arc::ptr_eq(key, &first.0)));
}

#[test]
fn a_flood_of_callers_is_counted_with_less_detail_and_then_only_counted() {
    let (mut table, web) = (FlowTable::default(), web());
    let floods = 100_000u32;
    for n in 0..floods {
        let ip = IpAddr::V6((u128::from(n) + 1).into());
        table.record(&Observed { peer: None, ip, arrived: Arrived::Plain, ..observed(&web, "/") });
    }
    for port in 1..=2_000 {
        table.record(&Observed { port, ..observed(&web, "/") });
    }
    let drained = table.drain();
    assert_eq!(drained.counts.len(), MOST_KEYS + MOST_COARSE);
    let coarse = drained.counts.iter().find(|(key, _)| key.peer.is_none() && key.ip.is_none()).unwrap();
    assert_eq!(coarse.0.path.as_deref(), Some("other"));
    let counted: u64 = drained.counts.iter().map(|(_, count)| count).sum();
    assert_eq!(counted + drained.dropped, u64::from(floods) + 2_000, "every decision is somewhere");
    assert!(drained.dropped > 0);
    // What is not seen again makes room.
    for _ in 0..IDLE {
        table.drain();
    }
    table.record(&observed(&web, "/new"));
    assert_eq!(table.drain().counts.len(), 1);
}

#[test]
fn methods_and_hosts_are_bounded() {
    let (mut table, web) = (FlowTable::default(), web());
    let host = "h".repeat(300);
    for n in 0..100 {
        let method = format!("M{n}");
        table.record(&Observed { method: Some(&method), host: Some(&host), ..observed(&web, "/") });
    }
    let drained = table.drain();
    assert_eq!(drained.counts.len(), MOST_METHODS + 1);
    assert!(drained.counts.iter().any(|(key, count)| key.method.as_deref() == Some("other") && *count == 68));
    assert!(drained.counts.iter().all(|(key, _)| key.host.as_deref() == Some("other")));
}
