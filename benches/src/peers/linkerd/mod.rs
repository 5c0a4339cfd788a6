//! linkerd2-proxy as a pair of sidecars, each with a control plane of ours beside it ([`control`]). It takes no other
//! destination than the one that the kernel says a connection had before it was redirected (SO_ORIGINAL_DST), so that
//! both hosts redirect: the caller's what goes to the service's address, the callee's what comes for the app.

pub(crate) mod control;
mod destination;
mod identity;
mod policy;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use isthmus_world::{Command, Host, Process};

use self::control::Mesh;
use super::{Plan, Running};
use crate::certificates::{Certificates, Leaf};
use crate::mutual_tls::{self, Asked, Speaks};
use crate::stage::{APP_PORT, Stage, Traffic};

/// The service's virtual address: no host has it, so that nothing answers without the proxies.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 112, 0, 10), 80);
const CONTROL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8090);
const ADMIN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4191);
/// Addresses for which a proxy asks its control plane.
const NETWORKS: &str = "10.0.0.0/8";
const START: Duration = Duration::from_secs(20);
const COMMAND: Duration = Duration::from_secs(10);
/// Between two looks at whether a proxy is ready, and for one.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);

/// The two proxies to be, and what both are told.
struct Pair<'a> {
    program: &'a Path,
    certificates: &'a Certificates,
    stage: &'a Stage,
    plan: &'a Plan,
}

pub(super) fn start(
    program: &Path,
    certificates: &Certificates,
    stage: &Stage,
    plan: &Plan,
) -> Result<Running, String> {
    let (client, server) = (&stage.hosts.client, &stage.hosts.server);
    let pair = Pair { program, certificates, stage, plan };
    let service = format!("ip daddr {} tcp dport {}", SERVICE.ip(), SERVICE.port());
    redirect(client, "output", &service, plan.outbound)?;
    redirect(server, "prerouting", &format!("tcp dport {APP_PORT}"), plan.next)?;
    let (callee_control, callee) = pair.side(server, "callee", &certificates.callee)?;
    let (caller_control, caller) = pair.side(client, "caller", &certificates.caller)?;
    let mut running = Running::on(SERVICE.into(), vec![caller, callee]);
    running.control = vec![caller_control, callee_control];
    // Without a certificate the handshake succeeds, and the answer is in what follows: 403, or the connection's end.
    // gRPC too is asked by HTTP/1.1: who may pass gets an answer of the app's, or that it has none.
    let (at_proxy, at_app) = (server.socket(plan.next.port()), server.socket(APP_PORT));
    let (address, speaks, plaintext) = match plan.setting.traffic {
        Traffic::Bytes => (at_proxy, Speaks::LinkerdOpaque, Speaks::Echo),
        Traffic::Http | Traffic::Grpc => (at_app, Speaks::Http1, Speaks::Http1),
    };
    let asked = Asked { from: client, address, name: &certificates.callee.dns_name, speaks };
    let proof = mutual_tls::prove(&asked, &certificates.caller)
        .and_then(|proof| mutual_tls::refuses_plaintext(&Asked { address: at_app, speaks: plaintext, ..asked }, proof))
        .map_err(|error| running.explain(error))?;
    running.proof = Some(proof);
    Ok(running)
}

