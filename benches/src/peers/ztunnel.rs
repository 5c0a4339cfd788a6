//! ztunnel as a pair of sidecars in its dedicated mode: HBONE between the two, no HTTP. It must be built with its feature
//! `testing`: the certificates are those of its own fake authority, so that ours cannot try what it does with them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use isthmus_world::{Command, Host};

use super::{Plan, Running};
use crate::mutual_tls::{self, Asked, Speaks};
use crate::stage::{APP_PORT, Stage};

/// The service's address, on the caller's loopback: there ztunnel takes it from its own port, with no capture at all.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);
/// Where a ztunnel takes HBONE.
const MESH_PORT: u16 = 15008;
const COMMAND: Duration = Duration::from_secs(10);

pub(super) fn start(program: &Path, stage: &Stage, plan: &Plan) -> Result<Running, String> {
    let (client, server) = (&stage.hosts.client, &stage.hosts.server);
    let address = Command::new("ip").args(["address", "add"]).arg(format!("{SERVICE}/32")).args(["dev", "lo"]);
    let done = client.output(address, COMMAND).map_err(|error| error.to_string())?;
    if !done.status.success() {
        return Err(format!("ip address add: {}\n{}", done.status, done.stderr));
    }
    let port = plan.outbound.port();
    let config = stage.file("ztunnel.yaml", &config(stage, port))?;
    let callee = stage.start(server, command(program, &config, "callee"), server.socket(MESH_PORT))?;
    let caller = stage.start(client, command(program, &config, "caller"), plan.outbound)?;
    let asked =
        Asked { from: client, address: server.socket(MESH_PORT), name: "callee.bench.example", speaks: Speaks::Http2 };
    let mut running = Running::on((SERVICE, port).into(), vec![caller, callee]);
    running.proof = Some(mutual_tls::refuses_strangers(&asked).map_err(|error| running.explain(error))?);
    Ok(running)
}

fn command(program: &Path, config: &Path, name: &str) -> Command {
    let settings = [
        ("FAKE_CA", "true"),
        ("XDS_ADDRESS", ""),
        ("PROXY_MODE", "dedicated"),
        ("ZTUNNEL_WORKER_THREADS", "1"),
        // One namespace for each side: nobody could route the app's answers back.
        ("ENABLE_ORIG_SRC", "false"),
        ("ISTIO_META_DNS_CAPTURE", "false"),
        ("RUST_LOG", "error"),
        ("CLUSTER_ID", "Kubernetes"),
    ];
    let command = Command::new(program).named(&format!("ztunnel-{name}")).env("LOCAL_XDS_PATH", config);
    let command = command.env("PROXY_WORKLOAD_INFO", format!("bench/{name}/{name}")).env("NODE_NAME", name);
    settings.iter().fold(command, |command, (name, value)| command.env(name, value))
}

/// Both workloads, and the service that leads from one to the other. No policy.
fn config(stage: &Stage, port: u16) -> String {
    let (client, server) = (&stage.hosts.client, &stage.hosts.server);
    let caller = workload("caller", client, "{}");
    let callee = workload("callee", server, &format!("{{\"bench/app.bench.example\": {{{port}: {APP_PORT}}}}}"));
    format!(
        "workloads:
{caller}{callee}policies: []
services:
- name: app
  namespace: bench
  hostname: app.bench.example
  vips: [\"/{SERVICE}\"]
  ports: {{{port}: {APP_PORT}}}
"
    )
}

fn workload(name: &str, host: &Host, services: &str) -> String {
    format!(
        "- uid: bench//v1/Pod/bench/{name}
  name: {name}
  namespace: bench
  serviceAccount: {name}
  trustDomain: cluster.local
  workloadIps: [\"{}\"]
  protocol: HBONE
  node: {name}
  network: \"\"
  clusterId: Kubernetes
  services: {services}
",
        host.address()
    )
}
