//! What a wrong document is answered with, word for word: this text is the operator's user interface.

use super::*;

fn problems(yaml: &str) -> Vec<String> {
    parse("f.yaml", yaml).1.iter().map(Problem::to_string).collect()
}

fn policy(spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!("apiVersion: {GROUP}\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: p }}\nspec:\n  {spec}\n")
}

/// A spec, and what is said of it.
const REFUSED: [(&str, &str); 33] = [
    (
        "transport: HttpOnly",
        "f.yaml:5:14: ServicePolicy shop/p: spec.transport: `HttpOnly` is not one of MeshOnly, HttpsOnly, Permissive; did you mean `HttpsOnly`?",
    ),
    (
        "tranport: MeshOnly",
        "f.yaml:5:3: ServicePolicy shop/p: spec.tranport: unknown field `tranport`; did you mean `transport`?",
    ),
    (
        "minTlsVersion: \"1.4\"",
        "f.yaml:5:18: ServicePolicy shop/p: spec.minTlsVersion: `1.4` is not one of 1.0, 1.1, 1.2, 1.3",
    ),
    (
        "allow: []",
        "f.yaml:5:10: ServicePolicy shop/p: spec.allow: is an empty list, which could mean nobody or everybody; leave it out, or write one rule",
    ),
    (
        "allow:\n- from: { namespaces: [] }",
        "f.yaml:6:25: ServicePolicy shop/p: spec.allow[0].from.namespaces: is an empty list, which nothing can match; leave it out, or name a value",
    ),
    (
        "allow:\n- from: { namespace: [a] }",
        "f.yaml:6:13: ServicePolicy shop/p: spec.allow[0].from.namespace: unknown field `namespace`; did you mean `namespaces`?",
    ),
    (
        "deny:\n- from: { cidrs: [10.0.0.1/8] }",
        "f.yaml:6:21: ServicePolicy shop/p: spec.deny[0].from.cidrs[0]: `10.0.0.1/8` has bits beyond its prefix; did you mean `10.0.0.0/8`?",
    ),
    (
        "deny:\n- to: { ports: [70000] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.deny[0].to.ports[0]: 70000 is not a port: 1 to 65535",
    ),
    (
        "deny:\n- to: { methods: [get] }",
        "f.yaml:6:21: ServicePolicy shop/p: spec.deny[0].to.methods[0]: `get` is not an HTTP method; methods are upper case, as `GET`; did you mean `GET`?",
    ),
    (
        "allow:\n- to: { paths: [/a//b] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.allow[0].to.paths[0]: `/a//b`: write it decoded and plain, without `%`, `\\`, `?`, `#`, `;`, `//` and `..`: requests are compared so; did you mean `/a/b`?",
    ),
    (
        "allow:\n- to: { paths: ['/orders/{id'] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.allow[0].to.paths[0]: `/orders/{id`: `{name}` stands for one whole segment, as in `/orders/{id}`; did you mean `/orders/{id}`?",
    ),
    (
        "allow:\n- from: { notIdentity: [x] }",
        "f.yaml:6:13: ServicePolicy shop/p: spec.allow[0].from.notIdentity: unknown field `notIdentity`; did you mean `notIdentities`?",
    ),
    (
        "allow:\n- from: { serviceAccounts: [Web] }",
        "f.yaml:6:31: ServicePolicy shop/p: spec.allow[0].from.serviceAccounts[0]: `Web` is not a service account; write `web`, `namespace/web`, or `*/web` for any namespace: service account: 1 to 253 of a-z 0-9 - ., each label starting and ending with a letter or digit; did you mean `web`?",
    ),
    (
        "allow:\n- until: tomorrow",
        "f.yaml:6:12: ServicePolicy shop/p: spec.allow[0].until: `tomorrow` is not a moment; write it as `2026-12-01T18:00:00Z`, with its offset",
    ),
    (
        "allow:\n- to: { hosts: ['orders:80'] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.allow[0].to.hosts[0]: `orders:80`: hosts are compared without a port; write `orders`, and 80 under `ports`",
    ),
    (
        "allow:\n- to: { headers: [{ name: Isthmus-Port }] }",
        "f.yaml:6:29: ServicePolicy shop/p: spec.allow[0].to.headers[0].name: `Isthmus-Port` never holds: the mesh keeps these names to itself",
    ),
    (
        "mode: Audits",
        "f.yaml:5:9: ServicePolicy shop/p: spec.mode: `Audits` is not one of Enforce, Audit; did you mean `Audit`?",
    ),
    // Above nothing but comments, a field has no value: `allow` would close nothing, `until` would never come.
    ("allow:", "f.yaml:5:3: ServicePolicy shop/p: spec.allow: says nothing; write a value, or leave the field out"),
    (
        "allow:\n- from:\n  to: { ports: [80] }",
        "f.yaml:6:5: ServicePolicy shop/p: spec.allow[0].from: says nothing; write a value, or leave the field out",
    ),
    (
        "allow:\n- from: { namespaces: ~ }",
        "f.yaml:6:13: ServicePolicy shop/p: spec.allow[0].from.namespaces: says nothing; write a value, or leave the field out",
    ),
    (
        "allow:\n- until:",
        "f.yaml:6:5: ServicePolicy shop/p: spec.allow[0].until: says nothing; write a value, or leave the field out",
    ),
    (
        "workloads: { matchLabels: { app: orders, tier: } }",
        "f.yaml:5:44: ServicePolicy shop/p: spec.workloads.matchLabels.tier: says nothing; write a value, or leave the field out",
    ),
    (
        "allow:\n- from: {}",
        "f.yaml:6:11: ServicePolicy shop/p: spec.allow[0].from: names nothing, and would match everything; leave it out, or write a condition",
    ),
    (
        "deny:\n- from: { cidrs: ['::ffff:10.0.0.0/104'] }",
        "f.yaml:6:21: ServicePolicy shop/p: spec.deny[0].from.cidrs[0]: `::ffff:10.0.0.0/104` holds mapped addresses, and addresses are compared unmapped; write `10.0.0.0/8`",
    ),
    (
        "deny:\n- to: { hosts: ['[fd00::1]:80'] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.deny[0].to.hosts[0]: `[fd00::1]:80`: hosts are compared without a port; write `[fd00::1]`, and 80 under `ports`",
    ),
    (
        "deny:\n- to: { hosts: ['fd00::1'] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.deny[0].to.hosts[0]: `fd00::1`: a request has such an address in brackets; write `[fd00::1]`",
    ),
    (
        "deny:\n- to: { hosts: ['[fd00::g]'] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.deny[0].to.hosts[0]: `[fd00::g]`: in brackets stands an IPv6 address",
    ),
    (
        "deny:\n- to: { hosts: [010.0.0.1] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.deny[0].to.hosts[0]: `010.0.0.1` reads as an IPv4 address, and is none",
    ),
    (
        "deny:\n- to: { headers: [{ name: Upgrade }] }",
        "f.yaml:6:29: ServicePolicy shop/p: spec.deny[0].to.headers[0].name: `Upgrade` never holds: it is between two ends of a connection, and no part of what is asked for",
    ),
    (
        "deny:\n- to: { headers: [{ name: x-a, values: [' a'] }] }",
        "f.yaml:6:43: ServicePolicy shop/p: spec.deny[0].to.headers[0].values[0]: no header's value has such characters, or space at its ends",
    ),
    (
        "deny:\n- to: { ports: [80.5] }",
        "f.yaml:6:19: ServicePolicy shop/p: spec.deny[0].to.ports[0]: must be a port number, 1 to 65535, not a fraction",
    ),
    (
        "minTlsVersion: 1.31",
        "f.yaml:5:18: ServicePolicy shop/p: spec.minTlsVersion: must be a text, not a number; write it in quotes",
    ),
    ("services: orders", "f.yaml:5:13: ServicePolicy shop/p: spec.services: must be a list, not a text"),
];

