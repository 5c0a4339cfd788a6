//! Which Enforcement counts, and what a Bypass does to it.

use super::index_test::{set, trust};
use super::*;
use isthmus_proto::model::{self, Standing};

const MESH: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders-db }
spec: { selector: { app: orders }, ports: [{ name: pg, port: 5432 }, { name: http, port: 80, targetPort: 8080 }] }
"#;

fn kind(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: {kind}\nmetadata: {{ namespace: shop, name: {name} }}\nspec: {{ {spec} }}\n"
    )
}

/// The standing of ports 8080 (of `orders` and `orders-db`), 5432 (of `orders-db`) and undeclared ones.
fn standings(more: &[String]) -> [Standing; 3] {
    let set = set(&[&[MESH.to_owned()], more].concat().join("---\n"));
    assert_eq!(cross::check(&set, &trust().trust_domain).faults, []);
    let index = Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust() });
    let resource = (*index.workloads["shop/orders"].inbound).clone();
    let Some(wire::resource::Body::Inbound(inbound)) = resource.body else { panic!() };
    let inbound = model::Inbound::try_from(inbound).unwrap();
    assert_eq!(inbound.problems().count(), 0, "this build reads what it writes");
    let of = |port: u16| inbound.ports.iter().find(|p| p.port == port).unwrap().standing;
    [of(8080), of(5432), inbound.default_standing]
}

#[test]
fn the_most_specific_counts_and_of_two_services_the_stricter() {
    let (observe, enforce) = (Some(model::Enforcement::Observe), Some(model::Enforcement::Enforce));
    let enforced = |all: &[String]| standings(all).map(|standing| standing.enforcement);
    assert_eq!(enforced(&[]), [None, None, None]);
    let namespace = kind("Enforcement", "all", "mode: Enforce");
    assert_eq!(enforced(std::slice::from_ref(&namespace)), [enforce; 3]);
    let db = kind("Enforcement", "db", "services: [orders-db], mode: Observe");
    assert_eq!(enforced(&[namespace.clone(), db.clone()]), [observe, observe, enforce]);
    let orders = kind("Enforcement", "orders", "services: [orders], mode: Enforce");
    assert_eq!(enforced(&[db, orders]), [enforce, observe, None]);
}

#[test]
fn a_bypass_opens_what_it_names_until_its_end_and_the_latest_end_counts() {
    let bypasses = |all: &[String]| standings(all).map(|standing| standing.bypass_until_ms);
    let (early, late) = (Some(1_800_000_000_000), Some(1_800_000_060_000));
    let orders = kind("Bypass", "orders", "services: [orders], until: 2027-01-15T08:00:00Z");
    assert_eq!(bypasses(std::slice::from_ref(&orders)), [early, None, None]);
    let all = kind("Bypass", "all", "until: 2027-01-15T08:01:00Z, operator: root, reason: test");
    assert_eq!(bypasses(&[orders, all]), [late, late, late]);
}

#[test]
fn refusals_that_are_carried_out_need_a_proxy_that_can_read_it() {
    let set = set(&format!("{MESH}---\n{}", kind("Enforcement", "all", "mode: Enforce")));
    let index = Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust() });
    let Some(wire::resource::Body::Inbound(inbound)) = &index.workloads["shop/orders"].inbound.body else { panic!() };
    let policies = inbound.ports.iter().map(|p| p.policy.clone().unwrap()).chain(inbound.default_policy.clone());
    for policy in policies {
        assert!(policy.requires.iter().any(|name| name == "standing/v1"), "{policy:?}");
    }
}
