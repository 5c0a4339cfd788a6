//! Where one turn takes place: a fresh pair of hosts with the backend app on the server's. Nothing of the turn before is
//! left, not even a connection in TIME_WAIT.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isthmus_world::{Command, Host, Link, LinkShape, Pair, Process};
use rustix::process::setpriority_process;
use tempfile::TempDir;

use crate::app;
use crate::programs::Programs;

/// Port of the backend app, on all addresses of the server.
pub(crate) const APP_PORT: u16 = 8080;
/// What the HTTP app answers: 128 bytes.
const BODY_LENGTH: usize = 128;
/// A little before everything else on the machine, so that a passing daemon costs less.
const NICENESS: i32 = -5;
const START: Duration = Duration::from_secs(20);
/// Between two looks at a port that should open.
const LOOK: Duration = Duration::from_millis(10);
/// The state of a listening socket in `/proc/net/tcp` (include/net/tcp_states.h).
const LISTENING: &str = "0A";

/// What the app speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// HTTP/1.1, from nginx.
    Http,
    /// gRPC, from [`app::grpc`].
    Grpc,
    /// TCP that only the two ends understand, from [`app::bytes`].
    Bytes,
}

/// Two hosts, a backend, and a directory for files.
pub(crate) struct Stage {
    // Dropped in this order: the app, its host, the link between, the files.
    backend: Process,
    pub(crate) hosts: Pair,
    link: Option<Link>,
    dir: TempDir,
}

impl Stage {
    /// With one wire between the two, as between two pods of one node.
    pub(crate) fn near(programs: &Programs, traffic: Traffic) -> Result<Self, String> {
        let hosts = Pair::new().map_err(|error| error.to_string())?;
        Self::set(programs, traffic, hosts, None)
    }

    /// With an emulated link between the two.
    pub(crate) fn far(programs: &Programs, traffic: Traffic, shape: LinkShape) -> Result<Self, String> {
        let (hosts, link) = Pair::over_link(shape).map_err(|error| error.to_string())?;
        Self::set(programs, traffic, hosts, Some(link))
    }

    fn set(programs: &Programs, traffic: Traffic, hosts: Pair, link: Option<Link>) -> Result<Self, String> {
        let dir = TempDir::with_prefix("isthmus-bench-").map_err(|error| format!("a temporary directory: {error}"))?;
        for host in [&hosts.client, &hosts.server] {
            // Children inherit it from the host's thread. Only root may; then all contenders have it or none.
            host.run(|| setpriority_process(None, NICENESS).ok());
            host.block_on(async { setpriority_process(None, NICENESS).ok() });
            host.run(let_ports_be_used_again)?;
        }
        let command = match traffic {
            Traffic::Http => {
                let config = dir.path().join("backend.conf");
                fs::write(&config, backend_config(dir.path()))
                    .map_err(|error| format!("{}: {error}", config.display()))?;
                Command::new(&programs.nginx).arg("-p").arg(dir.path()).arg("-c").arg(&config)
            }
            Traffic::Grpc => app::command("grpc", APP_PORT),
            Traffic::Bytes => app::command("bytes", APP_PORT),
        };
        let mut backend = hosts.server.spawn(command.named("backend")).map_err(|error| error.to_string())?;
        wait_for_port(&hosts.server, hosts.server.socket(APP_PORT), &mut backend)?;
        Ok(Self { backend, hosts, link, dir })
    }

    /// The link of a stage that was set with one.
    pub(crate) fn link(&self) -> Result<&Link, String> {
        self.link.as_ref().ok_or_else(|| "this stage has no link".to_owned())
    }

    /// The directory of this turn's files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a configuration file of this turn.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.dir.path().join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A path of this turn.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a proxy and waits until it listens.
    pub(crate) fn start(&self, host: &Host, command: Command, listens: SocketAddr) -> Result<Process, String> {
        let mut process = host.spawn(command).map_err(|error| error.to_string())?;
        wait_for_port(host, listens, &mut process)?;
        Ok(process)
    }

    /// The app is still there: a crash in the middle of a turn would make its numbers worthless.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.backend.is_running() {
            true => Ok(()),
            false => Err(format!("the backend ended:\n{}", self.backend.last_lines())),
        }
    }
}

/// Looks at the kernel's table instead of connecting: a connection would warm what W6 wants to see cold.
/// A load of thousands of short connections a second leaves as many in TIME_WAIT at one address, which in life are spread
/// over as many callers: without this a proxy's cost would be the kernel's search for a port that is left.
fn let_ports_be_used_again() -> Result<(), String> {
    for (file, text) in [("ip_local_port_range", "20000 65535"), ("tcp_tw_reuse", "1")] {
        let path = Path::new("/proc/sys/net/ipv4").join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn wait_for_port(host: &Host, address: SocketAddr, process: &mut Process) -> Result<(), String> {
    let until = Instant::now() + START;
    while !host.run(move || listens(address.port())) {
        if !process.is_running() {
            return Err(format!("{} ended at its start:\n{}", process.label(), process.last_lines()));
        }
        if Instant::now() > until {
            return Err(format!("{} does not listen on {address}:\n{}", process.label(), process.last_lines()));
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

fn listens(port: u16) -> bool {
    let own = format!(":{port:04X}");
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].map(fs::read_to_string);
    tables.into_iter().flatten().any(|table| {
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next(), fields.nth(1));
            local.is_some_and(|local| local.ends_with(&own)) && state == Some(LISTENING)
        })
    })
}

fn backend_config(dir: &Path) -> String {
    let body = "x".repeat(BODY_LENGTH);
    let server = format!(
        "server {{ listen 0.0.0.0:{APP_PORT} backlog=4096; default_type text/plain; location / {{ return 200 \"{body}\"; }} }}"
    );
    nginx_config(dir, "backend", &server)
}

/// One process without a log, whose connections never end by themselves. Root by name: in a user namespace there is
/// nobody else whom its directories could be given to.
pub(crate) fn nginx_config(dir: &Path, name: &str, servers: &str) -> String {
    let dir = dir.display();
    format!(
        r#"daemon off;
user root root;
master_process off;
worker_processes 1;
pid {dir}/{name}.pid;
error_log stderr crit;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_timeout 3600s;
  keepalive_requests 4000000000;
  client_body_temp_path {dir}/{name}-client_body;
  proxy_temp_path {dir}/{name}-proxy;
  fastcgi_temp_path {dir}/{name}-fastcgi;
  uwsgi_temp_path {dir}/{name}-uwsgi;
  scgi_temp_path {dir}/{name}-scgi;
  {servers}
}}
"#
    )
}
