//! `isthmus explain` on files alone, as a pipeline runs it: no control plane, an exit status, and YAML that does what it says.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/two-sites");

/// Without any operator's credentials; the exit status and the one JSON object.
fn explain(files: &[&Path], question: &[&str]) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.env_clear().arg("explain").args(question).arg("--json");
    for file in files {
        command.arg("-f").arg(file);
    }
    let done = command.output().expect("the binary starts");
    let told = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    (done.status.code().expect("it ends by itself"), told)
}

#[test]
fn the_yaml_that_is_given_applies_cleanly_and_allows_that_and_nothing_else() {
    let question = |path: &'static str| ["--from", "batch", "--to", "orders", "--method", "GET", "--path", path];
    let example = Path::new(EXAMPLE);
    let (code, told) = explain(&[example], &question("/orders/7"));
    assert_eq!((code, &told["verdict"], &told["reason"]), (4, &"refused".into(), &"not-allowed".into()), "{told}");
    assert_eq!(told["policy"], "shop/orders");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mended = dir.path().join("mended.yaml");
    fs::write(&mended, told["wouldAllow"].as_str().expect("YAML")).expect("a file");
    let lint = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .env_clear()
        .args(["lint", "--strict", "--with", EXAMPLE])
        .arg(&mended)
        .output()
        .expect("the binary starts");
    assert!(lint.status.success(), "{lint:?}");
    let (code, told) = explain(&[example, &mended], &question("/orders/7"));
    assert_eq!((code, &told["verdict"]), (0, &"allowed".into()), "{told}");
    assert!(told["policy"].as_str().is_some_and(|policy| policy.starts_with("shop/orders-allow-batch-")), "{told}");
    let (code, told) = explain(&[example, &mended], &question("/orders/8"));
    assert_eq!((code, &told["verdict"]), (4, &"refused".into()), "{told}");
    // A second one stands beside the first and does not replace it.
    let second = dir.path().join("second.yaml");
    fs::write(&second, told["wouldAllow"].as_str().expect("YAML")).expect("a file");
    for path in ["/orders/7", "/orders/8"] {
        let (code, told) = explain(&[example, &mended, &second], &question(path));
        assert_eq!(code, 0, "{path}: {told}");
    }
}

#[test]
fn what_depends_on_what_was_not_said_is_told_apart_from_yes_and_no() {
    let example = Path::new(EXAMPLE);
    let (code, told) = explain(&[example], &["--from", "nobody-there", "--to", "orders"]);
    assert_eq!(
        (code, &told["verdict"], &told["missing"][0]),
        (1, &"cannot-tell".into(), &"caller address".into()),
        "{told}"
    );
    let (code, told) = explain(&[example], &["--from", "10.20.1.99", "--to", "orders"]);
    assert_eq!((code, &told["reason"], &told["wouldAllow"]), (4, &"plaintext".into(), &Value::Null), "{told}");
    let (code, told) = explain(&[example], &["--from", "web", "--to", "ordres"]);
    assert_eq!(code, 1);
    assert!(told["error"].as_str().is_some_and(|error| error.contains("did you mean `orders`?")), "{told}");
}

/// Rules and transport are not asked about them, as by the proxy.
#[test]
fn a_probe_of_the_platform_is_told_as_the_proxy_would() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let probes = dir.path().join("probes.yaml");
    let policy = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: { namespace: shop, name: probes }\n\
                  spec: { services: [orders], probes: [{ port: 8080, path: /healthz }, { port: 9999, connect: true }, \
                  { port: 8080, grpc: true }] }\n";
    fs::write(&probes, policy).expect("a file");
    let files = [Path::new(EXAMPLE), probes.as_path()];
    // Azure's load balancers, who are the platform where nobody says otherwise.
    let from = |from: &'static str, rest: &[&'static str]| [&["--from", from, "--to", "orders"], rest].concat();
    let served = ["--method", "GET", "--path", "/healthz", "--port", "8080"];
    let (code, told) = explain(&files, &from("168.63.129.16", &served));
    assert_eq!((code, &told["verdict"], &told["probe"]), (0, &"allowed".into(), &"request".into()), "{told}");
    let grpc =
        ["--method", "POST", "--path", "/grpc.health.v1.Health/Check", "--header", "content-type: application/grpc"];
    let (code, told) = explain(&files, &from("168.63.129.16", &grpc));
    assert_eq!((code, &told["probe"]), (0, &"request".into()), "{told}");
    // Another place, path, method or a query is none.
    for (whence, rest) in [
        ("168.63.129.17", &served[..4]),
        ("168.63.129.16", &["--method", "GET", "--path", "/healthz?x=1"][..]),
        ("168.63.129.16", &["--method", "GET", "--path", "/health%7a"][..]),
        ("168.63.129.16", &["--method", "POST", "--path", "/healthz"][..]),
    ] {
        let (code, told) = explain(&files, &from(whence, rest));
        assert_eq!((code, &told["reason"], &told["probe"]), (4, &"plaintext".into(), &Value::Null), "{rest:?}: {told}");
    }
    // A connection that says nothing, at a port that no service has: anything that is said is refused.
    let (code, told) = explain(&files, &from("168.63.129.16", &["--port", "9999"]));
    assert_eq!((code, &told["reason"], &told["probe"]), (4, &"plaintext".into(), &"silence".into()), "{told}");
}
