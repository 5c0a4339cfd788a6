//! Whole processes with clocks that are off, a machine that joins by a certificate of its company's CA, a state directory
//! that is sealed, a control plane that is put back from a backup: the binary that users get, on loopback, with no switch
//! for tests in it. Clocks are moved by libfaketime.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "machines/put_back.rs"]
mod put_back;
#[path = "machines/sealed.rs"]
mod sealed;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

const ISTHMUS: &str = env!("CARGO_BIN_EXE_isthmus");
/// An unoptimised binary on a busy machine.
const SOON: Duration = Duration::from_secs(60);

const MESH: &str = "
apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { trustDomain: shop.example }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: web }
spec: { site: dc1, addresses: [10.20.1.11], serviceAccount: web }
";

/// libfaketime, as Debian has it. None: not installed, which is said; and a failure where CI promised that it is.
fn libfaketime() -> Option<PathBuf> {
    let lib = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = lib.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        let message = "SKIPPED: processes with skewed clocks: not installed: libfaketime";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{message} (CI is set)");
        eprintln!("{message}");
    }
    found
}

/// A process, with what it logs. It ends with this.
struct Daemon {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Daemon {
    /// `skew` as libfaketime has it, `+5m`.
    fn start(args: &[&str], skew: Option<(&Path, &str)>) -> Daemon {
        let mut command = Command::new(ISTHMUS);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some((library, skew)) = skew {
            // Only the wall clock: deadlines and timers stay what they are.
            command.env("LD_PRELOAD", library).env("FAKETIME", skew).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut child = command.spawn().unwrap();
        let (send, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        Daemon { child, lines, seen: Vec::new() }
    }

    /// The first line from now on that holds one of these.
    fn says(&mut self, texts: &[&str]) -> String {
        let until = Instant::now() + SOON;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("none of {texts:?} was said:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if texts.iter().any(|text| line.contains(text)) {
                return line;
            }
        }
    }

    /// A line that holds this, since the beginning.
    fn has_said(&mut self, text: &str) {
        if !self.seen.iter().any(|line| line.contains(text)) {
            self.says(&[text]);
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

struct Control {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

impl Control {
    fn start(more: &str, skew: Option<(&Path, &str)>) -> Control {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, more, skew)
    }

    fn start_in(dir: tempfile::TempDir, more: &str, skew: Option<(&Path, &str)>) -> Control {
        let at = dir.path().display();
        let text = format!(
            "trustDomain: shop.example\nstateDir: {at}/state\nadvertise: 127.0.0.1:15012\nresources: {at}/resources\n\
             listen: {{ proxies: '127.0.0.1:0', operators: '127.0.0.1:0', metrics: '127.0.0.1:0' }}\n{more}"
        );
        fs::create_dir_all(dir.path().join("resources")).unwrap();
        fs::write(dir.path().join("resources/mesh.yaml"), MESH).unwrap();
        let config = dir.path().join("control.yaml");
        fs::write(&config, text.replace("DIR", &at.to_string())).unwrap();
        let mut daemon = Daemon::start(&["control", "--config", &config.display().to_string()], skew);
        daemon.says(&["control plane up"]);
        Control { dir, daemon }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// An operator's command, tried until it succeeds: resources are read shortly after the ports are open.
    fn isthmus(&self, args: &[&str], skew: Option<(&Path, &str)>) -> Output {
        let until = Instant::now() + SOON;
        loop {
            let mut command = Command::new(ISTHMUS);
            command.args(args).env("ISTHMUS_OPERATOR", self.path("state/operator.yaml"));
            if let Some((library, skew)) = skew {
                command.env("LD_PRELOAD", library).env("FAKETIME", skew);
            }
            let done = command.output().unwrap();
            if done.status.success() {
                return done;
            }
            assert!(Instant::now() < until, "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// A proxy's configuration; `first` is how it enrols.
    fn proxy_config(&self, first: &str) -> String {
        let any = "'127.0.0.1:0'";
        let text = format!(
            "{first}\nstateDir: {}\nworkers: 1\ncapture: {{ mode: none }}\n\
             listen: {{ outbound: {any}, inbound: {any}, mesh: {any}, metrics: {any}, readiness: {any} }}\n",
            self.path("proxy")
        );
        fs::write(self.path("proxy.yaml"), text).unwrap();
        self.path("proxy.yaml")
    }

    fn with_token(&self, skew: Option<(&Path, &str)>) -> String {
        let made = self.isthmus(&["token", "create", "shop/orders"], skew);
        fs::write(self.path("token"), made.stdout).unwrap();
        self.proxy_config(&format!("joinTokenFile: {}", self.path("token")))
    }
}

#[test]
fn clocks_five_minutes_apart_break_nothing_whichever_is_wrong() {
    let Some(library) = libfaketime() else { return };
    for (control, proxy) in [("+0", "+5m"), ("+0", "-5m"), ("+5m", "+0"), ("-5m", "+0")] {
        let of_control = Some((library.as_path(), control));
        let world = Control::start("", of_control);
        let config = world.with_token(of_control);
        let mut sidecar = Daemon::start(&["proxy", "--config", &config], Some((&library, proxy)));
        sidecar.says(&["enrolled spiffe="]);
        let said = sidecar.says(&["clock skew 5 m", "clock skew 4 m"]);
        assert!(said.contains("set one of the two right"), "{said}");
        sidecar.says(&["discovery: connected"]);
        // Once more with what it holds: a certificate that is valid by both clocks.
        drop(sidecar);
        let mut again = Daemon::start(&["proxy", "--config", &config], Some((&library, proxy)));
        again.says(&["discovery: connected"]);
        assert!(!again.seen.iter().any(|line| line.contains("enrolled spiffe=")), "{:?}", again.seen);
    }
}

#[test]
fn seventeen_minutes_are_named_at_both_ends_and_are_no_tls_error() {
    let Some(library) = libfaketime() else { return };
    for (skew, side) in [("+1023s", "ahead of"), ("-1023s", "behind")] {
        let mut world = Control::start("", None);
        let config = world.with_token(None);
        let mut sidecar = Daemon::start(&["proxy", "--config", &config], Some((&library, skew)));
        let expected = format!("this machine is {side} the control plane");
        let said = sidecar.says(&["clock skew 17 m"]);
        assert!(said.contains(&expected), "{said}");
        let said = world.daemon.says(&["clock skew 17 m"]);
        assert!(said.contains(&expected) && said.contains("refused"), "{said}");
        drop(sidecar);
        // The token is still good, and the clock is all that was wrong.
        let mut right = Daemon::start(&["proxy", "--config", &config], None);
        right.says(&["enrolled spiffe="]);
        right.says(&["discovery: connected"]);
        // An identity that it holds already: a stream is refused or named, not met by an alert without a word.
        drop(right);
        let mut off = Daemon::start(&["proxy", "--config", &config], Some((&library, skew)));
        let said = off.says(&["clock skew 17 m"]);
        assert!(said.contains(&expected), "{said}");
    }
}

/// A company's CA, and what it gave to one of its machines.
fn write_company_certificate(dir: &Path) {
    let ca = {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let mut params = CertificateParams::new(vec!["vm-1.corp.example".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    fs::write(dir.join("corp.pem"), ca.pem()).unwrap();
    fs::write(dir.join("vm.pem"), certificate.pem()).unwrap();
    fs::write(dir.join("vm.key"), key.serialize_pem()).unwrap();
}

#[test]
fn a_machine_joins_by_its_companys_certificate_with_nothing_but_that() {
    let dir = tempfile::tempdir().unwrap();
    write_company_certificate(dir.path());
    let attestation = "attestation:\n  certificates:\n    - name: corp\n      roots: DIR/corp.pem\n      \
                       workloads: { vm-1.corp.example: shop/orders }\n";
    let world = Control::start_in(dir, attestation, None);
    world.isthmus(&["get", "workload", "orders", "-n", "shop"], None);
    let listed = world.isthmus(&["certs", "--json"], None);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let root = listed["roots"][0]["fingerprint"].as_str().unwrap();
    let token = String::from_utf8(world.isthmus(&["token", "create", "shop/orders"], None).stdout).unwrap();
    let address = isthmus_certs::JoinToken::parse(token.trim()).unwrap().address;
    let (pem, key) = (world.path("vm.pem"), world.path("vm.key"));
    let (config_dir, state_dir) = (world.path("etc"), world.path("var"));
    let args = [
        "join",
        "--certificate",
        &pem,
        "--key",
        &key,
        "--authority",
        "corp",
        "--control-plane",
        &address,
        "--trust-domain",
        "shop.example",
        "--root",
        root,
        "--service",
        "none",
        "--config-dir",
        &config_dir,
        "--state-dir",
        &state_dir,
    ];
    let joined = Command::new(ISTHMUS).args(args).output().unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let written = fs::read_to_string(Path::new(&config_dir).join("proxy.yaml")).unwrap();
    // What is written names the key's file; on this machine nothing may be captured, so the rest is another.
    let first = written.split("stateDir:").next().unwrap();
    let config = world.proxy_config(first);
    let mut sidecar = Daemon::start(&["proxy", "--config", &config], None);
    let said = sidecar.says(&["enrolled spiffe="]);
    assert!(said.contains("spiffe://shop.example/ns/shop/sa/orders"), "{said}");
    sidecar.says(&["discovery: connected"]);
    // Its state is lost: the certificate alone does not bring it back, an operator's word does.
    drop(sidecar);
    fs::remove_dir_all(world.path("proxy")).unwrap();
    let mut lost = Daemon::start(&["proxy", "--config", &config], None);
    lost.says(&["isthmus identity release shop/orders"]);
    drop(lost);
    world.isthmus(&["identity", "release", "shop/orders"], None);
    let mut back = Daemon::start(&["proxy", "--config", &config], None);
    back.says(&["enrolled spiffe="]);
    assert!(!back.seen.join("\n").contains("PRIVATE"));
}
