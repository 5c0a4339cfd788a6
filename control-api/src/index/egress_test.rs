//! What the workloads of a small mesh are told of the outside.

use super::index_test::{set, trust};
use super::*;
use isthmus_proto::model::{self, Action, Body, EgressDefault, RuleMode, Transport};

const MESH: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16], resolvers: [10.20.0.53] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: web, labels: { app: web } }
spec: { site: dc1, addresses: [10.20.1.11], serviceAccount: web }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: bank, name: till }
spec: { site: dc1, addresses: [10.20.1.12], serviceAccount: till }
"#;

fn mesh_config(spec: &str) -> String {
    format!("apiVersion: mesh.isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{ name: mesh }}\nspec: {{ {spec} }}\n")
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{ namespace: shop, name: {name} }}\nspec: {{ {spec} }}\n"
    )
}

fn index(documents: &[String]) -> Index {
    let set = set(&format!("{MESH}---\n{}", documents.join("---\n")));
    Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust() })
}

fn egress(index: &Index, workload: &str) -> model::Egress {
    let view = index.view(workload, &BTreeSet::new()).unwrap();
    let wire = wire::Resource::clone(view.get(&ResourceKey::Egress).unwrap());
    let delta = wire::Delta { version: 1, upserts: vec![wire], ..Default::default() };
    let (delta, problems) = model::Delta::read(delta);
    assert_eq!(problems, []);
    match delta.upserts.into_iter().next().unwrap().body {
        Ok(Body::Egress(egress)) => *egress,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_says_nothing_restricts_nobody_and_needs_nothing_new_of_proxies() {
    let index = index(&[]);
    let told = egress(&index, "shop/web");
    assert_eq!(told.enforced, EgressDefault::default());
    assert_eq!((told.allow.len(), told.deny.len(), told.audited), (0, 0, None));
    assert!(index.mesh["dc1"].requires.is_empty());
}

#[test]
fn a_proxy_that_does_not_know_of_egress_is_told_that_it_must() {
    for documents in [vec![mesh_config("egress: { default: Deny }")], vec![policy("out", "default: Deny")]] {
        assert_eq!(index(&documents).mesh["dc1"].requires, ["egress/v1"]);
    }
}

#[test]
fn an_allow_list_makes_deny_the_default_of_whom_it_selects() {
    let index = index(&[policy(
        "out",
        "workloads: { matchLabels: { app: web } }, allow: [{ hosts: [a.example], ports: [443] }]",
    )]);
    let web = egress(&index, "shop/web");
    assert_eq!((web.enforced.action, web.enforced.action_from.as_deref()), (Action::Deny, Some("shop/out")));
    assert_eq!(web.allow.len(), 1);
    for other in ["shop/orders", "bank/till"] {
        assert_eq!(egress(&index, other).enforced.action, Action::Allow, "{other}");
    }
}

#[test]
fn the_most_specific_default_holds_and_the_strictest_transport() {
    let index = index(&[
        mesh_config("egress: { default: Deny, transport: HttpsOnly }"),
        policy("a", "default: Allow"),
        policy(
            "b",
            "workloads: { matchLabels: { app: web } }, default: Deny, transport: Permissive, minTlsVersion: \"1.3\"",
        ),
    ]);
    let web = egress(&index, "shop/web").enforced;
    assert_eq!((web.action, web.action_from.as_deref()), (Action::Deny, Some("shop/b")));
    // Its policy says so; that the mesh allows it is checked by the floor.
    assert_eq!((web.transport, web.transport_from.as_deref()), (Transport::Permissive, Some("shop/b")));
    let orders = egress(&index, "shop/orders").enforced;
    assert_eq!((orders.action, orders.transport), (Action::Allow, Transport::HttpsOnly));
    let till = egress(&index, "bank/till").enforced;
    assert_eq!((till.action, till.action_from, till.transport), (Action::Deny, None, Transport::HttpsOnly));
}

#[test]
fn an_audit_policy_enforces_nothing_and_tells_what_it_would() {
    let told =
        egress(&index(&[policy("try", "mode: Audit, transport: HttpsOnly, allow: [{ ports: [443] }]")]), "shop/web");
    assert_eq!(told.enforced, EgressDefault::default());
    let audited = told.audited.unwrap();
    assert_eq!((audited.action, audited.transport), (Action::Deny, Transport::HttpsOnly));
    assert_eq!(told.allow[0].mode, RuleMode::Audit);
}

#[test]
fn a_change_reaches_those_whom_it_concerns() {
    let before = set(MESH);
    let (vips, trust) = (Vips::default(), trust());
    let old = Index::build(Wanted { set: &before, vips: &vips, trust: &trust });
    let out = policy("out", "workloads: { matchLabels: { app: web } }, default: Deny");
    let after = set(&format!("{MESH}---\n{out}"));
    let keys = [ResourceRef::new("EgressPolicy", "shop", "out")];
    let difference = Difference { before: &before, keys: &keys, vips: &vips, given: &Given::new(), trust: false };
    let (_, changed) = old.apply(Wanted { set: &after, vips: &vips, trust: &trust }, difference);
    assert_eq!(changed.inbound.into_iter().collect::<Vec<_>>(), ["shop/web"]);
}
