//! Resources from the operator's side: the binary that users get, as control plane and as command, on loopback.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const ISTHMUS: &str = env!("CARGO_BIN_EXE_isthmus");

const MESH: &str = "
apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { trustDomain: shop.example, vipRanges: [10.96.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { ports: [{ port: 80 }] }
";

const POLICY: &str = "
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: shop, name: orders, labels: { team: a } }
spec: { services: [orders], allow: [{ to: { ports: [80] } }] }
";

/// A control plane with a mesh, and an operator's home beside it.
struct Control {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Control {
    fn start() -> Control {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let any = "'127.0.0.1:0'";
        let text = format!(
            "trustDomain: shop.example\nstateDir: {at}/state\nadvertise: 127.0.0.1:15012\n\
             listen: {{ proxies: {any}, operators: {any}, metrics: {any} }}\n"
        );
        fs::create_dir_all(dir.path().join("home")).unwrap();
        let config = dir.path().join("control.yaml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(ISTHMUS);
        command.args(["control", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let mut daemon = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.contains("control plane up")), "it did not come up");
        // Read on, so that it never waits for us; ends with the process.
        std::thread::spawn(move || lines.for_each(drop));
        let control = Control { dir, daemon };
        control.write("mesh.yaml", MESH);
        control.ok(&["apply", "-f", &control.path("mesh.yaml")]);
        control
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(ISTHMUS);
        command.args(args).env_clear().env("HOME", self.path("home")).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("ISTHMUS_OPERATOR", self.path("state/operator.yaml")).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stdout)
    }

    fn refused(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.status.code(), Some(1), "{args:?}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stderr)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// With an editor that is a script; it finds the file in `$1`.
    fn edit(&self, what: &[&str], script: &str) -> Output {
        let editor = self.write("editor.sh", &format!("#!/bin/sh\nset -e\n{script}\n"));
        fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
        let args: Vec<&str> = ["edit"].iter().chain(what).copied().collect();
        self.command(&args).env("EDITOR", editor).output().unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/kubernetes")
}

#[test]
fn what_is_written_for_kubernetes_is_applied_as_it_is() {
    let control = Control::start();
    control.ok(&["apply", "-f", &documents().display().to_string()]);
    let endpoints = |service: &str| {
        let found = control.json(&["endpoints", service, "--json"]);
        let all = found["endpoints"].as_array().unwrap().iter();
        let all = all.map(|e| format!("{} {}", e["ip"].as_str().unwrap(), e["ports"][0].as_str().unwrap()));
        all.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(endpoints("default/my-service"), ["192.0.2.42 80→9376"]);
    assert_eq!(endpoints("default/sliced"), ["10.1.2.3 80→9376", "10.4.5.6 80→9376"]);
    assert_eq!(endpoints("default/unnamed"), ["10.4.5.7 80→9376"]);
    let services = control.json(&["services", "-n", "prod", "--json"]);
    assert_eq!(services["services"][0]["name"], "my-database", "{services}");
    let stored = control.ok(&["get", "service", "prod/my-database", "-o", "yaml"]);
    assert!(stored.contains("externalName: my.database.example.com"), "{stored}");
    let again = control.ok(&["apply", "-f", &documents().display().to_string()]);
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    let gone = control.ok(&["delete", "-f", &documents().display().to_string()]);
    assert_eq!(gone.lines().count(), 7, "{gone}");
}

#[test]
fn an_apply_is_shown_recorded_and_taken_back() {
    let control = Control::start();
    let policy = control.write("policy.yaml", POLICY);
    let shown = control.ok(&["apply", "-f", &policy, "--dry-run"]);
    assert!(shown.contains("+ kind: ServicePolicy"), "{shown}");
    let first = control.json(&["apply", "-f", &policy, "--json"])["revision"].as_u64().unwrap();
    control.write("policy.yaml", &POLICY.replace("[80]", "[81]"));
    control.ok(&["apply", "-f", &policy, "--wait"]);
    let told = control.ok(&["history", "policy", "shop/orders"]);
    assert!(told.lines().count() == 3 && told.contains("ServicePolicy shop/orders updated"), "{told}");
    let told = control.ok(&["history", &(first + 1).to_string()]);
    assert!(told.contains("-       - 80") && told.contains("+       - 81"), "{told}");
    let to = first.to_string();
    let asks = control.refused(&["rollback", &to]);
    assert!(asks.contains("--yes") && asks.contains("1 resource would change"), "{asks}");
    let shown = control.ok(&["rollback", "policy/shop/orders", "--to", &to, "--dry-run"]);
    assert!(shown.contains("(dry run)") && shown.contains("-       - 81"), "{shown}");
    let done = control.ok(&["rollback", "policy/shop/orders", "--to", &to, "--yes"]);
    assert!(done.contains(&format!("this is revision {}", first + 2)), "{done}");
    assert_eq!(control.run(&["diff", "-f", &control.write("p.yaml", POLICY)]).status.code(), Some(0));
    let nothing = control.ok(&["rollback", &to, "--yes"]);
    assert!(nothing.contains("nothing to change"), "{nothing}");
    let json = control.json(&["history", "--json"]);
    assert_eq!(json["revisions"][0]["how"], format!("rollback to {to}"));
    assert_eq!(json["revisions"][0]["by"], "admin");
    assert!(control.refused(&["rollback", "999", "--yes"]).contains("no revision 999"));
}

#[test]
fn pruning_shows_what_would_go_and_asks() {
    let control = Control::start();
    // A pipe whose writer has failed looks like this.
    let nothing = control.write("nothing.yaml", "# nothing\n---\n");
    for input in ["-", &nothing] {
        assert!(control.refused(&["apply", "-f", input]).contains("no document in the input"));
        control.refused(&["apply", "-f", input, "--prune", "--set", "a", "--yes"]);
    }
    let other = POLICY.replace("name: orders", "name: other");
    control.write("team/a.yaml", POLICY);
    control.write("team/b.yaml", &other);
    let dir = control.path("team");
    control.ok(&["apply", "-f", &dir, "--prune", "--set", "team-a"]);
    fs::remove_file(control.path("team/b.yaml")).unwrap();
    let shown = control.ok(&["apply", "-f", &dir, "--prune", "--set", "team-a", "--dry-run"]);
    assert!(shown.contains("ServicePolicy shop/other deleted (dry run)"), "{shown}");
    let asks = control.refused(&["apply", "-f", &dir, "--prune", "--set", "team-a"]);
    assert!(asks.contains("ServicePolicy shop/other deleted") && asks.contains("--yes"), "{asks}");
    control.ok(&["get", "policy", "shop/other"]);
    control.ok(&["apply", "-f", &dir, "--prune", "--set", "team-a", "--yes"]);
    assert!(control.refused(&["get", "policy", "shop/other"]).contains("there is no ServicePolicy shop/other"));
    control.ok(&["get", "meshconfig", "mesh"]);
    let table = control.ok(&["get", "policies", "-l", "team=a", "-o", "wide"]);
    assert!(table.contains("set team-a") && table.contains("IN FORCE") && table.contains("admin"), "{table}");
    assert_eq!(control.run(&["apply", "-f", &dir, "--prune"]).status.code(), Some(2), "of what?");
}

#[test]
fn an_edit_is_applied_comes_back_with_its_faults_and_never_overwrites_unseen() {
    let control = Control::start();
    control.ok(&["apply", "-f", &control.write("policy.yaml", POLICY)]);
    let what = ["policy", "shop/orders"];
    let ports = || {
        control.json(&["get", "policy", "shop/orders", "--json"])["document"]["spec"]["allow"][0]["to"]["ports"][0]
            .clone()
    };
    let done = control.edit(&what, "sed -i 's/- 80$/- 82/' \"$1\"");
    assert!(done.status.success() && text(&done.stdout).contains("updated"), "{}", text(&done.stderr));
    assert_eq!(ports(), 82);
    let done = control.edit(&what, "true");
    assert!(done.status.success() && text(&done.stdout).contains("nothing was changed"));

    // A fault comes back on top, and is put right in the second round.
    let seen = control.path("seen");
    let script = format!(
        "if grep -q 'not a port' \"$1\"; then cp \"$1\" {seen}; sed -i 's/70000/83/' \"$1\"; else sed -i 's/- 82$/- 70000/' \"$1\"; fi"
    );
    let done = control.edit(&what, &script);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(ports(), 83);
    let shown = fs::read_to_string(&seen).unwrap();
    assert!(shown.starts_with("#| ServicePolicy shop/orders:") && shown.contains("70000 is not a port"), "{shown}");

    // Somebody else is faster: it is shown, and not saving leaves theirs.
    let theirs = control.write("theirs.yaml", &POLICY.replace("[80]", "[84]"));
    let operator = control.path("state/operator.yaml");
    let race = format!(
        "if grep -q 'somebody else' \"$1\"; then cp \"$1\" {seen}; LATER; else \
         {ISTHMUS} apply --operator {operator} -f {theirs} >/dev/null; sed -i 's/- 83$/- 85/' \"$1\"; fi"
    );
    let done = control.edit(&what, &race.replace("LATER", "true"));
    assert_eq!(done.status.code(), Some(1), "{}", text(&done.stdout));
    assert_eq!(ports(), 84, "theirs stays");
    let shown = fs::read_to_string(&seen).unwrap();
    assert!(shown.contains("#| +") && shown.contains("- 84"), "what they did is shown: {shown}");
    control.write("theirs.yaml", &POLICY.replace("[80]", "[86]"));
    let race = race.replace("- 83$", "- 84$");
    let done = control.edit(&what, &race.replace("LATER", "touch \"$1\""));
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(ports(), 85, "seen, and saved once more");
    let other =
        control.edit(&what, "grep -q 'edits ServicePolicy' \"$1\" || sed -i 's/name: orders/name: else/' \"$1\"");
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("edits ServicePolicy shop/orders alone"), "{}", text(&other.stderr));
}

#[test]
fn status_and_version_are_shown_as_kubernetes_does() {
    let control = Control::start();
    let got = control.json(&["get", "service", "shop/orders", "--json"]);
    let document = &got["document"];
    assert_eq!(document["metadata"]["resourceVersion"], got["revision"].to_string());
    let conditions = document["status"]["conditions"].as_array().unwrap();
    let all: Vec<&str> = conditions.iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(all, ["Accepted", "InForce", "Conflicted"]);
    assert!(conditions.iter().all(|c| c["lastTransitionTime"].is_string() && c["message"].is_string()), "{document}");
    let yaml = control.ok(&["get", "all", "-o", "yaml"]);
    assert!(yaml.contains("type: InForce"), "{yaml}");
    let back = control.ok(&["apply", "-f", &control.write("all.yaml", &yaml)]);
    assert!(back.lines().all(|line| line.ends_with("unchanged")), "what is shown may be applied: {back}");
}

#[test]
fn commands_go_to_the_context_that_is_used() {
    let (one, two) = (Control::start(), Control::start());
    two.ok(&["apply", "-f", &two.write("policy.yaml", POLICY)]);
    let run = |args: &[&str]| one.command(args).env_remove("ISTHMUS_OPERATOR").output().unwrap();
    let file = |control: &Control| control.path("state/operator.yaml");
    assert!(run(&["context", "add", "one", "--operator", &file(&one)]).status.success());
    assert!(run(&["context", "add", "two", "--operator", &file(&two)]).status.success());
    let policies = |args: &[&str]| text(&run(&[&["get", "policies"], args].concat()).stdout).contains("orders");
    assert!(!policies(&[]), "the first to be added is used");
    assert!(policies(&["--context", "two"]));
    assert!(run(&["context", "use", "two"]).status.success());
    assert!(policies(&[]) && !policies(&["--context", "one"]) && !policies(&["--operator", &file(&one)]));
    let path = one.dir.path().join("home/.config/isthmus/contexts.yaml");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&path).unwrap().contains("PRIVATE"), "it holds no key");
    let listed = text(&run(&["context"]).stdout);
    assert!(listed.lines().any(|line| line.starts_with("*  two")), "{listed}");
    assert!(run(&["context", "rm", "two"]).status.success());
    let gone = run(&["get", "policies", "--context", "two"]);
    assert!(text(&gone.stderr).contains("there is no context `two`; known: one"), "{}", text(&gone.stderr));
    let missing = run(&["context", "add", "x", "--operator", "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn a_support_bundle_holds_what_helps_and_no_secret() {
    let control = Control::start();
    const SECRET: &str = "hunter2-planted";
    let with_secrets = POLICY
        .replace("labels:", &format!("annotations: {{ note: {SECRET} }}, labels:"))
        .replace("ports: [80]", &format!("ports: [80], headers: [{{ name: x-api-key, values: [{SECRET}] }}]"));
    control.ok(&["apply", "-f", &control.write("policy.yaml", &with_secrets)]);
    control.write(
        "etc/control.yaml",
        &format!("trustDomain: shop.example\npassword: {SECRET}\nurl: https://u:{SECRET}@h/\n"),
    );
    control.write(
        "etc/proxy.yaml",
        &format!("joinToken: isthmus1.{SECRET}\nnested: {{ deep: [{SECRET}] }}\nworkers: 2\n"),
    );
    let (out, etc) = (control.path("bundle.tar"), control.path("etc"));
    let told = control.ok(&["support-bundle", "--out", &out, "--config-dir", &etc, "--socket", "/nonexistent"]);
    assert!(told.contains("resources.json"), "{told}");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&out).unwrap();
    let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(!holds(SECRET), "a planted secret is in it");
    let operator = fs::read_to_string(control.path("state/operator.yaml")).unwrap();
    let key = operator.split("PRIVATE KEY-----\n").nth(1).unwrap().lines().next().unwrap().trim().to_string();
    assert!(key.len() > 20 && !holds(&key) && !holds("PRIVATE KEY"), "the operator's key is in it");
    assert!(
        holds("x-api-key") && holds("\"workers\"") | holds("workers: 2") && holds("shop.example"),
        "the structure stays"
    );
    let listed = Command::new("tar").arg("-tf").arg(&out).output().unwrap();
    assert!(listed.status.success(), "tar reads it: {}", text(&listed.stderr));
    let names = text(&listed.stdout);
    for name in [
        "versions.json",
        "check.json",
        "proxies.json",
        "certificates.json",
        "audit.jsonl",
        "history.json",
        "missing.txt",
    ] {
        assert!(names.contains(&format!("isthmus-support/{name}")), "{name}: {names}");
    }
    let extracted = Command::new("tar").arg("-xOf").arg(&out).arg("isthmus-support/check.json").output().unwrap();
    let check: Value = serde_json::from_slice(&extracted.stdout).unwrap();
    assert_eq!(check["findings"][0]["what"], "control plane", "{check}");
}

#[test]
fn schemas_are_printed_and_their_examples_are_applied_by_shape() {
    let control = Control::start();
    let schema = control.json(&["schema", "policy"]);
    assert_eq!(schema["title"], "ServicePolicy");
    let crd = control.ok(&["schema", "workload", "--crd"]);
    assert!(crd.contains("kind: CustomResourceDefinition") && crd.contains("workloads.mesh.isthmus.dev"), "{crd}");
    assert!(control.refused(&["schema", "service", "--crd"]).contains("Kubernetes' own"));
    let example = control.ok(&["schema", "site", "--example"]);
    let shown = control.ok(&["apply", "--dry-run", "-f", &control.write("site.yaml", &example)]);
    assert!(shown.contains("Site dc1"), "{shown}");
}

#[test]
fn documents_without_a_namespace_are_of_the_one_that_is_given() {
    let control = Control::start();
    let bare = POLICY.replace("namespace: shop, ", "");
    let path = control.write("bare.yaml", &bare);
    assert!(control.refused(&["apply", "-f", &path]).contains("`namespace` is required"));
    control.ok(&["apply", "-f", &path, "-n", "shop"]);
    control.ok(&["get", "policy", "shop/orders"]);
    let mut apply = control
        .command(&["apply", "-n", "shop", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    apply.stdin.take().unwrap().write_all(bare.as_bytes()).unwrap();
    let done = apply.wait_with_output().unwrap();
    assert!(text(&done.stdout).contains("unchanged"));
    control.ok(&["delete", "-f", &path, "-n", "shop"]);
}
