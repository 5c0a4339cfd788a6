//! What a report may say of time and place.

use super::*;
use crate::index::{Index, Trust, Wanted};
use crate::ledger::World;
use crate::validate::parse;
use isthmus_certs::TrustDomain;

#[test]
fn times_are_those_of_the_control_plane_and_sites_those_of_the_mesh() {
    let site = |name: &str, range: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: {{ name: {name} }}\nspec: {{ ranges: [{range}] }}\n"
        )
    };
    let (parsed, problems) = parse("f", &format!("{}---\n{}", site("wide", "10.0.0.0/8"), site("dc1", "10.20.0.0/16")));
    assert_eq!(problems, []);
    let resources: crate::validate::set::Set = parsed.into_iter().map(|p| Arc::new(p.resource)).collect();
    let trust = Trust {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        roots_der: Vec::new(),
        revocations: Default::default(),
        issuing: Default::default(),
    };
    let vips = Default::default();
    let index = Arc::new(Index::build(Wanted { set: &resources, vips: &vips, trust: &trust }));
    let world = World { resources, index, ..World::default() };
    let settled = |address: &str, first: i64, last: i64| {
        let mut flow = wire::Flow {
            address: address.into(),
            site: "forged".into(),
            first_seen_unix_ms: first,
            last_seen_unix_ms: last,
            ..Default::default()
        };
        settle(&mut flow, &world, 10_000, 5_000);
        (flow.site, flow.first_seen_unix_ms, flow.last_seen_unix_ms)
    };
    assert_eq!(settled("10.20.1.1", 8_000, 9_000), ("dc1".into(), 8_000, 9_000));
    assert_eq!(settled("10.9.1.1", 0, 1), ("wide".into(), 5_000, 5_000));
    assert_eq!(settled("", 9_000, i64::MAX), (String::new(), 9_000, 10_000));
}
