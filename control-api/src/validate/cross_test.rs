//! Sets that do not fit together, and what is said about them.

use super::super::parse;
use super::*;

const BASE: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { trustDomain: shop.example, vipRanges: [10.96.0.0/16], floor: { transport: HttpsOnly, minTlsVersion: "1.2" } }
---
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
spec: { selector: { app: orders }, clusterIP: 10.96.0.10, ports: [{ port: 80 }] }
"#;

fn ours(kind: &str, metadata: &str, spec: &str) -> String {
    format!("apiVersion: mesh.isthmus.dev/v1alpha1\nkind: {kind}\nmetadata: {{ {metadata} }}\nspec: {{ {spec} }}\n")
}

fn findings(more: &str) -> Findings {
    let (parsed, problems) = parse("f", &format!("{BASE}---\n{more}"));
    assert_eq!(problems, [], "the documents themselves are sound");
    let set = parsed.into_iter().map(|p| Arc::new(p.resource)).collect();
    check(&set, &TrustDomain::parse("shop.example").unwrap())
}

#[test]
fn a_sound_set_has_no_findings() {
    let found = findings("");
    assert_eq!(found.faults, []);
    assert_eq!(found.warnings, Vec::<String>::new());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_misfit_is_told_on_the_resource_that_can_mend_it() {
    let shop = "namespace: shop, name: x";
    let table = [
        (ours("Site", "name: other", "ranges: [10.20.4.0/24]"), "spec.ranges[0]", "overlaps with 10.20.0.0/16"),
        (
            ours("Site", "name: a", "ranges: [10.31.0.0/16], seenAs: [10.20.0.1/32]")
                + "\n---\n"
                + &ours("Site", "name: b", "ranges: [10.32.0.0/16], seenAs: [10.20.0.0/24]"),
            "spec.seenAs[0]",
            "overlaps with 10.20.0.1/32",
        ),
        (
            ours("Site", "name: a", "ranges: [10.31.0.0/16], seenAs: [10.31.9.9/32]")
                + "\n---\n"
                + &ours("Workload", shop, "site: a, addresses: [10.31.9.9], serviceAccount: x"),
            "spec.addresses[0]",
            "is what Site a is seen as",
        ),
        (ours("Site", "name: vips", "ranges: [10.96.4.0/24]"), "spec.ranges[0]", "spec.vipRanges"),
        (ours("Link", "name: l", "sites: [dc1, dc2]"), "spec.sites[1]", "no Site `dc2`; did you mean `dc1`?"),
        (ours("Workload", shop, "site: dcl, addresses: [10.20.1.9], serviceAccount: a"), "spec.site", "did you mean `dc1`?"),
        (ours("Workload", shop, "site: dc1, addresses: [10.30.1.9], serviceAccount: a"), "spec.addresses[0]", "none of the ranges of site dc1"),
        (ours("Workload", shop, "site: dc1, addresses: [10.20.1.10], serviceAccount: a"), "spec.addresses[0]", "already belongs to Workload shop/orders"),
        (ours("Workload", "namespace: isthmus-system, name: x", "site: dc1, addresses: [10.20.1.9], serviceAccount: operator-me"), "metadata.namespace", "is kept for the control plane"),
        (ours("ServicePolicy", shop, "services: [order]"), "spec.services[0]", "no Service `order` in shop; did you mean `orders`?"),
        (ours("ServicePolicy", shop, "transport: Permissive"), "spec.transport", "Permissive is below the mesh's floor, HttpsOnly"),
        (ours("ServicePolicy", shop, "minTlsVersion: '1.1'"), "spec.minTlsVersion", "1.1 is below the mesh's floor, 1.2"),
        (ours("ServicePolicy", shop, "deny: [{ from: { sites: [mars] } }]"), "spec.deny[0].from.sites[0]", "no Site `mars`; there are dc1"),
        (ours("TrafficPolicy", shop, "services: [order], connect: early"), "spec.services[0]", "did you mean `orders`?"),
        (
            format!(
                "{}---\n{}",
                ours("TrafficPolicy", "namespace: shop, name: a", "services: [orders], connect: early"),
                ours("TrafficPolicy", "namespace: shop, name: b", "services: [orders], connect: confirm, proxyProtocol: v2"),
            ),
            "spec.services[0]",
            "connect is set for the same by TrafficPolicy a as well",
        ),
        (
            ours("TrafficPolicy", shop, "services: [orders], healthCheck: { tcp: true }"),
            "spec.services[0]",
            "their own sidecars say how they are",
        ),
        (
            ours("TrafficPolicy", shop, "healthCheck: { tcp: true }"),
            "spec.healthCheck",
            "holds for single services",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: { namespace: shop, name: y }\nspec: { clusterIP: 10.97.0.1, ports: [] }".to_string(),
            "spec.clusterIP",
            "none of MeshConfig's spec.vipRanges",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: { namespace: shop, name: y }\nspec: { clusterIP: 10.96.0.10, ports: [] }".to_string(),
            "spec.clusterIP",
            "already belongs to Service shop/orders",
        ),
        (
            "apiVersion: v1\nkind: Endpoints\nmetadata: { namespace: shop, name: order }\nsubsets: []".to_string(),
            "metadata.name",
            "did you mean `orders`?",
        ),
    ];
    for (yaml, field, reason) in table {
        let found = findings(&yaml).faults;
        assert_eq!(found.len(), 1, "for {yaml}: {found:#?}");
        assert_eq!(found[0].field, field, "for {yaml}");
        assert!(found[0].reason.contains(reason), "for {yaml}: {}", found[0].reason);
    }
}

#[test]
fn another_trust_domain_is_refused() {
    let (parsed, _) = parse("f", BASE);
    let set = parsed.into_iter().map(|p| Arc::new(p.resource)).collect();
    assert_eq!(check(&set, &TrustDomain::parse("bank.example").unwrap()).faults[0].field, "spec.trustDomain");
}

#[test]
fn what_is_rarely_meant_is_a_warning_only() {
    let found = findings(
        "apiVersion: v1\nkind: Service\nmetadata: { namespace: shop, name: y }\nspec: { selector: { app: no }, ports: [] }",
    );
    assert_eq!(found.faults, []);
    assert_eq!(found.warnings, ["Service shop/y: selects no Workload in shop (app=no)"]);
}
