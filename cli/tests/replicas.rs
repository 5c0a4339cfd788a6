//! The control plane's stores through the binary that users get: backup and restore while it runs, the move to etcd, and
//! three control planes on one etcd with proxies spread over them, of which one is killed, one cut off, and etcd restarted.
#![expect(clippy::unwrap_used, clippy::too_many_lines, reason = "a story that ends at its first failure")]

#[path = "replicas/single.rs"]
mod single;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use isthmus_world::Port;
use isthmus_world::apps::{Etcd, Relay};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);

/// A program of ours, killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints the ends of all logs below a directory where the test fails.
struct Logs<'a>(&'a Path);

impl Drop for Logs<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let entries = fs::read_dir(self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        for log in entries.map(|path| if path.is_dir() { path.join("log") } else { path }) {
            if log.ends_with("log") || log.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("---- {}\n{}", log.display(), lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
    }
}

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_isthmus"))
}

fn spawn(arguments: &[&str], log: &Path) -> Running {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    let out = log.try_clone().unwrap();
    Running(binary().args(arguments).stdin(Stdio::null()).stdout(out).stderr(log).spawn().unwrap())
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {} s: {what}", SOON.as_secs());
        std::thread::park_timeout(LOOK);
    }
}

/// One control plane: its configuration, its state, and its process while it runs.
struct Control {
    dir: PathBuf,
    proxies: SocketAddr,
    /// It is stopped and started where it was: nobody else may listen there, or dial from there, meanwhile.
    _ports: [Port; 3],
    running: Option<Running>,
}

impl Control {
    fn new(dir: &Path, store: &str) -> Control {
        fs::create_dir_all(dir).unwrap();
        let ports = [(); 3].map(|()| Port::reserve().unwrap());
        let [proxies, operators, metrics] = ports.each_ref().map(Port::address);
        let text = format!(
            "trustDomain: shop.example\nstateDir: {}\nadvertise: \"{proxies}\"\n\
             listen: {{ proxies: \"{proxies}\", operators: \"{operators}\", metrics: \"{metrics}\" }}\n\
             leases: {{ grace: 15s, afterStart: 60s }}\n{store}",
            dir.join("state").display()
        );
        fs::write(dir.join("control.yaml"), text).unwrap();
        Control { dir: dir.to_path_buf(), proxies, _ports: ports, running: None }
    }

