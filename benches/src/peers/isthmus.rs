//! Ours as a user deploys it: a control plane, two sidecars with join tokens, captured traffic to a virtual address, and
//! everything on that the performance targets name: a policy of 100 rules, metrics, 1 % of requests traced.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use isthmus_world::otlp::Receiver;
use isthmus_world::{Command, Host, Process};

use super::{Running, Sides};
use crate::mutual_tls::{self, Asked};
use crate::stage::{APP_PORT, Stage};

/// Where a sidecar takes connections of other sidecars.
const MESH_PORT: u16 = 15008;
/// The service's virtual address: no host has it, so that nothing answers without the mesh.
const SERVICE: &str = "10.96.0.10";
const RULES: usize = 100;
/// By this mark a sidecar's own traffic passes its capture.
const MARK: u32 = 1337;
const START: Duration = Duration::from_secs(20);
/// A unix socket, which both hosts reach.
const COLLECTOR: &str = "otlp.sock";
/// For one command of the operator.
const COMMAND: Duration = Duration::from_secs(40);

/// What the pair needs besides itself.
pub(super) struct Beside {
    _control: Process,
    collector: Receiver,
}

impl Beside {
    /// Spans that have arrived. None would mean that the load was carried with tracing off.
    pub(super) fn spans(&self) -> Result<u64, String> {
        match self.collector.received() {
            0 => Err("no span arrived, though 1 % of the requests should be traced".to_owned()),
            spans => Ok(spans),
        }
    }
}

pub(super) fn start(program: &Path, stage: &Stage) -> Result<Running, String> {
    let mut collector = Receiver::new();
    collector.listen_unix(&stage.hosts.client, &stage.path(COLLECTOR)).map_err(|error| error.to_string())?;
    // On the caller's host, which has no inbound capture: both sidecars reach it there.
    let control = control_plane(program, stage)?;
    let resources = stage.file("resources.yaml", &resources(stage))?;
    operator(program, stage, &["apply", "-f", &resources.display().to_string()])?;
    let callee = sidecar(program, stage, &stage.hosts.server, "callee", "all")?;
    let caller = sidecar(program, stage, &stage.hosts.client, "caller", "services")?;
    for side in [&callee, &caller] {
        side.wait_for_line("readiness", START, |line| line.contains("ready")).map_err(|error| error.to_string())?;
    }
    let callee_mesh = stage.hosts.server.socket(MESH_PORT);
    let asked =
        Asked { from: &stage.hosts.client, address: callee_mesh, name: "callee.bench.example", alpn: "isthmus/1" };
    let proof = mutual_tls::refuses_strangers(&asked)?;
    let url = format!("http://{SERVICE}/");
    Ok(Running {
        url,
        sides: Some(Sides { caller, callee }),
        proof: Some(proof),
        beside: Some(Beside { _control: control, collector }),
    })
}

fn control_plane(program: &Path, stage: &Stage) -> Result<Process, String> {
    let host = &stage.hosts.client;
    let config = format!(
        "trustDomain: bench.example\nstateDir: {}\nadvertise: \"{}\"\n\
         listen: {{ proxies: \"{}\", operators: \"{}\", metrics: \"127.0.0.1:15014\" }}\n",
        stage.path("control").display(),
        host.socket(15012),
        host.socket(15012),
        host.socket(15013),
    );
    let config = stage.file("control.yaml", &config)?;
    let command = Command::new(program).args(["control", "--config"]).arg(config).named("isthmus-control");
    let process = host.spawn(command).map_err(|error| error.to_string())?;
    // Not its ports: they are bound before the operator's credentials are written.
    process
        .wait_for_line("readiness", START, |line| line.contains("control plane up"))
        .map_err(|error| error.to_string())?;
    Ok(process)
}

/// A command of the operator, as a person would type it.
fn operator(program: &Path, stage: &Stage, arguments: &[&str]) -> Result<(), String> {
    let credentials = stage.path("control").join("operator.yaml");
    let command = Command::new(program).args(arguments).env("ISTHMUS_OPERATOR", credentials);
    let done = stage.hosts.client.output(command, COMMAND).map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("isthmus {}: {}\n{}{}", arguments.join(" "), done.status, done.stdout, done.stderr)),
    }
}

fn sidecar(program: &Path, stage: &Stage, host: &Host, name: &str, inbound: &str) -> Result<Process, String> {
    let token = stage.path(&format!("{name}.token"));
    operator(program, stage, &["token", "create", &format!("bench/{name}"), "--out", &token.display().to_string()])?;
    let dir = stage.path(&format!("{name}-sidecar"));
    fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let config = format!(
        "joinTokenFile: {}\nstateDir: {}\nworkers: 1\n\
         capture: {{ mode: nftables, exempt: {{ mark: {MARK} }}, inbound: {inbound} }}\n\
         admin: {{ socket: {} }}\nlog: {{ level: info, format: text }}\n",
        token.display(),
        dir.join("state").display(),
        dir.join("proxy.sock").display(),
    );
    let config = stage.file(&format!("{name}.yaml"), &config)?;
    let command = Command::new(program).args(["proxy", "--config"]).arg(config).named(&format!("isthmus-{name}"));
    host.spawn(command).map_err(|error| error.to_string())
}

fn resources(stage: &Stage) -> String {
    let (caller, callee) = (&stage.hosts.client, &stage.hosts.server);
    let collector = stage.path(COLLECTOR);
    let mut text = format!(
        r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {{ name: mesh }}
spec:
  trustDomain: bench.example
  enforcement: Enforce
  vipRanges: [10.96.0.0/16]
  dnsSuffixes: [svc.cluster.local]
  defaults: {{ transport: MeshOnly, minTlsVersion: "1.2", action: Deny }}
  telemetry: {{ otlp: "unix:{}", sampling: 0.01 }}
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Link
metadata: {{ name: wire }}
spec: {{ sites: [caller-site, callee-site], paths: [{{ name: primary }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ namespace: bench, name: backend }}
spec:
  clusterIPs: ["{SERVICE}"]
  selector: {{ app: callee }}
  ports: [{{ name: http, port: 80, targetPort: {APP_PORT}, appProtocol: http }}]
---
"#,
        collector.display()
    );
    for (name, host) in [("caller", caller), ("callee", callee)] {
        text.push_str(&side(name, host));
    }
    text.push_str(&policy());
    text
}

/// A site of one address, and the workload that has it.
fn side(name: &str, host: &Host) -> String {
    let address = host.address();
    format!(
        r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: {{ name: {name}-site }}
spec: {{ ranges: [{address}/32] }}
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: {{ namespace: bench, name: {name}, labels: {{ app: {name} }} }}
spec: {{ site: {name}-site, addresses: ["{address}"], serviceAccount: {name} }}
---
"#
    )
}

/// The rule that allows the load is the last one; each of the others is about the same caller, and about a method and a
/// path that do not come, so that none can be left out by the caller's name alone.
fn policy() -> String {
    let mut text = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\n\
                    metadata: { namespace: bench, name: backend }\n\
                    spec:\n  services: [backend]\n  transport: MeshOnly\n  allow:\n"
        .to_owned();
    for rule in 1..RULES {
        let _ = writeln!(
            text,
            "    - from: {{ serviceAccounts: [caller] }}\n      to: {{ methods: [POST, PUT], paths: [\"/v1/{rule}/*\"] }}"
        );
    }
    text + "    - from: { serviceAccounts: [caller] }\n      to: { methods: [GET], paths: [\"/*\"] }\n"
}