#[test]
fn every_message_names_place_field_and_reason() {
    for (spec, expected) in REFUSED {
        assert_eq!(problems(&policy(spec)), [expected], "for {spec}");
    }
}

#[test]
fn certificates_live_for_a_minute_to_a_month() {
    let said = |life: &str| {
        let spec = format!("spec: {{ certificates: {{ leafLifetime: {life} }} }}");
        problems(&format!("apiVersion: {GROUP}\nkind: MeshConfig\nmetadata: {{ name: mesh }}\n{spec}\n")).concat()
    };
    assert_eq!([said("60s"), said("24h"), said("30d")], ["", "", ""]);
    let field = "spec.certificates.leafLifetime: ";
    assert!(said("59s").contains(&format!("{field}is shorter than 60s")), "{}", said("59s"));
    assert!(said("31d").contains(&format!("{field}is longer than 30d")), "{}", said("31d"));
}

#[test]
fn all_faults_of_all_documents_are_told_at_once() {
    let yaml = format!("{}---\n{}", policy("transport: X\nmode: Y"), policy("allow: []"));
    let found = problems(&yaml);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[2].starts_with("f.yaml:12:"), "lines count through the file: {}", found[2]);
}

#[test]
fn a_good_document_beside_a_bad_one_is_still_read() {
    let (parsed, problems) = parse("f", &format!("{}---\n{}", policy("transport: MeshOnly"), policy("mode: Y")));
    assert_eq!((parsed.len(), problems.len()), (1, 1));
}

