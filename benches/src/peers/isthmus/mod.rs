//! Ours as a user deploys it: a control plane, sidecars with join tokens, captured traffic to a virtual address, and
//! everything on that the performance targets name: a policy of 100 rules, metrics, 1 % of requests traced.

mod collector;
pub(crate) mod resources;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isthmus_world::{Command, Host, Process};

use self::collector::Collector;
use super::{Hops, Running, Setting};
use crate::mutual_tls::{self, Asked, Speaks};
use crate::stage::Stage;

/// Where a sidecar takes connections of other sidecars.
const MESH_PORT: u16 = 15008;
/// Where it tells its metrics.
const METRICS_PORT: u16 = 15020;
/// By this mark a sidecar's own traffic passes its capture.
const MARK: u32 = 1337;
const START: Duration = Duration::from_secs(20);
/// A unix socket, which both hosts reach.
const COLLECTOR: &str = "otlp.sock";
/// For one command of the operator. 100,000 services take their time.
const COMMAND: Duration = Duration::from_secs(180);

/// How much is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traced {
    /// 1 % of the requests, as the targets have it.
    Percent,
    Everything,
    Nothing,
    /// What the control plane keeps where there is no collector.
    Kept,
}

impl Traced {
    /// As MeshConfig has it.
    fn telemetry(self, collector: &Path) -> String {
        let collector = collector.display();
        match self {
            Traced::Percent => format!("{{ otlp: \"unix:{collector}\", sampling: 0.01 }}"),
            Traced::Everything => format!("{{ otlp: \"unix:{collector}\", sampling: 1.0 }}"),
            Traced::Nothing => "{ sampling: 0.0 }".to_owned(),
            Traced::Kept => "{ sampling: 1.0 }".to_owned(),
        }
    }
}

/// What the pair needs besides itself.
pub(crate) struct Beside {
    traced: Traced,
    control: Process,
    collector: Collector,
    operator: Operator,
}

/// The operator's commands, as a person would type them.
struct Operator {
    program: PathBuf,
    credentials: PathBuf,
    host: Host,
}

impl Beside {
    /// Spans that have arrived, and in how many bytes: some, unless the load was to be carried with tracing off.
    pub(crate) fn spans(&self) -> Result<(u64, u64), String> {
        let sent = matches!(self.traced, Traced::Percent | Traced::Everything);
        match self.collector.received() {
            (0, _) if sent => Err("no span arrived, though requests should be traced".to_owned()),
            (spans, _) if spans > 0 && !sent => Err(format!("{spans} spans arrived, though none should")),
            received => Ok(received),
        }
    }

    /// Applies more resources, in files of one directory, and waits until every sidecar has them.
    pub(crate) fn apply(&self, stage: &Stage, name: &str, files: &[String]) -> Result<(), String> {
        let dir = stage.path(name);
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        for (number, text) in files.iter().enumerate() {
            stage.file(&format!("{name}/{number}.yaml"), text)?;
        }
        let dir = dir.display().to_string();
        self.operator.command(&["apply", "--wait", "--timeout", "120s", "--request-timeout", "120s", "-f", &dir])
    }

    /// The control plane's resident memory in bytes.
    pub(crate) fn control_bytes(&self) -> Result<u64, String> {
        self.control.resident_bytes().map_err(|error| error.to_string())
    }
}

/// A sidecar's metrics, asked for in its own host.
pub(crate) fn metrics(host: &Host) -> Result<String, String> {
    use std::io::{Read, Write};
    let address = SocketAddr::from(([127, 0, 0, 1], METRICS_PORT));
    let page = host.run(move || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect_timeout(&address, START)?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    });
    page.map_err(|error| format!("metrics of {}: {error}", host.name()))
}

pub(super) fn start(program: &Path, stage: &Stage, setting: Setting, traced: Traced) -> Result<Running, String> {
    let socket = stage.path(COLLECTOR);
    let collector = Collector::listen(&stage.hosts.client, &socket).map_err(|error| format!("{COLLECTOR}: {error}"))?;
    // On the caller's host, which has no inbound capture: both sidecars reach it there.
    let control = control_plane(program, stage)?;
    let credentials = stage.path("control").join("operator.yaml");
    let operator = Operator { program: program.to_owned(), credentials, host: stage.hosts.client.clone() };
    let resources = stage.file("resources.yaml", &resources::of(stage, setting, &traced.telemetry(&socket)))?;
    operator.command(&["apply", "-f", &resources.display().to_string()])?;
    let start = |host, name, inbound| sidecar(&operator, stage, host, name, (inbound, setting.workers));
    let (mut proxies, mut proof) = (Vec::new(), None);
    if setting.hops == Hops::Pair {
        let callee = start(&stage.hosts.server, "callee", "all")?;
        // Before the caller's sidecar is there: it would capture the stranger too.
        let asked = Asked {
            from: &stage.hosts.client,
            address: stage.hosts.server.socket(MESH_PORT),
            name: "callee.bench.example",
            speaks: Speaks::Isthmus,
        };
        let refused = mutual_tls::refuses_strangers(&asked);
        proof = Some(refused.map_err(|error| format!("{error}\n{}", callee.last_lines()))?);
        proxies.push(callee);
    }
    proxies.insert(0, start(&stage.hosts.client, "caller", "services")?);
    let beside = Some(Beside { traced, control, collector, operator });
    Ok(Running { proof, beside, ..Running::on(resources::SERVICE.into(), proxies) })
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

impl Operator {
    fn command(&self, arguments: &[&str]) -> Result<(), String> {
        let command = Command::new(&self.program).args(arguments).env("ISTHMUS_OPERATOR", &self.credentials);
        let done = self.host.output(command, COMMAND).map_err(|error| error.to_string())?;
        match done.status.success() {
            true => Ok(()),
            false => Err(format!("isthmus {}: {}\n{}{}", arguments.join(" "), done.status, done.stdout, done.stderr)),
        }
    }
}

fn sidecar(
    operator: &Operator,
    stage: &Stage,
    host: &Host,
    name: &str,
    (inbound, workers): (&str, usize),
) -> Result<Process, String> {
    let token = stage.path(&format!("{name}.token"));
    operator.command(&["token", "create", &format!("bench/{name}"), "--out", &token.display().to_string()])?;
    let dir = stage.path(&format!("{name}-sidecar"));
    fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let config = format!(
        "joinTokenFile: {}\nstateDir: {}\nworkers: {workers}\n\
         capture: {{ mode: nftables, exempt: {{ mark: {MARK} }}, inbound: {inbound} }}\n\
         admin: {{ socket: {} }}\nlog: {{ level: info, format: text }}\n",
        token.display(),
        dir.join("state").display(),
        dir.join("proxy.sock").display(),
    );
    let config = stage.file(&format!("{name}.yaml"), &config)?;
    let command = sidecar_program(&operator.program).arg("--config").arg(config).named(&format!("isthmus-{name}"));
    let process = host.spawn(command).map_err(|error| error.to_string())?;
    process
        .wait_for_line("readiness", START, |line| line.contains(" ready identity="))
        .map_err(|error| error.to_string())?;
    Ok(process)
}

/// What a pod's image has, where it was built; else the same by the program of all.
fn sidecar_program(isthmus: &Path) -> Command {
    let alone = isthmus.with_file_name("isthmus-proxy");
    if alone.exists() { Command::new(alone) } else { Command::new(isthmus).arg("proxy") }
}
