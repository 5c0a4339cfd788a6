//! Where one turn takes place: a fresh pair of hosts with the backend app on the server's. Nothing of the turn before is
//! left, not even a connection in TIME_WAIT.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isthmus_world::{Command, Host, Pair, Process};
use rustix::process::setpriority_process;
use tempfile::TempDir;

/// Port of the backend app, on all addresses of the server.
pub(crate) const APP_PORT: u16 = 8080;
/// What the app answers: 128 bytes.
const BODY_LENGTH: usize = 128;
/// A little before everything else on the machine, so that a passing daemon costs less.
const NICENESS: i32 = -5;
const START: Duration = Duration::from_secs(20);
/// Between two looks at a port that should open.
const LOOK: Duration = Duration::from_millis(10);

/// Two hosts, a backend, and a directory for files.
pub(crate) struct Stage {
    // Dropped in this order: the app, its host, its files.
    backend: Process,
    pub(crate) hosts: Pair,
    dir: TempDir,
}

impl Stage {
    pub(crate) fn set(nginx: &Path) -> Result<Self, String> {
        let dir = TempDir::with_prefix("isthmus-bench-").map_err(|error| format!("a temporary directory: {error}"))?;
        let hosts = Pair::new().map_err(|error| error.to_string())?;
        for host in [&hosts.client, &hosts.server] {
            // Children inherit it from the host's thread. Only root may; then all contenders have it or none.
            host.run(|| setpriority_process(None, NICENESS).ok());
        }
        let config = dir.path().join("backend.conf");
        fs::write(&config, backend_config(dir.path())).map_err(|error| format!("{}: {error}", config.display()))?;
        let command = Command::new(nginx).arg("-p").arg(dir.path()).arg("-c").arg(&config).named("backend");
        let mut backend = hosts.server.spawn(command).map_err(|error| error.to_string())?;
        wait_for_port(&hosts.server, hosts.server.socket(APP_PORT), &mut backend)?;
        Ok(Self { backend, hosts, dir })
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

    /// The app without anything before it.
    pub(crate) fn app_url(&self) -> String {
        format!("http://{}/", self.hosts.server.socket(APP_PORT))
    }

    /// The app is still there: a crash in the middle of a turn would make its numbers worthless.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.backend.is_running() {
            true => Ok(()),
            false => Err(format!("the backend ended:\n{}", self.backend.last_lines())),
        }
    }
}

fn wait_for_port(host: &Host, address: SocketAddr, process: &mut Process) -> Result<(), String> {
    let until = Instant::now() + START;
    while host.run(move || TcpStream::connect_timeout(&address, START)).is_err() {
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

/// One process without a log, whose connections never end by themselves. Root by name: in a user namespace there is
/// nobody else whom its directories could be given to.
fn backend_config(dir: &Path) -> String {
    let dir = dir.display();
    let body = "x".repeat(BODY_LENGTH);
    format!(
        r#"daemon off;
user root root;
master_process off;
worker_processes 1;
pid {dir}/backend.pid;
error_log stderr crit;
events {{ worker_connections 16000; }}
http {{
  access_log off;
  keepalive_timeout 3600s;
  keepalive_requests 4000000000;
  client_body_temp_path {dir}/client_body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {{
    listen 0.0.0.0:{APP_PORT} backlog=4096;
    default_type text/plain;
    location / {{ return 200 "{body}"; }}
  }}
}}
"#
    )
}
