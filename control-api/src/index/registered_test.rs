//! Whom a callee is told of, and who is told anew when somebody behind a NAT comes, goes or moves.

use super::index_test::{set, trust};
use super::*;
use crate::validate::ResourceRef;

const SITES: &str = "
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: branch }
spec: { ranges: [10.30.0.0/16], seenAs: [10.20.0.1/32] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
";

fn workload(name: &str, site: &str, address: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\nmetadata: {{ namespace: shop, name: {name} }}\n\
         spec: {{ site: {site}, addresses: [{address}], serviceAccount: till }}\n---\n"
    )
}

fn policy(rule: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: p }}\n\
         spec: {{ allow: [{{ {rule} }}] }}\n---\n"
    )
}

const BY_ADDRESS: &str = "from: { cidrs: [10.30.1.0/24] }";

fn built(documents: &str) -> (Set, Index) {
    let set = set(&format!("{SITES}{documents}"));
    let index = Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust() });
    (set, index)
}

fn inbound(index: &Index) -> wire::Inbound {
    let view = index.view("shop/orders", &BTreeSet::new()).unwrap();
    match &view.get(&ResourceKey::Inbound).unwrap().body {
        Some(wire::resource::Body::Inbound(inbound)) => inbound.clone(),
        other => panic!("{other:?}"),
    }
}

/// `spiffe id, site: addresses`
fn told(index: &Index) -> Vec<String> {
    let one = |r: wire::Registered| format!("{}, {}: {}", r.spiffe_id, r.site, r.addresses.join(" "));
    inbound(index).registered.into_iter().map(one).collect()
}

#[test]
fn a_callee_with_rules_on_addresses_is_told_who_is_behind_a_nat() {
    let tills = workload("till-1", "branch", "10.30.1.11") + &workload("till-2", "branch", "10.30.1.12");
    let here = workload("till-3", "dc1", "10.20.1.13");
    let (_, index) = built(&format!("{tills}{here}{}", policy(BY_ADDRESS)));
    assert_eq!(told(&index), ["spiffe://shop.example/ns/shop/sa/till, branch: 10.30.1.11 10.30.1.12"]);
    let (_, without) = built(&format!("{tills}{}", policy("from: { sites: [branch] }")));
    assert_eq!(told(&without), [""; 0], "its site is known by what is seen");
}

#[test]
fn a_proxy_that_does_not_know_of_it_must_not_read_such_rules() {
    for (rule, named) in [(BY_ADDRESS, true), ("from: { notSites: [branch] }", true), ("to: { ports: [80] }", false)] {
        let (_, index) = built(&policy(rule));
        let rules = inbound(&index).default_policy.unwrap().allow;
        assert_eq!(rules[0].requires.iter().any(|name| name == "seen-as/v1"), named, "{rule}");
    }
    let plain = SITES.replace(", seenAs: [10.20.0.1/32]", "") + &policy(BY_ADDRESS);
    let set = set(&plain);
    let index = Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust() });
    assert_eq!(inbound(&index).default_policy.unwrap().allow[0].requires, ["rules/v1"], "where no site has any");
}

#[test]
fn another_tenants_are_not_told() {
    let tenant = |name: &str, namespace: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Tenant\nmetadata: {{ name: {name} }}\n\
             spec: {{ namespaces: [{namespace}] }}\n---\n"
        )
    };
    let bank = workload("till-1", "branch", "10.30.1.11").replace("namespace: shop", "namespace: bank");
    let all = format!("{bank}{}{}{}", tenant("a", "shop"), tenant("b", "bank"), policy(BY_ADDRESS));
    assert_eq!(told(&built(&all).1), [""; 0]);
    let (_, open) = built(&format!("{bank}{}", policy(BY_ADDRESS)));
    assert_eq!(told(&open), ["spiffe://shop.example/ns/bank/sa/till, branch: 10.30.1.11"]);
}

/// The next index is the one that would be built anew, and the callee is told.
#[test]
fn who_moves_behind_a_nat_concerns_those_with_such_rules() {
    let start = workload("till-1", "branch", "10.30.1.11") + &policy(BY_ADDRESS);
    let (before, index) = built(&start);
    for next in [
        workload("till-1", "branch", "10.30.9.9") + &policy(BY_ADDRESS),
        workload("till-1", "dc1", "10.20.1.11") + &policy(BY_ADDRESS),
        policy(BY_ADDRESS),
    ] {
        let (after, anew) = built(&next);
        let vips = Vips::default();
        let difference = Difference {
            before: &before,
            keys: &[ResourceRef::new("Workload", "shop", "till-1")],
            vips: &vips,
            given: &Given::default(),
            trust: false,
        };
        let (then, changed) = index.apply(Wanted { set: &after, vips: &vips, trust: &trust() }, difference);
        assert!(then == anew, "{next}");
        assert!(changed.inbound.contains("shop/orders"), "{next}");
    }
}