#[test]
fn a_namespace_that_is_not_written_is_the_one_that_is_given_or_kubernetes_own() {
    let service = "kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}";
    for (given, expected) in [("", "default"), ("shop", "shop")] {
        let (parsed, problems) = parse_in(given, "f", service);
        assert_eq!(problems, []);
        assert_eq!(parsed[0].resource.key.namespace, expected);
        assert_eq!(parsed[0].resource.json["metadata"]["namespace"], expected, "as it is stored");
    }
    let (parsed, _) = parse_in("shop", "f", &service.replace("{name: a}", "{name: a, namespace: hr}"));
    assert_eq!(parsed[0].resource.key.namespace, "hr", "what is written counts");
}

#[test]
fn what_is_not_a_resource_is_said() {
    let table = [
        ("a: [", "not valid YAML"),
        ("hello", "must be a map, not a text"),
        ("kind: Servic\napiVersion: v1\nmetadata: {name: a}", "unknown kind `Servic`; did you mean `Service`?"),
        ("kind: Pod\napiVersion: v1\nmetadata: {name: a}", "unknown kind `Pod`; known are MeshConfig"),
        (
            "kind: Site\nmetadata: {name: a}",
            "f.yaml:1:1: apiVersion: is missing; write `apiVersion: mesh.isthmus.dev/v1alpha1`",
        ),
        ("metadata: {name: a}", "f.yaml:1:1: apiVersion: is missing; `apiVersion` is required here"),
        (
            "kind: Site\napiVersion: v1\nmetadata: {name: a}\nspec: {ranges: [10.0.0.0/8]}",
            "write `mesh.isthmus.dev/v1alpha1`",
        ),
        (
            "kind: Workload\napiVersion: mesh.isthmus.dev/v1alpha1\nmetadata: {name: a}\nspec: {}",
            "metadata.namespace: is missing",
        ),
        ("kind: Site\nkind: Site\napiVersion: v1", "f.yaml:2:1: not valid YAML: duplicate mapping key: kind"),
    ];
    for (yaml, expected) in table {
        let found = problems(yaml).join("\n");
        assert!(found.contains(expected), "for {yaml}: {found}");
    }
}