impl Pair<'_> {
    /// The control plane, then the proxy, which is ready when it has its certificate.
    fn side(&self, host: &Host, name: &str, leaf: &Leaf) -> Result<(Process, Process), String> {
        let stage = self.stage;
        let mesh = serde_json::to_string(&self.mesh(leaf)).map_err(|error| error.to_string())?;
        let file = stage.file(&format!("linkerd-{name}.json"), &mesh)?;
        let command = Command::this_program().arg(control::MARK).arg(file).named(&format!("linkerd-control-{name}"));
        let control = stage.start(host, command, CONTROL.into())?;
        let dir = stage.path(&format!("linkerd-{name}"));
        identity::documents(&dir, &leaf.dns_name)?;
        let command = self.command(host, &dir, leaf)?.named(&format!("linkerd2-proxy-{name}"));
        let mut proxy = stage.start(host, command, ADMIN.into())?;
        let until = Instant::now() + START;
        while !host.run(|| is_ready().unwrap_or(false)) {
            if !proxy.is_running() || Instant::now() > until {
                let said = (proxy.last_lines(), control.last_lines());
                return Err(format!("{} is not ready:\n{}\n{}", proxy.label(), said.0, said.1));
            }
            std::thread::park_timeout(LOOK);
        }
        Ok((control, proxy))
    }

    fn mesh(&self, leaf: &Leaf) -> Mesh {
        let certificates = self.certificates;
        Mesh {
            listen: CONTROL.into(),
            service: SERVICE.into(),
            endpoint: self.stage.hosts.server.socket(APP_PORT),
            inbound_port: self.plan.next.port(),
            opaque: self.plan.setting.traffic == Traffic::Bytes,
            certifies: leaf.dns_name.clone(),
            caller: certificates.caller.dns_name.clone(),
            callee: certificates.callee.dns_name.clone(),
            authority: certificates.authority.clone(),
            authority_key: certificates.authority_key.clone(),
        }
    }

    /// All of its configuration is environment.
    fn command(&self, host: &Host, dir: &Path, leaf: &Leaf) -> Result<Command, String> {
        let authority = &self.certificates.authority;
        let anchors = fs::read_to_string(authority).map_err(|error| format!("{}: {error}", authority.display()))?;
        let control = CONTROL.to_string();
        let settings = [
            ("CORES", "1".to_owned()),
            ("LOG", "error".to_owned()),
            ("OUTBOUND_LISTEN_ADDR", self.plan.outbound.to_string()),
            ("INBOUND_LISTEN_ADDR", format!("0.0.0.0:{}", self.plan.next.port())),
            ("ADMIN_LISTEN_ADDR", ADMIN.to_string()),
            ("IDENTITY_SVC_ADDR", control.clone()),
            ("DESTINATION_SVC_ADDR", control.clone()),
            ("POLICY_SVC_ADDR", control),
            ("POLICY_WORKLOAD", leaf.dns_name.clone()),
            ("POLICY_CLUSTER_NETWORKS", NETWORKS.to_owned()),
            ("DESTINATION_PROFILE_NETWORKS", NETWORKS.to_owned()),
            ("INBOUND_DEFAULT_POLICY", "deny".to_owned()),
            ("INBOUND_PORTS", APP_PORT.to_string()),
            ("INBOUND_IPS", host.address().to_string()),
            ("IDENTITY_LOCAL_NAME", leaf.dns_name.clone()),
            ("IDENTITY_TRUST_ANCHORS", anchors),
            ("IDENTITY_DIR", dir.display().to_string()),
            ("IDENTITY_TOKEN_FILE", dir.join("token").display().to_string()),
        ];
        let command = Command::new(self.program);
        Ok(settings.iter().fold(command, |command, (name, value)| command.env(format!("LINKERD2_PROXY_{name}"), value)))
    }
}

/// By nft, as a node's init container would do it. The proxies' own connections match neither rule.
fn redirect(host: &Host, hook: &str, what: &str, to: SocketAddr) -> Result<(), String> {
    let port = to.port();
    let rules = format!(
        "table ip bench {{
  chain {hook} {{
    type nat hook {hook} priority -100
    {what} redirect to :{port}
  }}
}}
"
    );
    let done = host.output(Command::new("nft").args(["-f", "-"]).input(rules), COMMAND);
    let done = done.map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("nft in {}: {}\n{}", host.name(), done.status, done.stderr)),
    }
}

/// Asked in its own host: `/ready` answers 200 once there is a certificate.
fn is_ready() -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&ADMIN.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut first = [0; 12];
    stream.read_exact(&mut first)?;
    Ok(&first == b"HTTP/1.1 200")
}
