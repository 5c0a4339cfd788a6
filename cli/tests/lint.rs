//! `isthmus lint` as an editor or a pipeline sees it: every problem at once, each with its place and what was meant.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

struct Said {
    code: i32,
    out: String,
    err: String,
}

/// In the directory of the files, so that they are named as they were given.
fn lint(dir: &Path, args: &[&str], stdin: &str) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .arg("lint")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // It may end without reading.
    let _ = child.stdin.take().expect("it is piped").write_all(stdin.as_bytes());
    let done = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it prints UTF-8");
    Said { code: done.status.code().expect("it ends by itself"), out: text(&done.stdout), err: text(&done.stderr) }
}

fn files(all: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in all {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in the directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    dir
}

const MESH: &str = r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { trustDomain: shop.example, floor: { transport: HttpsOnly, minTlsVersion: "1.2" } }
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
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: web }
spec: { site: dc1, addresses: [10.20.1.11], serviceAccount: web }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
"#;

const SOUND: &str = r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: shop, name: orders }
spec:
  services: [orders]
  transport: HttpsOnly
  allow:
    - from: { serviceAccounts: [web] }
      to: { ports: [8080], methods: [GET], paths: ["/orders/{id}"] }
"#;

#[test]
fn every_problem_of_every_file_is_said_at_once_with_its_place_and_what_was_meant() {
    let faulty = r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: shop, name: orders }
spec:
  services: [order]
  tranport: HttpsOnly
  minTlsVersion: "1.5"
  allow:
    - from: { serviceAccount: [web] }
      to: { methods: [get], paths: ["/orders/{id"] }
    - from: { greaterThan: [web] }
    - from: { notNamespace: [bank] }
---
apiVersion: mesh.isthmus.dev/v1beta7
kind: ServicePolicy
metadata: { namespace: shop, name: later }
spec: { services: [orders] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolcy
metadata: { namespace: shop, name: kind }
spec: {}
"#;
    let low = SOUND.replace("name: orders }", "name: low }").replace("HttpsOnly", "Permissive");
    let dir = files(&[("mesh.yaml", MESH), ("policies/orders.yaml", faulty), ("policies/low.yml", &low)]);
    let said = lint(dir.path(), &["policies", "--with", "mesh.yaml"], "");
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    for line in [
        "policies/orders.yaml:6:3: ServicePolicy shop/orders: spec.tranport: unknown field `tranport`; did you mean `transport`?",
        "policies/orders.yaml:7:18: ServicePolicy shop/orders: spec.minTlsVersion: `1.5` is not one of 1.0, 1.1, 1.2, 1.3",
        "policies/orders.yaml:9:15: ServicePolicy shop/orders: spec.allow[0].from.serviceAccount: unknown field `serviceAccount`; did you mean `serviceAccounts`?",
        "policies/orders.yaml:10:23: ServicePolicy shop/orders: spec.allow[0].to.methods[0]: `get` is not an HTTP method; methods are upper case, as `GET`; did you mean `GET`?",
        "policies/orders.yaml:10:37: ServicePolicy shop/orders: spec.allow[0].to.paths[0]: `/orders/{id`",
        "policies/orders.yaml:11:15: ServicePolicy shop/orders: spec.allow[1].from.greaterThan: unknown field `greaterThan`",
        "policies/orders.yaml:12:15: ServicePolicy shop/orders: spec.allow[2].from.notNamespace: unknown field `notNamespace`; did you mean `notNamespaces`?",
        "policies/orders.yaml:14:13: ",
        "policies/orders.yaml:20:7: ",
        // The floor cannot be lowered, and whose floor it is, is said.
        "policies/low.yml:6:14: ServicePolicy shop/low: spec.transport: Permissive is below the mesh's floor, HttpsOnly (MeshConfig spec.floor.transport)",
    ] {
        assert!(said.out.lines().any(|found| found.starts_with(line)), "{line}\nin\n{}{}", said.out, said.err);
    }
    let of = |what: &str| said.out.lines().find(|line| line.contains(what)).unwrap_or_default().to_owned();
    assert!(of(":14:13").contains("v1alpha1"), "a version of the future: {}", of(":14:13"));
    assert!(of(":20:7").contains("did you mean `ServicePolicy`?"), "{}", of(":20:7"));
    let problems = said.out.lines().filter(|line| !line.starts_with("warning:")).count();
    assert!(said.err.starts_with(&format!("error: {problems} problems, ")), "{}", said.err);

    let json = lint(dir.path(), &["policies", "--with", "mesh.yaml", "--json"], "");
    assert_eq!((json.code, json.err.as_str()), (1, ""));
    let told: Value = serde_json::from_str(&json.out).expect("one JSON object");
    assert_eq!((&told["ok"], &told["referencesChecked"]), (&false.into(), &true.into()), "{told}");
    let all = told["problems"].as_array().expect("a list");
    assert_eq!(all.len(), problems);
    let one = all.iter().find(|one| one["field"] == "spec.tranport").expect("it is there");
    assert_eq!(
        (one["source"].as_str(), one["line"].as_u64(), one["column"].as_u64()),
        (Some("policies/orders.yaml"), Some(6), Some(3))
    );
    assert_eq!(one["resource"]["name"], "orders");
}

