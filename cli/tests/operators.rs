//! Operators and pipelines as they are: the binary that users get, a control plane and two proxies on loopback, roles,
//! tokens and sign-ins, and the example clients of `deploy/examples/clients` in Python and TypeScript.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "operators/second.rs"]
mod second;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use isthmus_world::find;
use serde_json::Value;

const ISTHMUS: &str = env!("CARGO_BIN_EXE_isthmus");
const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// An unoptimised binary on a busy machine.
const SOON: Duration = Duration::from_secs(120);

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
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders-1, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders-2, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.11], serviceAccount: orders }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: shop-team }
spec: { role: policy-editor, namespaces: [shop], operators: [bob] }
";

fn policy(account: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: orders }}\n\
         spec: {{ services: [orders], allow: [{{ from: {{ serviceAccounts: [{account}] }} }}] }}\n"
    )
}

/// A process, with what it logs. It ends with this.
struct Daemon {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Daemon {
    fn start(args: &[&str]) -> Daemon {
        let mut command = Command::new(ISTHMUS);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (send, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        Daemon { child, lines, seen: Vec::new() }
    }

    fn says(&mut self, text: &str) {
        let until = Instant::now() + SOON;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("{text:?} was not said:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if line.contains(text) {
                return;
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct World {
    dir: tempfile::TempDir,
    _control: Daemon,
    proxies: Vec<Daemon>,
}

/// A person's or a pipeline's machine: a home of its own.
struct Machine(tempfile::TempDir);

impl World {
    fn start() -> World {
        Self::start_with("")
    }

    fn start_with(more: &str) -> World {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let text = format!(
            "trustDomain: shop.example\nstateDir: {at}/state\nadvertise: 127.0.0.1:15012\n\
             listen: {{ proxies: '127.0.0.1:0', operators: '127.0.0.1:0', metrics: '127.0.0.1:0' }}\n{more}"
        );
        let config = dir.path().join("control.yaml");
        fs::write(&config, text).unwrap();
        let mut control = Daemon::start(&["control", "--config", &config.display().to_string()]);
        control.says("control plane up");
        let world = World { dir, _control: control, proxies: Vec::new() };
        fs::write(world.dir.path().join("mesh.yaml"), MESH).unwrap();
        world.admin(&["apply", "-f", &world.path("mesh.yaml")]);
        world
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A person with a machine of his own, signed in.
    fn person(&self, name: &str) -> Machine {
        let token = self.path(&format!("{name}.token"));
        self.admin(&["invite", name, "--out", &token]);
        let machine = Machine::new();
        ok(&machine.isthmus(&["login", "--token-file", &token], &[]), &["login"]);
        machine
    }

    /// As the first operator, with the file that the control plane made.
    fn admin(&self, args: &[&str]) -> String {
        let mut command = Command::new(ISTHMUS);
        let done = command.args(args).env("ISTHMUS_OPERATOR", self.path("state/operator.yaml")).output().unwrap();
        ok(&done, args)
    }

    fn with_proxies(mut self) -> World {
        for name in ["orders-1", "orders-2"] {
            let token = self.admin(&["token", "create", &format!("shop/{name}")]);
            fs::write(self.path(&format!("{name}.token")), token).unwrap();
            let any = "'127.0.0.1:0'";
            let config = format!(
                "joinTokenFile: {}\nstateDir: {}\nworkers: 1\ncapture: {{ mode: none }}\n\
                 listen: {{ outbound: {any}, inbound: {any}, mesh: {any}, metrics: {any}, readiness: {any} }}\n\
                 admin: {{ socket: {} }}\n",
                self.path(&format!("{name}.token")),
                self.path(name),
                self.path(&format!("{name}.sock")),
            );
            fs::write(self.path(&format!("{name}.yaml")), config).unwrap();
            let mut proxy = Daemon::start(&["proxy", "--config", &self.path(&format!("{name}.yaml"))]);
            proxy.says("discovery: connected");
            self.proxies.push(proxy);
        }
        self
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(done: &Output, args: &[&str]) -> String {
    assert!(done.status.success(), "{args:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

impl Machine {
    fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    fn isthmus(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(ISTHMUS);
        command.args(args).env_clear().env("HOME", self.0.path()).envs(variables.iter().copied());
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn session(&self) -> PathBuf {
        self.0.path().join(".config/isthmus/session.yaml")
    }
}

#[test]
fn a_person_is_invited_signs_in_and_does_what_his_role_says() {
    let world = World::start();
    let token = world.path("bob.token");
    world.admin(&["invite", "bob", "--out", &token]);
    assert_eq!(mode(Path::new(&token)), 0o600);
    let bob = Machine::new();
    let said = ok(&bob.isthmus(&["login", "--token-file", &token], &[]), &["login"]);
    assert!(said.contains("signed in as bob") && said.contains("changes  shop"), "{said}");
    assert_eq!(mode(&bob.session()), 0o600);
    assert_eq!(mode(bob.session().parent().unwrap()), 0o700);

    // All other commands use it.
    let path = world.path("policy.yaml");
    fs::write(&path, policy("web")).unwrap();
    ok(&bob.isthmus(&["apply", "-f", &path], &[]), &["apply"]);
    fs::write(&path, policy("web").replace("shop", "hr")).unwrap();
    let refused = bob.isthmus(&["apply", "-f", &path], &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("policy-editor of namespace hr") && said.contains("ask an admin: admin"), "{said}");
    let refused = text(&bob.isthmus(&["robot", "create", "x", "--role", "admin"], &[]).stderr);
    assert!(refused.contains("operator bob may not call CreateAccessToken"), "{refused}");

    // Once: a second machine gets nothing. Renewal needs no token.
    let again = Machine::new().isthmus(&["login", "--token-file", &token], &[]);
    assert!(text(&again.stderr).contains("is used"), "{}", text(&again.stderr));
    let before = fs::read_to_string(bob.session()).unwrap();
    ok(&bob.isthmus(&["login", "--ttl", "10m"], &[]), &["login"]);
    let after = fs::read_to_string(bob.session()).unwrap();
    let key = |text: &str| text.split("key: |").nth(1).unwrap().to_owned();
    assert_ne!(key(&before), key(&after), "each certificate has a key of its own");
    let me: Value = serde_json::from_str(&ok(&bob.isthmus(&["whoami", "--json"], &[]), &["whoami"])).unwrap();
    assert_eq!((&me["operator"], &me["edits"][0], &me["admin"]), (&"bob".into(), &"shop".into(), &false.into()));

    let log = world.admin(&["audit", "export", "--json"]);
    let lines: Vec<Value> = serde_json::from_str(&log).unwrap();
    let change = lines.iter().find(|line| line["what"] == "changed" && line["operator"] == "bob").unwrap();
    assert_eq!(change["changes"][0]["resource"], "ServicePolicy shop/orders");
    let verified = world.admin(&["audit", "verify", "--json"]);
    assert!(verified.contains("\"ok\":true"), "{verified}");
}

#[test]
fn a_pipeline_signs_in_with_a_robots_token_from_its_environment_and_loses_all_when_that_is_revoked() {
    let world = World::start();
    let made = world.admin(&["robot", "create", "ci", "--role", "policy-editor", "-n", "shop", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let token = made["token"].as_str().unwrap();
    let job = Machine::new();
    let signed = job.isthmus(&["login", "--json"], &[("ISTHMUS_OPERATOR_TOKEN", token)]);
    let signed: Value = serde_json::from_str(&ok(&signed, &["login"])).unwrap();
    assert_eq!((&signed["operator"], &signed["edits"][0]), (&"robot.ci".into(), &"shop".into()));
    let path = world.path("policy.yaml");
    fs::write(&path, policy("web")).unwrap();
    ok(&job.isthmus(&["apply", "-f", &path, "--wait"], &[]), &["apply"]);
    let as_argument = job.isthmus(&["login", token], &[]);
    assert_eq!(as_argument.status.code(), Some(2), "never on the command line");

    world.admin(&["robot", "revoke", made["id"].as_str().unwrap()]);
    let refused = job.isthmus(&["get", "policies"], &[]);
    assert!(text(&refused.stderr).contains("is revoked"), "{}", text(&refused.stderr));
    let refused = job.isthmus(&["login"], &[("ISTHMUS_OPERATOR_TOKEN", token)]);
    assert!(text(&refused.stderr).contains("is revoked") && !text(&refused.stderr).contains(token));
    assert!(world.admin(&["robot", "list"]).contains("revoked"));
}

/// Both proxies have the policy of this account, as the control plane sees it.
fn in_force(world: &World, said: &str) {
    assert!(said.contains("2 of 2 proxies have it"), "{said}");
    let proxies: Value = serde_json::from_str(&world.admin(&["proxies", "--json"])).unwrap();
    let all = proxies["proxies"].as_array().or(proxies.as_array()).unwrap();
    assert_eq!(all.len(), 2, "{proxies}");
}

#[test]
fn the_python_client_pushes_a_policy_and_waits_until_two_of_two_proxies_have_it() {
    let Some(python) = find::or_skip(&["python3"], "the Python client") else { return };
    let packages = std::env::var_os("ISTHMUS_TEST_PYTHON").unwrap_or_default();
    let with = |more: &str| {
        let mut paths = vec![PathBuf::from(&packages)];
        paths.extend((!more.is_empty()).then(|| PathBuf::from(more)));
        let mut command = Command::new(&python[0]);
        command.env("PYTHONPATH", std::env::join_paths(paths).unwrap());
        command
    };
    let there = with("").args(["-c", "import grpc_tools.protoc"]).output().unwrap().status.success();
    if !there {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "grpcio-tools is not installed (CI is set)");
        eprintln!("SKIPPED: the Python client: not installed: grpcio-tools");
        return;
    }
    let world = World::start().with_proxies();
    let generated = world.path("gen");
    fs::create_dir(&generated).unwrap();
    let protos = format!("{TREE}/proto/proto");
    let mut generate = with("");
    generate.args(["-m", "grpc_tools.protoc", "-I", &protos]);
    generate.args([format!("--python_out={generated}"), format!("--grpc_python_out={generated}")]);
    for area in ["identity", "discovery", "admin", "flows"] {
        let files = fs::read_dir(format!("{protos}/isthmus/{area}/v1")).unwrap();
        generate.args(files.map(|file| file.unwrap().path()));
    }
    ok(&generate.output().unwrap(), &["protoc"]);

    let token = world.path("ci.token");
    world.admin(&["robot", "create", "ci", "--role", "policy-editor", "-n", "shop", "--out", &token]);
    let job = Machine::new();
    ok(&job.isthmus(&["login", "--token-file", &token], &[]), &["login"]);
    let path = world.path("policy.yaml");
    let push = || {
        let mut push = with(&generated);
        push.arg(format!("{TREE}/deploy/examples/clients/python/push_policy.py"));
        push.arg("--operator").arg(job.session()).arg(&path).output().unwrap()
    };
    fs::write(&path, policy("web")).unwrap();
    in_force(&world, &ok(&push(), &["push_policy.py"]));
    fs::write(&path, policy("web").replace("services: [orders]", "services: [nowhere]")).unwrap();
    let refused = push();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("there is no Service `nowhere`"), "{}", text(&refused.stderr));
}

#[test]
fn the_typescript_client_pushes_a_policy_and_waits_until_two_of_two_proxies_have_it() {
    let Some(node) = find::or_skip(&["node"], "the TypeScript client") else { return };
    let Some(modules) = std::env::var_os("ISTHMUS_TEST_NODE").map(PathBuf::from) else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "ISTHMUS_TEST_NODE is not set (CI is set)");
        eprintln!("SKIPPED: the TypeScript client: ISTHMUS_TEST_NODE names no directory with its node_modules");
        return;
    };
    let world = World::start().with_proxies();
    let built = world.path("client");
    fs::create_dir(&built).unwrap();
    for file in ["push_policy.ts", "tsconfig.json", "package.json"] {
        let from = format!("{TREE}/deploy/examples/clients/typescript/{file}");
        fs::copy(from, Path::new(&built).join(file)).unwrap();
    }
    std::os::unix::fs::symlink(modules.join("node_modules"), Path::new(&built).join("node_modules")).unwrap();
    let tsc = Path::new(&built).join("node_modules/typescript/bin/tsc");
    ok(&Command::new(&node[0]).arg(tsc).args(["-p", &built]).output().unwrap(), &["tsc"]);

    let token = world.path("ci.token");
    world.admin(&["robot", "create", "ci", "--role", "policy-editor", "-n", "shop", "--out", &token]);
    let job = Machine::new();
    ok(&job.isthmus(&["login", "--token-file", &token], &[]), &["login"]);
    let path = world.path("policy.yaml");
    let push = || {
        let mut push = Command::new(&node[0]);
        push.arg(Path::new(&built).join("push_policy.js")).arg(&path);
        push.env("ISTHMUS_OPERATOR", job.session()).env("ISTHMUS_PROTOS", format!("{TREE}/proto/proto"));
        push.output().unwrap()
    };
    fs::write(&path, policy("web")).unwrap();
    in_force(&world, &ok(&push(), &["push_policy.js"]));
    fs::write(&path, policy("web").replace("shop", "hr")).unwrap();
    let refused = push();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("policy-editor of namespace hr"), "{}", text(&refused.stderr));
}
