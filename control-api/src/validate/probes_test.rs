//! Probes and redirects that are refused, and what their authors are told.

use super::*;
use crate::validate::resource::Probing;

fn read(spec: &str) -> Result<resource::ServicePolicy, Vec<String>> {
    let yaml = format!(
        "apiVersion: {GROUP}\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: orders }}\nspec:\n  {spec}\n"
    );
    let (mut parsed, problems) = parse("f.yaml", &yaml);
    match (parsed.pop().map(|parsed| parsed.resource.spec), problems.is_empty()) {
        (Some(Spec::ServicePolicy(policy)), true) => Ok(policy),
        (_, _) => Err(problems.iter().map(Problem::to_string).collect()),
    }
}

#[test]
fn each_kind_of_probe_is_read() {
    let policy = read("probes: [{ port: 80, path: /healthz }, { port: 90, grpc: true }, { port: 70, connect: true }]");
    let expected = [(80, Probing::Path("/healthz".into())), (90, Probing::Grpc), (70, Probing::Connect)];
    let probes: Vec<_> = policy.unwrap().probes.into_iter().map(|probe| (probe.port, probe.what)).collect();
    assert_eq!(probes, expected);
    for (host, authority) in [
        ("{ host: orders.example }", "orders.example"),
        ("{ host: Orders.Example, port: 443 }", "orders.example"),
        ("{ host: orders.example, port: 8443 }", "orders.example:8443"),
    ] {
        assert_eq!(read(&format!("httpsRedirect: {host}")).unwrap().https_redirect.as_deref(), Some(authority));
    }
}

#[test]
fn every_message_names_place_field_and_reason() {
    for (spec, expected) in [
        (
            "probes: [{ port: 80 }]",
            "f.yaml:5:12: ServicePolicy shop/orders: spec.probes[0]: is of one kind: write `path`, `grpc: true` or `connect: true`",
        ),
        (
            "probes: [{ port: 80, path: /a, grpc: true }]",
            "f.yaml:5:12: ServicePolicy shop/orders: spec.probes[0]: is of one kind: write `path`, `grpc: true` or `connect: true`",
        ),
        (
            "probes: [{ port: 80, path: /health/* }]",
            "f.yaml:5:30: ServicePolicy shop/orders: spec.probes[0].path: `/health/*` is not one exact path, as `/healthz`: no pattern, no query, nothing encoded",
        ),
        (
            "probes: [{ port: 80, grpc: false }]",
            "f.yaml:5:30: ServicePolicy shop/orders: spec.probes[0].grpc: `grpc: false` asks for nothing; leave the probe out",
        ),
        (
            "probes: [{ path: /a }]",
            "f.yaml:5:12: ServicePolicy shop/orders: spec.probes[0].port: is missing; `port` is required here",
        ),
        ("probes: []", "f.yaml:5:11: ServicePolicy shop/orders: spec.probes: is an empty list; leave it out"),
        (
            "httpsRedirect: { host: \"*.example.com\" }",
            "f.yaml:5:26: ServicePolicy shop/orders: spec.httpsRedirect.host: `*.example.com` is not one host; a redirect goes to one",
        ),
    ] {
        let problems = read(spec).map(|_| ()).unwrap_err();
        assert!(problems.contains(&expected.to_string()), "for {spec}: {problems:#?}");
    }
}