#[test]
fn a_reference_to_nothing_is_a_problem_where_the_rest_of_the_mesh_is_given() {
    let dir = files(&[("mesh.yaml", MESH), ("orders.yaml", &SOUND.replace("[orders]", "[order]"))]);
    let said = lint(dir.path(), &["orders.yaml", "--with", "mesh.yaml"], "");
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(
        said.out.contains("orders.yaml:5:14: ServicePolicy shop/orders: spec.services[0]: there is no Service `order` in shop; did you mean `orders`?"),
        "{}",
        said.out
    );
    // Alone it cannot be known, and that is said.
    let alone = lint(dir.path(), &["orders.yaml"], "");
    assert_eq!(alone.code, 0, "{}{}", alone.out, alone.err);
    assert!(alone.err.contains("references were not checked"), "{}", alone.err);
}

#[test]
fn rules_that_are_hardly_meant_are_warned_of_and_fail_only_where_asked_to() {
    let idle = SOUND.replace(
        "  allow:\n",
        r#"  deny:
    - from: { serviceAccounts: [batch] }
    - to: { methods: [DELETE] }
  allow:
    - from: { serviceAccounts: [wbe] }
    - to: { ports: [80] }
    - to: { methods: [DELETE] }
    - to: { methods: [GET] }
    - to: { methods: [GET], paths: [/a] }
    - from: { serviceAccounts: [web] }
      until: 2020-01-01T00:00:00Z
    - from: { namespaces: [shop], notNamespaces: [shop] }
"#,
    );
    let dir = files(&[("mesh.yaml", MESH), ("orders.yaml", &idle)]);
    let said = lint(dir.path(), &["orders.yaml", "--with", "mesh.yaml"], "");
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for line in [
        "warning: orders.yaml:8:33: ServicePolicy shop/orders: spec.deny[0].from.serviceAccounts[0]: matches nobody: no Workload runs as `batch`",
        "warning: orders.yaml:11:33: ServicePolicy shop/orders: spec.allow[0].from.serviceAccounts[0]: matches nobody: no Workload runs as `wbe`; did you mean `web`?",
        "warning: orders.yaml:12:21: ServicePolicy shop/orders: spec.allow[1].to.ports[0]: no app that it selects listens on 80 (8080); 80 is the Service's port, whose app listens on 8080: did you mean `8080`?",
        "warning: orders.yaml:13:7: ServicePolicy shop/orders: spec.allow[2]: never allows: spec.deny[1] refuses all that it matches",
        "warning: orders.yaml:15:7: ServicePolicy shop/orders: spec.allow[4]: changes nothing: spec.allow[3] matches all that it does",
        "warning: orders.yaml:17:14: ServicePolicy shop/orders: spec.allow[5].until: is over: the rule does nothing any more; remove it",
        "warning: orders.yaml:18:50: ServicePolicy shop/orders: spec.allow[6].from.notNamespaces: leaves nothing of what the rule asks for: it can never match",
    ] {
        assert!(said.out.lines().any(|found| found == line), "{line}\nin\n{}", said.out);
    }
    let lines: Vec<u32> = said.out.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect();
    assert!(lines.is_sorted() && lines.len() == 8, "in the order of the file: {lines:?}");
    let strict = lint(dir.path(), &["orders.yaml", "--with", "mesh.yaml", "--strict"], "");
    assert_eq!(strict.code, 1);
    assert!(strict.err.starts_with("error: 0 problems, "), "{}", strict.err);
    let json = lint(dir.path(), &["orders.yaml", "--with", "mesh.yaml", "--json"], "");
    let told: Value = serde_json::from_str(&json.out).expect("one JSON object");
    assert_eq!((json.code, &told["ok"], told["problems"].as_array().map(Vec::len)), (0, &true.into(), Some(0)));
    assert!(told["warnings"].as_array().is_some_and(|all| all.len() >= 7), "{told}");
}

#[test]
fn sound_files_are_said_to_be_sound_also_from_stdin() {
    let dir = files(&[("mesh.yaml", MESH)]);
    let said = lint(dir.path(), &["-", "--with", "mesh.yaml", "--strict"], SOUND);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "1 resource sound, 0 warnings\n", ""));
    let faulty = lint(dir.path(), &["-"], &SOUND.replace("HttpsOnly", "HttpOnly"));
    assert_eq!(faulty.code, 1);
    assert!(faulty.out.contains(":6:14: ServicePolicy shop/orders: spec.transport"), "{}", faulty.out);
}

#[test]
fn wrong_usage_and_files_that_are_not_there_are_told_apart_from_problems() {
    let dir = files(&[("empty/readme.txt", "no YAML here")]);
    assert_eq!(lint(dir.path(), &[], "").code, 2);
    for (path, said) in [("nothing.yaml", "nothing.yaml"), ("empty", "empty")] {
        let found = lint(dir.path(), &[path], "");
        assert!(found.code != 0 && found.err.contains(said), "{path}: {} {}{}", found.code, found.out, found.err);
    }
}