/// YAML has ways to say things twice; each has one meaning here, or none.
#[test]
fn yaml_that_people_trip_over_means_one_thing_or_is_refused() {
    let allow = |yaml: &str| -> Result<serde_json::Value, String> {
        let (parsed, problems) = parse("f", yaml);
        match parsed.as_slice() {
            [one] if problems.is_empty() => Ok(one.resource.json["spec"]["allow"].clone()),
            _ => Err(problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")),
        }
    };
    let plain = policy("allow:\n- to: { ports: [80] }");
    let meant = allow(&plain).unwrap();
    for same in [
        format!("\u{feff}{plain}"),
        plain.replace('\n', "\r\n"),
        plain.replace("[80]", "[0x50]"),
        plain.replace("{ ports: [80] }", "{ <<: { ports: [80] } }"),
        plain.replace("{ ports: [80] }", "{ <<: { ports: [81] }, ports: [80] }"),
        plain.replace("[80]", "[&port 80]"),
    ] {
        assert_eq!(allow(&same), Ok(meant.clone()), "{same}");
    }
    let anchored = policy("deny: &rules\n- to: { ports: [80] }\nallow: *rules");
    assert_eq!(allow(&anchored), Ok(meant), "an alias is what it stands for");
    for (wrong, why) in [
        (plain.replace("  allow", "\tallow"), "not valid YAML: tabs"),
        (plain.replace("ports: [80]", "ports: [80], ports: [81]"), "duplicate mapping key: ports"),
        (plain.replace("[80]", "[99999999999999999999]"), "must be a port number"),
        (plain.replace("[80]", &format!("{}80{}", "[".repeat(3_000), "]".repeat(3_000))), "recursion limit"),
        (plain.replace("[80]", "['80']"), "must be a port number, 1 to 65535, not a text"),
        (plain.replace("- to", "-\n  - to"), "must be a map, not nothing"),
        (plain.replace("name: p", "name: p\u{0}"), "not valid YAML"),
        (format!("{plain}  x: *nothing\n"), "not valid YAML"),
    ] {
        let said = allow(&wrong).expect_err(&wrong);
        assert!(said.contains(why), "for {wrong}: {said}");
    }
}

#[test]
fn durations_are_whole_numbers_with_a_unit() {
    let seconds = |text| field::duration(text).map(|d| d.as_secs_f64());
    assert_eq!(seconds("24h"), Some(86_400.0));
    assert_eq!(seconds("500ms"), Some(0.5));
    for wrong in ["24", "h", "1.5h", "-1s", "99999999999999999999s", "1 h", ""] {
        assert_eq!(seconds(wrong), None, "{wrong}");
    }
}

#[test]
fn a_service_as_kubernetes_exports_it_is_read() {
    let yaml = r#"
apiVersion: v1
kind: Service
metadata:
  name: orders
  namespace: shop
  uid: 7ad2
  resourceVersion: "12"
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: { app.kubernetes.io/name: orders }
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  sessionAffinity: None
  type: ClusterIP
  selector: { app: orders }
  ports:
    - { name: web, port: 80, protocol: TCP, targetPort: 8080, appProtocol: http }
status: { loadBalancer: {} }
"#;
    let (parsed, problems) = parse("f", yaml);
    assert_eq!(problems, []);
    let Spec::Service(service) = &parsed[0].resource.spec else { panic!() };
    assert_eq!(service.vips, ["10.96.0.10".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(service.ports[0].target, resource::TargetPort::Number(8080));
    assert_eq!(parsed[0].resource.json.get("status"), None);
    assert_eq!(parsed[0].resource.json.pointer("/metadata/uid"), None);
    let again = from_stored(&parsed[0].resource.json).unwrap();
    assert_eq!(again, parsed[0].resource, "the stored form reads back as the same");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_traffic_policy_says_something_and_in_known_words() {
    let traffic = |spec: &str| {
        format!(
            "apiVersion: {GROUP}\nkind: TrafficPolicy\nmetadata: {{ namespace: shop, name: t }}\nspec: {{ {spec} }}\n"
        )
    };
    let at = "TrafficPolicy shop/t: ";
    for (spec, expected) in [
        (
            "services: [orders]",
            format!(
                "f.yaml:4:7: {at}spec: says nothing; set one of connect, sourceAddress, proxyProtocol, headerNames, timeouts, tls, healthCheck, telemetry"
            ),
        ),
        (
            "connect: Early",
            format!("f.yaml:4:18: {at}spec.connect: `Early` is not one of early, confirm; did you mean `early`?"),
        ),
        ("sourceAddress: keep", format!("f.yaml:4:24: {at}spec.sourceAddress: `keep` is not one of preserve, proxy")),
        ("proxyProtocol: v1", format!("f.yaml:4:24: {at}spec.proxyProtocol: `v1` is not one of none, v2")),
        (
            "headerNames: titlecase",
            format!(
                "f.yaml:4:22: {at}spec.headerNames: `titlecase` is not one of TitleCase, Preserve; did you mean `TitleCase`?"
            ),
        ),
        (
            "timeouts: { request: 10ms }",
            format!("f.yaml:4:30: {at}spec.timeouts.request: has to be between 1s and 24h"),
        ),
        ("timeouts: { request: 2d }", format!("f.yaml:4:30: {at}spec.timeouts.request: has to be between 1s and 24h")),
        (
            "healthCheck: { tcp: true, http: { path: / } }",
            format!(
                "f.yaml:4:22: {at}spec.healthCheck: is of one kind: write `tcp: true`, `http: {{ path: /ready }}` or `grpc: {{}}`"
            ),
        ),
        (
            "healthCheck: { http: { path: ready } }",
            format!(
                "f.yaml:4:38: {at}spec.healthCheck.http.path: `ready` does not begin with /, or holds blanks or other than ASCII"
            ),
        ),
        (
            "healthCheck: { tcp: true, interval: 100ms }",
            format!(
                "f.yaml:4:45: {at}spec.healthCheck.interval: has to be between 1s and 1h: every proxy that uses the endpoint asks"
            ),
        ),
        (
            "healthCheck: { tcp: true, interval: 5s, timeout: 6s }",
            format!(
                "f.yaml:4:58: {at}spec.healthCheck.timeout: has to be longer than nothing, and no longer than the interval"
            ),
        ),
        (
            "healthCheck: { tcp: true, failures: 0 }",
            format!("f.yaml:4:45: {at}spec.healthCheck.failures: has to be a whole number between 1 and 100"),
        ),
        ("timeouts: {}", format!("f.yaml:4:19: {at}spec.timeouts.request: is missing; `request` is required here")),
        (
            "proxyprotocol: v2, connect: early",
            format!("f.yaml:4:9: {at}spec.proxyprotocol: unknown field `proxyprotocol`; did you mean `proxyProtocol`?"),
        ),
    ] {
        assert_eq!(problems(&traffic(spec)), [expected], "{spec}");
    }
    assert_eq!(
        problems(&traffic(
            "services: [a], connect: confirm, proxyProtocol: v2, headerNames: Preserve, timeouts: { request: 90s }"
        )),
        Vec::<String>::new()
    );
}

#[test]
fn what_would_be_ignored_in_silence_is_refused() {
    let service = |spec: &str| {
        problems(&format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: a, name: b}}\nspec: {spec}"))
            .join("\n")
    };
    assert!(service("{ports: [{port: 53, protocol: UDP}]}").contains("`UDP` is not proxied"));
    assert!(service("{externalName: x.example, ports: []}").contains("belongs to `type: ExternalName`"));
    assert!(service("{type: ExternalName, externalName: 192.0.2.1}").contains("`192.0.2.1` is not a DNS name"));
    assert!(service("{type: ExternalName, externalName: x.example, selector: {a: b}}").contains("has both"));
    assert_eq!(service("{type: ExternalName, externalName: x.example, ports: [{port: 80}]}"), "");
    assert!(service("{ports: [{port: 1}, {port: 1}]}").contains("declared twice"));
    assert!(service("{ports: [], selctor: {a: b}}").contains("did you mean `selector`?"));
}
