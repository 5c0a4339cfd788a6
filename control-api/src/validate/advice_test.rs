//! What is hardly meant, and that what is meant is not talked about.

use super::super::parse;
use super::*;
use std::sync::Arc;

const BASE: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: web }
spec: { site: dc1, addresses: [10.20.1.11], serviceAccount: web }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { selector: { app: orders }, ports: [{ port: 80, targetPort: 8080 }, { name: redis, port: 6379, appProtocol: tcp }] }
"#;

/// `field: reason`
fn advice(spec: &str) -> Vec<String> {
    let policy = format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: p }}\nspec: {{ services: [orders], {spec} }}\n"
    );
    let (parsed, problems) = parse("f", &format!("{BASE}---\n{policy}"));
    assert_eq!(problems, [], "{spec}");
    let set: Set = parsed.into_iter().map(|parsed| Arc::new(parsed.resource)).collect();
    let policy = set.of_kind("ServicePolicy", None).next().unwrap();
    of(&set, policy, "shop.example", 1_000).into_iter().map(|a| format!("{}: {}", a.field, a.reason)).collect()
}

#[test]
fn what_is_hardly_meant_is_told() {
    for (spec, expected) in [
        (
            "allow: [{ from: { serviceAccounts: [wbe] } }]",
            "spec.allow[0].from.serviceAccounts[0]: matches nobody: no Workload runs as `wbe`",
        ),
        ("allow: [{ from: { serviceAccounts: [webb] } }]", "did you mean `web`?"),
        (
            "allow: [{ from: { namespaces: [shopp] } }]",
            "spec.allow[0].from.namespaces[0]: matches nobody: no Workload is in namespace `shopp`; did you mean `shop`?",
        ),
        (
            "allow: [{ from: { identities: ['spiffe://shop.example/ns/shop/sa/wep'] } }]",
            "no Workload runs as `shop/wep`; did you mean `shop/web`?",
        ),
        (
            "allow: [{ to: { ports: [80] } }]",
            "spec.allow[0].to.ports[0]: no app that it selects listens on 80 (8080, 6379); 80 is the Service's port, whose app listens on 8080: did you mean `8080`?",
        ),
        ("allow: [{ until: '1970-01-01T00:00:01Z' }]", "spec.allow[0].until: is over"),
        ("allow: [{ to: { methods: [GET], notMethods: [GET, PUT] } }]", "spec.allow[0].to.notMethods: leaves nothing"),
        ("allow: [{ to: { grpc: [a.B], methods: [GET] } }]", "spec.allow[0].to.methods: gRPC is POST"),
        (
            "allow: [{ from: { identities: ['spiffe://shop.example/ns/shop/sa/web'], namespaces: [bank] } }]",
            "spec.allow[0].from.namespaces: none of `identities`",
        ),
        (
            "allow: [{ to: { paths: ['/a/*'] } }, { to: { paths: ['/a/b', '/a/{id}'] } }]",
            "spec.allow[1]: changes nothing: spec.allow[0] matches all that it does",
        ),
        (
            "allow: [{ from: { cidrs: [10.0.0.0/8] } }, { from: { cidrs: [10.1.0.0/16] }, to: { methods: [GET] } }]",
            "spec.allow[1]: changes nothing",
        ),
        (
            "deny: [{}], allow: [{ from: { serviceAccounts: [web] } }]",
            "spec.allow[0]: never allows: spec.deny[0] refuses all that it matches",
        ),
        ("deny: [{ to: { paths: ['/admin*'] } }]", "spec.deny[0]: also closes port 6379, which carries no HTTP"),
        ("deny: [{ to: { headers: [{ name: x-a }] } }]", "spec.deny[0]: also closes port 6379, which carries no HTTP"),
        (
            "allow: [{ from: { cidrs: [10.1.0.0/16], notCidrs: [10.0.0.0/8] } }]",
            "spec.allow[0].from.notCidrs: leaves nothing",
        ),
        ("allow: [{ to: { grpc: [a.B/C], notGrpc: [a.B/C] } }]", "spec.allow[0].to.notGrpc: leaves nothing"),
        (
            "allow: [{ from: { identities: ['spiffe://shop.example/ns/*'] } }, { from: { identities: ['spiffe://shop.example/ns/shop/sa/web'] } }]",
            "spec.allow[1]: changes nothing",
        ),
    ] {
        let found = advice(spec);
        assert!(found.iter().any(|text| text.contains(expected)), "{spec}: {found:#?}");
    }
}

