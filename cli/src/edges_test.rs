//! From records to lines.

use isthmus_proto::flows::v1::{Departure, Flow};

use super::*;

fn places() -> Places {
    let mut places = Places::default();
    places.sites.insert("shop/orders".into(), "dc1".into());
    places.sites.insert("shop/web".into(), "azure".into());
    places.links.insert(("azure".into(), "dc1".into()), ["expressroute".to_owned()].into());
    places
}

fn came(account: &str, site: &str, transport: Transport, count: u64) -> wire::RecordedFlow {
    let identity = match transport {
        Transport::Mesh => format!("spiffe://shop.example/ns/shop/sa/{account}"),
        _ => String::new(),
    };
    let flow = Flow {
        identity,
        address: "10.20.1.99".into(),
        site: site.into(),
        port: 8080,
        transport: transport.into(),
        verdict: Verdict::Allowed.into(),
        count,
        last_seen_unix_ms: 7,
        ..Default::default()
    };
    wire::RecordedFlow {
        workload: "shop/orders".into(),
        services: vec!["shop/orders".into()],
        flow: Some(flow),
        ..Default::default()
    }
}

#[test]
fn each_pair_is_one_line_with_the_link_between_their_sites() {
    let left = Departure {
        host: "api.example".into(),
        read: true,
        port: 443,
        transport: Transport::Tls.into(),
        count: 2,
        ..Default::default()
    };
    let left = wire::RecordedFlow { workload: "shop/web".into(), departure: Some(left), ..Default::default() };
    let records = [
        came("web", "azure", Transport::Mesh, 3),
        came("web", "azure", Transport::Mesh, 4),
        came("batch", "dc1", Transport::Mesh, 1),
        came("", "dc1", Transport::Plaintext, 5),
        left,
    ];
    let places = places();
    let lines: Vec<_> =
        grouped(&records, &places).iter().map(|(edge, seen)| row(edge, seen, &places)[..5].join(" | ")).collect();
    assert_eq!(
        lines,
        [
            "10.20.1.99 | shop/orders:8080 | plaintext | dc1 | 5",
            "shop/batch | shop/orders:8080 | mTLS | dc1 | 1",
            "shop/web | api.example:443 | TLS | azure → (outside) | 2",
            "shop/web | shop/orders:8080 | mTLS | expressroute (azure → dc1) | 7",
        ]
    );
}
