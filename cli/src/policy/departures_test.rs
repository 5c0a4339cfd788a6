//! What would become of what left the mesh.

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
metadata: { namespace: shop, name: web, labels: { app: web } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: web }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: EgressPolicy
metadata: { namespace: shop, name: out }
spec: { workloads: { matchLabels: { app: web } }, "#;

fn judged(spec: &str, left: &Departure) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.yaml");
    std::fs::write(&file, format!("{MESH}{spec} }}\n")).unwrap();
    let views = Views::of_files(&[file]).unwrap();
    match judge(views.callee("shop/web").unwrap(), left) {
        Verdict::Allowed(_) => "allowed".to_owned(),
        Verdict::Refused(found) => found.reason.unwrap().word().to_owned(),
        Verdict::CannotTell(missing) => missing.into_iter().collect::<Vec<_>>().join(","),
    }
}

fn tls(host: &str) -> Departure {
    Departure {
        host: host.into(),
        read: true,
        address: "203.0.113.7".into(),
        port: 443,
        transport: Transport::Tls.into(),
        tls_version: "1.3".into(),
        ..Default::default()
    }
}

#[test]
fn names_ranges_and_tls_are_asked_of_the_proxys_own_engine() {
    let api = "allow: [{ hosts: [api.example], ports: [443] }]";
    let plain = Departure { transport: Transport::Plaintext.into(), tls_version: String::new(), ..tls("api.example") };
    for (spec, left, expected) in [
        (api, tls("api.example"), "allowed"),
        (api, tls("other.example"), "not-allowed"),
        (api, tls(""), "not-allowed"),
        (api, Departure { port: 80, ..tls("api.example") }, "not-allowed"),
        ("allow: [{ cidrs: [203.0.113.0/24] }]", tls("x.example"), "allowed"),
        ("default: Allow, deny: [{ hosts: ['*.ads.example'] }]", tls("a.ads.example"), "denied-by-rule"),
        ("default: Allow, transport: HttpsOnly", plain, "plaintext"),
        (
            "default: Allow, transport: HttpsOnly, minTlsVersion: '1.3'",
            Departure { tls_version: "1.2".into(), ..tls("") },
            "tls-version",
        ),
    ] {
        assert_eq!(judged(spec, &left), expected, "{spec}: {left:?}");
    }
}

#[test]
fn of_what_was_not_read_the_name_and_the_transport_are_not_known() {
    let unread = Departure { host: String::new(), read: false, transport: 0, tls_version: String::new(), ..tls("") };
    for (spec, expected) in [
        ("allow: [{ hosts: [api.example] }]", "host"),
        ("allow: [{ cidrs: [203.0.113.0/24] }]", "allowed"),
        ("allow: [{ cidrs: [203.0.114.0/24] }]", "not-allowed"),
        ("default: Allow, transport: HttpsOnly", "transport"),
        ("allow: [{ ports: [80] }]", "not-allowed"),
    ] {
        assert_eq!(judged(spec, &unread), expected, "{spec}");
    }
    let many = Departure { address: String::new(), ..unread };
    assert_eq!(judged("allow: [{ cidrs: [203.0.113.0/24] }]", &many), "address");
}

#[test]
fn a_policy_in_audit_refuses_nothing() {
    let spec = "mode: Audit, allow: [{ hosts: [api.example] }]";
    assert_eq!(judged(spec, &tls("other.example")), "allowed");
    assert_eq!(judged(&spec.replace("Audit", "Enforce"), &tls("other.example")), "not-allowed", "the control arm");
}

#[test]
fn a_place_reads_as_people_write_it() {
    assert_eq!(place(&tls("api.example")), "api.example:443");
    assert_eq!(place(&tls("")), "203.0.113.7:443");
    assert_eq!(place(&Departure { address: "2001:db8::7".into(), ..tls("") }), "[2001:db8::7]:443");
}
