//! The control plane as a user runs it: its own process, with its own directory.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use isthmus_world::Port;
use rustix::param::clock_ticks_per_second;

const START: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);

pub(crate) struct Control {
    program: PathBuf,
    child: Child,
    dir: tempfile::TempDir,
    pub(crate) proxies: SocketAddr,
    metrics: SocketAddr,
    /// It comes back where it was.
    _ports: [Port; 3],
}

impl Control {
    pub(crate) fn start() -> Result<Self, String> {
        let program = isthmus_world::find::isthmus()?;
        let dir = tempfile::tempdir().map_err(|error| format!("a directory: {error}"))?;
        let ports = reserved()?;
        let [proxies, operators, metrics] = ports.each_ref().map(Port::address);
        let config = format!(
            "trustDomain: bench.example\nstateDir: {}\nadvertise: \"{proxies}\"\n\
             listen: {{ proxies: \"{proxies}\", operators: \"{operators}\", metrics: \"{metrics}\" }}\n\
             log: {{ level: warn, format: text }}\n",
            dir.path().join("state").display()
        );
        fs::write(dir.path().join("control.yaml"), config).map_err(|error| format!("configuration: {error}"))?;
        let child = spawn(&program, dir.path())?;
        Ok(Self { program, child, dir, proxies, metrics, _ports: ports })
    }

    /// Kills it, as a crash would, and starts it again on what it has written.
    pub(crate) fn crash_and_start(&mut self) -> Result<(), String> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(|error| format!("kill: {error}"))?;
        self.child = spawn(&self.program, self.dir.path())?;
        Ok(())
    }

    /// Waits until its readiness page says so; how long that took.
    pub(crate) async fn ready(&mut self) -> Result<Duration, String> {
        let began = Instant::now();
        while began.elapsed() < START {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the control plane ended with {status}"));
            }
            if self.says_ready().unwrap_or(false) {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(format!("not ready within {START:?}"))
    }

    fn says_ready(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&self.metrics, START)?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page.starts_with("HTTP/1.1 200"))
    }

    pub(crate) fn operator_file(&self) -> PathBuf {
        self.dir.path().join("state/operator.yaml")
    }

    pub(crate) fn store_bytes(&self) -> u64 {
        fs::metadata(self.dir.path().join("state/store.redb")).map_or(0, |metadata| metadata.len())
    }

    /// Resident memory.
    pub(crate) fn resident(&self) -> Result<u64, String> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| "no VmRSS in /proc/PID/status".to_owned())
    }

    /// Processor time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration, String> {
        let stat = self.proc("stat")?;
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks: u64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
    }

    fn proc(&self, name: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, dir: &Path) -> Result<Child, String> {
    let log = fs::File::options().create(true).append(true).open(dir.join("log"));
    let log = log.map_err(|error| format!("log: {error}"))?;
    let mut command = Command::new(program);
    command.args(["control", "--config"]).arg(dir.join("control.yaml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log));
    command.spawn().map_err(|error| format!("{}: {error}", program.display()))
}

fn reserved() -> Result<[Port; 3], String> {
    let port = || Port::reserve().map_err(|error| format!("a free port: {error}"));
    Ok([port()?, port()?, port()?])
}