#[test]
fn what_is_meant_is_not_talked_about() {
    for spec in [
        "allow: [{ from: { serviceAccounts: [web] }, to: { ports: [8080], methods: [GET] } }]",
        "allow: [{ from: { serviceAccounts: ['*/web'] } }, { from: { identities: ['spiffe://shop.example/ns/shop/*'] } }]",
        "allow: [{ from: { serviceAccounts: [web] }, until: '2030-01-01T00:00:00Z' }, { from: { serviceAccounts: [web] } }]",
        "allow: [{ to: { paths: ['/a/*'], notPaths: ['/a/b'] } }, { to: { paths: ['/a/b'] } }]",
        "allow: [{ to: { paths: ['/a/{id}'] } }, { to: { paths: ['/a/{id}/*'] } }]",
        "deny: [{ to: { ports: [8080], paths: ['/admin*'] } }]",
        "deny: [{ to: { methods: [PUT], ports: [8080] } }], allow: [{ from: { serviceAccounts: [web] } }]",
        "allow: [{ from: { cidrs: [10.0.0.0/8], notCidrs: [10.1.0.0/16] } }]",
        "allow: [{ to: { paths: ['/a/{id}/*'] } }, { to: { paths: ['/a/{id}/b'] } }]",
        "allow: [{ from: { trustDomains: [partner.example], serviceAccounts: [x] } }]",
        "allow: [{ from: { serviceAccounts: [web] } }, { from: { serviceAccounts: [web] }, mode: Audit }]",
    ] {
        assert_eq!(advice(spec), Vec::<String>::new(), "{spec}");
    }
}

/// What is said of `shop/p`, which is about orders, beside another policy.
fn beside(other: &str, spec: &str) -> Vec<String> {
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: {name} }}\nspec: {{ {spec} }}\n"
        )
    };
    let (other, mine) = (policy("other", other), policy("p", &format!("services: [orders], {spec}")));
    let (parsed, problems) = parse("f", &format!("{BASE}---\n{other}---\n{mine}"));
    assert_eq!(problems, [], "{spec}");
    let set: Set = parsed.into_iter().map(|parsed| Arc::new(parsed.resource)).collect();
    let mine = set.of_kind("ServicePolicy", None).find(|policy| policy.key.name == "p").unwrap();
    of(&set, mine, "shop.example", 1_000).into_iter().map(|a| format!("{}: {}", a.field, a.reason)).collect()
}

#[test]
fn a_rule_that_another_policy_makes_idle_is_told_of_and_no_other() {
    let web = "allow: [{ from: { serviceAccounts: [web] } }]";
    for (other, spec, expected) in [
        (
            "deny: [{ from: { namespaces: [shop] } }]",
            "allow: [{ from: { namespaces: [shop] }, to: { methods: [GET] } }]",
            vec!["spec.allow[0]: never allows: spec.deny[0] of ServicePolicy shop/other refuses all that it matches"],
        ),
        (
            "services: [orders], allow: [{ from: { serviceAccounts: [web] } }]",
            web,
            vec!["spec.allow[0]: changes nothing: spec.allow[0] of ServicePolicy shop/other matches all that it does"],
        ),
        (
            "deny: [{ to: { methods: [PUT], ports: [8080] } }]",
            "deny: [{ to: { methods: [PUT], ports: [8080] }, from: { serviceAccounts: [web] } }]",
            vec!["spec.deny[0]: changes nothing: spec.deny[0] of ServicePolicy shop/other matches all that it does"],
        ),
        // It applies elsewhere, or only in Audit, or is narrower.
        ("services: [web], deny: [{}]", web, vec![]),
        ("workloads: { matchLabels: { app: orders } }, deny: [{}]", web, vec![]),
        ("mode: Audit, deny: [{}]", web, vec![]),
        ("allow: [{ from: { serviceAccounts: [web] }, to: { methods: [GET] } }]", web, vec![]),
    ] {
        assert_eq!(beside(other, spec), expected, "{other} beside {spec}");
    }
}

/// Names of another tenant are no hints, and who may not call is nobody.
#[test]
fn another_tenants_callers_are_as_if_they_were_not_there() {
    let bank = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\nmetadata: { namespace: bank, name: ledger }\n\
                spec: { site: dc1, addresses: [10.20.2.10], serviceAccount: ledger }\n";
    let tenants: String = [("red", "shop"), ("blue", "bank")]
        .iter()
        .map(|(name, namespace)| {
            format!(
                "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Tenant\nmetadata: {{ name: {name} }}\n\
                 spec: {{ namespaces: [{namespace}] }}\n"
            )
        })
        .collect();
    let policy = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: { namespace: shop, name: p }\n\
                  spec: { services: [orders], allow: [{ from: { serviceAccounts: [bank/ledgr] } }, \
                  { from: { serviceAccounts: [bank/ledger] } }] }\n";
    let told = |tenants: &str| {
        let (parsed, problems) = parse("f", &format!("{BASE}---\n{bank}{tenants}---\n{policy}"));
        assert_eq!(problems, []);
        let set: Set = parsed.into_iter().map(|parsed| Arc::new(parsed.resource)).collect();
        let policy = set.of_kind("ServicePolicy", None).next().unwrap();
        of(&set, policy, "shop.example", 1_000).into_iter().map(|a| a.reason).collect::<Vec<_>>()
    };
    let open = told("");
    assert_eq!(
        open,
        ["matches nobody: no Workload runs as `bank/ledgr`; did you mean `bank/ledger`?"],
        "the control arm"
    );
    let closed = told(&tenants);
    let nobody = |name: &str| format!("matches nobody: no Workload runs as `{name}`");
    assert_eq!(closed, [nobody("bank/ledgr"), nobody("bank/ledger")]);
}
