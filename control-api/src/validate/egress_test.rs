//! EgressPolicies that are refused, and what their authors are told.

use super::*;
use crate::validate::cross::check;
use isthmus_certs::TrustDomain;
use std::sync::Arc;

fn problems(spec: &str) -> Vec<String> {
    let yaml = format!(
        "apiVersion: {GROUP}\nkind: EgressPolicy\nmetadata: {{ namespace: shop, name: out }}\nspec:\n  {spec}\n"
    );
    parse("f.yaml", &yaml).1.iter().map(Problem::to_string).collect()
}

#[test]
fn every_message_names_place_field_and_reason() {
    for (spec, expected) in [
        (
            "allow: [{ hosts: [192.0.2.1] }]",
            "f.yaml:5:21: EgressPolicy shop/out: spec.allow[0].hosts[0]: 192.0.2.1 is an address, and no client names it; write it under `cidrs`",
        ),
        (
            "allow: [{ transport: HttpsOnly }]",
            "f.yaml:5:11: EgressPolicy shop/out: spec.allow[0]: has no condition and would match everything; write one of hosts, cidrs, ports",
        ),
        (
            "transport: MeshOnly",
            "f.yaml:5:14: EgressPolicy shop/out: spec.transport: `MeshOnly` cannot be kept outside of the mesh; write HttpsOnly",
        ),
        (
            "deny: [{ ports: [25], transport: HttpsOnly }]",
            "f.yaml:5:25: EgressPolicy shop/out: spec.deny[0].transport: unknown field `transport`; known here: hosts, cidrs, ports",
        ),
        (
            "allow: [{ host: [a.example] }]",
            "f.yaml:5:13: EgressPolicy shop/out: spec.allow[0].host: unknown field `host`; did you mean `hosts`?",
        ),
        (
            "mode: Audit",
            "f.yaml:5:3: EgressPolicy shop/out: spec: says nothing; set one of default, transport, minTlsVersion, allow, deny",
        ),
        (
            "default: deny",
            "f.yaml:5:12: EgressPolicy shop/out: spec.default: `deny` is not one of Allow, Deny; did you mean `Deny`?",
        ),
    ] {
        assert!(problems(spec).contains(&expected.to_string()), "for {spec}: {:#?}", problems(spec));
    }
    assert_eq!(problems("default: Deny"), Vec::<String>::new());
}

fn findings(mesh: &str, policy: &str) -> (Vec<String>, Vec<String>) {
    let yaml = format!(
        "apiVersion: {GROUP}\nkind: MeshConfig\nmetadata: {{ name: mesh }}\nspec: {{ vipRanges: [10.96.0.0/16], {mesh} }}\n---\n\
         apiVersion: {GROUP}\nkind: Site\nmetadata: {{ name: dc1 }}\nspec: {{ ranges: [10.20.0.0/16], resolvers: [10.20.0.53] }}\n---\n\
         apiVersion: {GROUP}\nkind: EgressPolicy\nmetadata: {{ namespace: shop, name: out }}\nspec: {{ {policy} }}\n"
    );
    let (parsed, problems) = parse("f", &yaml);
    assert_eq!(problems, []);
    let set = parsed.into_iter().map(|p| Arc::new(p.resource)).collect();
    let found = check(&set, &TrustDomain::parse("shop.example").unwrap());
    (found.faults.iter().map(|f| format!("{} {}: {}", f.key, f.field, f.reason)).collect(), found.warnings)
}

#[test]
fn the_floor_of_the_mesh_holds_for_policies_and_for_single_rules() {
    let floor = "floor: { egressTransport: HttpsOnly, minTlsVersion: \"1.2\" }";
    for (mesh, policy, expected) in [
        (
            floor,
            "transport: Permissive",
            "EgressPolicy shop/out spec.transport: Permissive is below the mesh's floor, HttpsOnly",
        ),
        (
            floor,
            "allow: [{ ports: [80], transport: Permissive }]",
            "EgressPolicy shop/out spec.allow[0].transport: Permissive is below",
        ),
        (
            floor,
            "minTlsVersion: \"1.1\"",
            "EgressPolicy shop/out spec.minTlsVersion: 1.1 is below the mesh's floor, 1.2",
        ),
        (
            "egress: { transport: Permissive }, floor: { egressTransport: HttpsOnly }",
            "default: Deny",
            "MeshConfig mesh spec.egress.transport: Permissive is below",
        ),
    ] {
        let (faults, _) = findings(mesh, policy);
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "for {policy}: {faults:#?}");
    }
    // What is not written follows the floor.
    assert_eq!(findings(floor, "default: Deny").0, Vec::<String>::new());
}

#[test]
fn a_rule_for_the_mesh_itself_is_warned_of() {
    let (faults, warnings) = findings(
        "dnsSuffixes: [svc.cluster.local]",
        "allow: [{ hosts: [a.shop.svc.cluster.local] }, { cidrs: [10.20.1.0/24] }, { cidrs: [0.0.0.0/0] }]",
    );
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(
        warnings[0].contains("10.20.1.0/24 is inside the mesh")
            || warnings[1].contains("10.20.1.0/24 is inside the mesh")
    );
}

#[test]
fn tls_that_proxies_begin_is_for_services_outside_and_knows_its_name() {
    let by_name = "spec: { type: ExternalName, externalName: api.example, ports: [{ port: 80 }] }";
    let by_address = "spec: { ports: [{ port: 80 }] }";
    for (service, tls, expected) in [
        (by_name, "tls: {}", None),
        (by_address, "tls: { serverName: api.example }", None),
        (by_address, "tls: {}", Some("TrafficPolicy shop/t spec.tls.serverName: is missing")),
        (
            "spec: { selector: { app: web }, ports: [{ port: 80 }] }",
            "tls: { serverName: a.example }",
            Some("TrafficPolicy shop/t spec.services[0]: selects workloads"),
        ),
    ] {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: s }}\n{service}\n---\n\
             apiVersion: {GROUP}\nkind: TrafficPolicy\nmetadata: {{ namespace: shop, name: t }}\nspec: {{ services: [s], {tls} }}\n"
        );
        let (parsed, problems) = parse("f", &yaml);
        assert_eq!(problems, []);
        let set = parsed.into_iter().map(|p| Arc::new(p.resource)).collect();
        let found = check(&set, &TrustDomain::parse("shop.example").unwrap());
        let faults: Vec<String> = found.faults.iter().map(|f| format!("{} {}: {}", f.key, f.field, f.reason)).collect();
        match expected {
            None => assert_eq!(faults, Vec::<String>::new(), "{service} {tls}"),
            Some(start) => assert!(faults.iter().any(|fault| fault.starts_with(start)), "{faults:#?}"),
        }
    }
    for (tls, reason) in [
        ("{ clientKey: /k.pem }", "write both"),
        ("{ clientCertificate: c.pem, clientKey: /k.pem }", "absolute path"),
        ("{ ca: nonsense }", "certificate"),
        ("{ serverName: 192.0.2.1 }", "is not a DNS name"),
    ] {
        let yaml = format!(
            "apiVersion: {GROUP}\nkind: TrafficPolicy\nmetadata: {{ namespace: shop, name: t }}\nspec: {{ services: [s], tls: {tls} }}\n"
        );
        let problems: Vec<String> = parse("f", &yaml).1.iter().map(Problem::to_string).collect();
        assert!(problems.iter().any(|problem| problem.contains(reason)), "{tls}: {problems:#?}");
    }
}
