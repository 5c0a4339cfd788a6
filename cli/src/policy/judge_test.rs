//! What the engine says of traffic of which not everything is known.

use isthmus_proxy::reason::Reason;

use super::*;
use crate::policy::views::Views;

const MESH: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { trustDomain: shop.example, enforcement: Enforce }
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
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: shop, name: orders }
spec:
  services: [orders]
"#;

/// What is said of `change`d GET /orders/{id} by web, under these rules.
fn judged(rules: &str, change: impl FnOnce(&mut Asked)) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.yaml");
    std::fs::write(&file, format!("{MESH}{rules}\n")).unwrap();
    let views = Views::of_files(&[file]).unwrap();
    let http = AskedHttp { method: Some("GET".into()), path: Some("/orders/{id}".into()), ..AskedHttp::default() };
    let mut asked = Asked {
        peer: SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").ok(),
        ip: Some([10, 20, 1, 11].into()),
        port: 8080,
        arrived: Arrived::Mesh,
        http: Some(http),
        now_ms: 0,
    };
    change(&mut asked);
    judge(&views, views.callee("shop/orders").unwrap(), &asked)
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allowed(_) => "allowed".into(),
        Verdict::Refused(found) => found.reason.map(Reason::word).unwrap_or_default().into(),
        Verdict::CannotTell(missing) => missing.iter().cloned().collect::<Vec<_>>().join(","),
    }
}

#[test]
fn what_is_not_known_matters_only_where_a_rule_asks_for_it() {
    for (rules, expected) in [
        ("  allow: [{ from: { serviceAccounts: [web] } }]", "allowed"),
        ("  allow: [{ from: { serviceAccounts: [batch] } }]", "not-allowed"),
        ("  allow: [{ to: { paths: [\"/orders/{order}\"] } }]", "allowed"),
        ("  allow: [{ to: { paths: [\"/orders/*\"] } }]", "allowed"),
        ("  allow: [{ to: { paths: [/orders/7] } }]", "path"),
        ("  allow: [{ to: { paths: [/items] } }]", "not-allowed"),
        ("  deny: [{ to: { paths: [/orders/7] } }]", "path"),
        ("  allow: [{ to: { hosts: [orders.shop] } }]", "host"),
        ("  allow: [{ to: { headers: [{ name: x-team, values: [a] }] } }]", "header x-team"),
        ("  allow: [{ to: { headers: [{ name: x-a }, { name: x-b, values: ['1'] }] } }]", "header x-a,header x-b"),
        ("  deny: [{ to: { headers: [{ name: x-role, values: [guest] }] } }]", "header x-role"),
        ("  allow: [{ to: { headers: [{ name: x-team, values: [a] }], hosts: [orders.shop] } }]", "header x-team,host"),
        ("  allow: [{ to: { methods: [GET] } }]", "allowed"),
        ("  allow: [{ to: { grpc: [shop.Orders] } }]", "not-allowed"),
        ("  allow: [{ from: { cidrs: [10.20.1.11/32] } }]", "allowed"),
        ("  allow: [{ from: { sites: [dc1] } }]", "allowed"),
    ] {
        let verdict = judged(rules, |_| ());
        let mut got: Vec<_> = word(&verdict).split(',').map(str::to_owned).collect();
        got.sort();
        let expected: Vec<_> = expected.split(',').map(str::to_owned).collect();
        assert_eq!(got, expected, "{rules}: {verdict:?}");
    }
}

/// It may have been `//orders`, which a rule on paths brings into its normal form, or what has none.
#[test]
fn a_path_that_was_recorded_as_unclear_is_a_risk_where_a_rule_looks_at_paths() {
    let unclear = |asked: &mut Asked| asked.http.as_mut().unwrap().path = Some("unclear".into());
    for (rules, expected) in [
        ("  allow: [{ to: { paths: [\"*\"] } }]", "path"),
        ("  allow: [{ to: { paths: [/orders] } }]", "path"),
        ("  deny: [{ to: { paths: [/admin] } }]", "path"),
        ("  allow: [{ to: { methods: [GET] } }]", "allowed"),
        ("  allow: [{ from: { serviceAccounts: [batch] } }]", "not-allowed"),
    ] {
        assert_eq!(word(&judged(rules, unclear)), expected, "{rules}");
    }
}

#[test]
fn an_address_that_was_not_kept_matters_to_cidrs_alone() {
    let unknown = |asked: &mut Asked| asked.ip = None;
    assert_eq!(word(&judged("  allow: [{ from: { serviceAccounts: [web] } }]", unknown)), "allowed");
    assert_eq!(word(&judged("  allow: [{ from: { cidrs: [10.20.0.0/16] } }]", unknown)), "caller address");
}

#[test]
fn the_transport_comes_first_and_the_refusal_names_what_would_allow_it() {
    let rules = "  allow: [{ from: { serviceAccounts: [batch] } }]";
    let plain = judged(rules, |asked| {
        asked.peer = None;
        asked.arrived = Arrived::Plain;
    });
    assert_eq!(word(&plain), "plaintext");
    let Verdict::Refused(found) = judged(rules, |asked| asked.http = None) else { panic!("refused") };
    assert_eq!((found.policy.as_deref(), found.reason), (Some("shop/orders"), Some(Reason::NotAllowed)));
    let yaml = found.would_allow.unwrap();
    assert!(yaml.contains("sa/web") && yaml.contains("services: [orders]"), "{yaml}");
}