    fn config(&self) -> String {
        self.dir.join("control.yaml").display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn start(&mut self) {
        let before = self.log().matches("control plane up").count();
        self.running = Some(spawn(&["control", "--config", &self.config()], &self.dir.join("log")));
        let up = || (self.log().matches("control plane up").count() > before).then_some(());
        let end = Instant::now() + SOON;
        while up().is_none() {
            assert!(Instant::now() < end, "{}", self.log());
            std::thread::park_timeout(LOOK);
        }
    }

    fn operator(&self, arguments: &[&str]) -> Output {
        let operator = self.dir.join("state/operator.yaml");
        binary().args(arguments).env("ISTHMUS_OPERATOR", operator).stdin(Stdio::null()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Option<Value> {
        let done = self.operator(arguments);
        done.status.success().then(|| serde_json::from_slice(&done.stdout).unwrap())
    }

    fn apply(&self, text: &str) -> Output {
        let file = self.dir.join("apply.yaml");
        fs::write(&file, text).unwrap();
        self.operator(&["apply", "-f", file.to_str().unwrap(), "--json"])
    }

    /// Names of all that is stored, and the revision.
    fn stored(&self) -> Option<(u64, Vec<String>)> {
        let all = self.json(&["get", "all", "-o", "json"])?;
        let names = all["resources"].as_array()?.iter();
        let names = names.map(|one| one["resource"]["name"].as_str().unwrap_or_default().to_string()).collect();
        Some((all["revision"].as_u64()?, names))
    }

    /// As the others know it: the name of its directory.
    fn name(&self) -> String {
        self.dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Workloads whose proxies are connected, and to which control plane, as this one tells it.
    fn everywhere(&self) -> Vec<(String, String)> {
        let Some(answer) = self.json(&["get", "proxies", "-o", "json"]) else { return Vec::new() };
        let all = answer["proxies"].as_array().cloned().unwrap_or_default();
        let connected = all.iter().filter(|proxy| proxy["connected"] == true);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        connected.map(|proxy| (text(&proxy["workload"]), text(&proxy["replica"]))).collect()
    }

    /// Workloads whose proxies are connected here.
    fn connected(&self) -> Vec<String> {
        let here = self.everywhere().into_iter().filter(|(_, replica)| *replica == self.name());
        here.map(|(workload, _)| workload).collect()
    }

    /// How the only endpoint of a service stands.
    fn endpoint(&self, service: &str) -> Option<String> {
        let answer = self.json(&["endpoints", service, "--json"])?;
        answer["endpoints"][0]["state"].as_str().map(str::to_string)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        binary().args(arguments).stdin(Stdio::null()).output().unwrap()
    }
}

fn good(done: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

fn refused(done: &Output) -> String {
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn mesh(workloads: usize) -> String {
    let mut text = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: { name: dc1 }\n\
                    spec: { ranges: [10.1.0.0/16] }\n"
        .to_string();
    for n in 0..workloads {
        text += &format!(
            "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w{n}, namespace: shop, labels: {{ app: w{n} }} }}\n\
             spec: {{ site: dc1, addresses: [10.1.0.{}], serviceAccount: w{n} }}\n",
            n + 1
        );
    }
    text
}

fn site(n: usize) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: {{ name: s{n} }}\nspec: {{ ranges: [10.{}.0.0/16] }}\n",
        n + 100
    )
}

/// Six sidecars as plain processes; nothing is captured.
fn sidecar(dir: &Path, n: usize, controls: &[Control]) -> Running {
    let token = dir.join(format!("w{n}.token"));
    let created = controls[0].operator(&["token", "create", &format!("shop/w{n}"), "--out", token.to_str().unwrap()]);
    good(&created);
    let addresses: Vec<String> = controls.iter().map(|control| control.proxies.to_string()).collect();
    let config = dir.join(format!("w{n}.yaml"));
    let text = format!(
        "controlPlane: {{ address: \"{}\" }}\njoinTokenFile: {}\nstateDir: {}\nlastGood: {{ seal: none }}\nworkers: 1\n\
         capture: {{ mode: none }}\n\
         readiness: {{ command: [/usr/bin/test, -f, {}], interval: 200ms, timeout: 2s, failures: 1, successes: 1 }}\n\
         listen: {{ outbound: \"127.0.0.1:0\", inbound: \"127.0.0.1:0\", mesh: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\", \
         readiness: \"127.0.0.1:0\" }}\n",
        addresses.join(","),
        token.display(),
        dir.join(format!("w{n}")).display(),
        dir.join(format!("w{n}.ready")).display()
    );
    fs::write(&config, text).unwrap();
    fs::write(dir.join(format!("w{n}.ready")), "").unwrap();
    spawn(&["proxy", "--config", config.to_str().unwrap()], &dir.join(format!("w{n}.log")))
}

const SIDECARS: usize = 6;

/// Whichever is asked, it tells of every sidecar, and waits for every one.
fn answers_for_all(controls: &[Control]) {
    for control in controls {
        until("it knows all sidecars", || {
            let everywhere = control.everywhere();
            let at: std::collections::BTreeSet<_> = everywhere.iter().map(|(_, replica)| replica).collect();
            assert!(at.iter().all(|at| controls.iter().any(|control| control.name() == **at)), "{at:?}");
            (everywhere.len() == SIDECARS).then_some(())
        });
    }
    let file = controls[1].dir.join("wait.yaml");
    fs::write(&file, site(7)).unwrap();
    let done = controls[1].operator(&["apply", "-f", file.to_str().unwrap(), "--wait", "--json"]);
    let said: Value = serde_json::from_str(&good(&done)).unwrap();
    let reached = &said["inForce"];
    assert_eq!((reached["acknowledged"].as_u64(), reached["complete"].as_bool()), (Some(6), Some(true)), "{said}");
    let revision = said["revision"].as_u64().unwrap();
    for control in controls {
        let all = control.json(&["get", "proxies", "-o", "json"]).unwrap();
        let acked = |proxy: &Value| proxy["acknowledgedVersion"].as_u64() >= Some(revision);
        // The one that was asked waited for all; to the others it is told within a second.
        let now = all["proxies"].as_array().unwrap().iter().filter(|proxy| acked(proxy)).count();
        assert!(control.name() != controls[1].name() || now == SIDECARS, "{all}");
    }
}

/// An app that is not ready leaves every control plane's views long before the grace (15 s) that a lost stream has.
fn withdrawn_at_once(dir: &Path, controls: &[Control]) {
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: w0, namespace: shop }\n\
                   spec: { selector: { app: w0 }, ports: [{ port: 80 }] }\n";
    good(&controls[0].apply(service));
    let all = |state: &str| controls.iter().all(|one| one.endpoint("shop/w0").as_deref() == Some(state)).then_some(());
    until("its endpoint is told", || all("connected"));
    fs::remove_file(dir.join("w0.ready")).unwrap();
    let since = Instant::now();
    until("it is withdrawn everywhere", || all("unready"));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    fs::write(dir.join("w0.ready"), "").unwrap();
    until("it is back everywhere", || all("connected"));
}

fn all_connected(controls: &[&Control]) -> Option<()> {
    let mut found: Vec<String> = controls.iter().flat_map(|control| control.connected()).collect();
    found.sort();
    (found == (0..SIDECARS).map(|n| format!("shop/w{n}")).collect::<Vec<_>>()).then_some(())
}

#[test]
fn three_control_planes_on_one_etcd_lose_nothing_when_one_dies_one_is_cut_off_and_etcd_restarts() {
    if isthmus_world::find::or_skip(&["etcd"], "three control planes on one etcd").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _logs = Logs(dir.path());
    let mut etcd = Etcd::start(3).unwrap();
    let key = dir.path().join("store.key");
    fs::write(&key, "correct horse battery").unwrap();
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    // Each has a way of its own to etcd, which can be cut.
    let relays: Vec<Vec<Relay>> = (0..3)
        .map(|_| etcd.clients().into_iter().map(|client: SocketAddr| Relay::to(client).unwrap()).collect())
        .collect();
    let mut controls: Vec<Control> = (0..3)
        .map(|n| {
            let endpoints: Vec<String> =
                relays[n].iter().map(|relay| format!("\"http://{}\"", relay.address())).collect();
            let store = format!(
                "store:\n  etcd: {{ endpoints: [{}], replica: c{n} }}\n  encryption: {{ passphraseFile: {} }}\n",
                endpoints.join(", "),
                key.display()
            );
            Control::new(&dir.path().join(format!("c{n}")), &store)
        })
        .collect();
    controls.iter_mut().for_each(Control::start);
    good(&controls[0].apply(&mesh(SIDECARS)));
    // What one takes, the others have.
    for control in &controls {
        until("everybody has the mesh", || (control.stored()?.1.len() == SIDECARS + 1).then_some(()));
    }
    let _sidecars: Vec<Running> = (0..SIDECARS).map(|n| sidecar(dir.path(), n, &controls)).collect();
    until("all sidecars are connected", || all_connected(&controls.iter().collect::<Vec<_>>()));
    answers_for_all(&controls);
    withdrawn_at_once(dir.path(), &controls);

    // One dies: its sidecars come to the others, and what it acknowledged is there.
    good(&controls[2].apply(&site(1)));
    let acknowledged = controls[2].stored().unwrap().0;
    controls[2].running = None;
    until("the others have all sidecars", || all_connected(&[&controls[0], &controls[1]]));
    for control in &controls[..2] {
        until("nothing is lost", || control.stored().filter(|(revision, _)| *revision >= acknowledged));
        assert!(control.stored().unwrap().1.contains(&"s1".to_string()));
    }

    // One is cut off: it takes no writes, lets its sidecars go, and has everything once it is back.
    relays[1].iter().for_each(Relay::cut);
    good(&controls[0].apply(&site(2)));
    let refusal = controls[1].apply(&site(3));
    assert!(!refusal.status.success(), "a write was acknowledged without the store: {refusal:?}");
    until("the one that is left has all sidecars", || all_connected(&[&controls[0]]));
    let services = controls[0].json(&["get", "all", "-o", "json"]).unwrap();
    assert!(!services.to_string().contains("\"s3\""), "a refused write is there");
    relays[1].iter().for_each(Relay::mend);
    until("it has what it missed", || controls[1].stored().filter(|(_, names)| names.contains(&"s2".to_string())));
    let (one, other) = (controls[0].stored().unwrap(), controls[1].stored().unwrap());
    assert_eq!(one, other);
    until("it writes again", || controls[1].apply(&site(4)).status.success().then_some(()));

    // All of etcd restarts: what was acknowledged is there, and writing goes on.
    let before = until("both are level", || {
        let (one, other) = (controls[0].stored()?, controls[1].stored()?);
        (one == other).then_some(one)
    });
    (0..3).for_each(|member| etcd.kill(member));
    assert!(!controls[0].apply(&site(5)).status.success(), "a write was acknowledged without etcd");
    assert_eq!(controls[0].stored().unwrap(), before, "what is in force is still told");
    let told = controls[0].operator(&["get", "all", "-o", "json"]);
    let warning = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(warning.contains("who changed it when is missing"), "{warning}");
    (0..3).for_each(|member| etcd.restart(member).unwrap());
    etcd.healthy().unwrap();
    until("writing goes on", || controls[0].apply(&site(6)).status.success().then_some(()));
    until("at both", || controls[1].stored().filter(|(_, names)| names.contains(&"s6".to_string())));
    assert!(before.1.iter().all(|name| controls[1].stored().unwrap().1.contains(name)));

    // The dead one comes back with its own state of before, and is level at once.
    controls[2].start();
    until("it is level", || (controls[2].stored() == controls[0].stored()).then_some(()));
    until("all sidecars are connected", || all_connected(&controls.iter().collect::<Vec<_>>()));
}
