//! A sidecar as a user would run it: one process beside the app, a configuration file, a join token.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::caller::Answer;
use crate::command::Command;
use crate::host::Host;
use crate::process::Process;

const START: Duration = Duration::from_secs(20);
/// Longer than a sidecar drains.
const STOP: Duration = Duration::from_secs(40);
/// For one question to the admin socket or to /metrics.
const ASK: Duration = Duration::from_secs(5);
/// The mark by which a sidecar's own traffic passes capture where it cannot have a user id of its own.
const MARK: u32 = 1337;

/// More configuration, beside the file that it is added to.
pub(super) const MORE: &str = "more.yaml";

/// `isthmus proxy` on a workload's host.
pub struct Sidecar {
    host: Host,
    dir: PathBuf,
    process: Process,
}

/// A private key that must not leave its host.
#[derive(Debug)]
pub struct PrivateKey {
    pub path: PathBuf,
    pub mode: u32,
    /// Bytes that stand in no other file.
    pub needle: Vec<u8>,
}

impl Sidecar {
    pub(super) fn start(
        host: &Host,
        binary: &Path,
        dir: &Path,
        token: &Path,
        vm: bool,
        environment: &[(&str, &str)],
    ) -> Result<Sidecar, String> {
        let config = Sidecar::write_config(dir, token, vm)?;
        let command = Command::new(binary)
            .args(["proxy", "--config"])
            .arg(&config)
            .named("proxy")
            .log_file(dir.join("proxy.log"));
        let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let process = host.spawn(command).map_err(|e| e.to_string())?;
        Ok(Sidecar { host: host.clone(), dir: dir.to_owned(), process })
    }

    pub(super) fn write_config(dir: &Path, token: &Path, vm: bool) -> Result<PathBuf, String> {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let config = dir.join("proxy.yaml");
        // What a test has added stays over restarts.
        let more = fs::read_to_string(dir.join(MORE)).unwrap_or_default();
        fs::write(&config, config_text(dir, token, vm) + &more).map_err(|e| format!("{}: {e}", config.display()))?;
        Ok(config)
    }

    /// Asks it to end and waits until its connections are drained.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        self.process.terminate(STOP).map(|_| ()).map_err(|e| e.to_string())
    }

    /// Ends it at once; nothing is drained.
    pub(super) fn kill(mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
    }

    /// Waits until it has a certificate, a first snapshot, and captures.
    pub fn ready(&self) -> Result<(), String> {
        let seen = self.process.wait_for_line("its readiness", START, |line| line.contains(" ready identity="));
        seen.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Its log, for messages.
    pub fn log(&self) -> Vec<String> {
        self.process.logs()
    }

    /// The process, for its CPU time and memory.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// GET from the admin socket.
    pub(super) fn admin(&self, path: &str) -> Result<Answer, String> {
        self.ask_admin("GET", path)
    }

    /// Has the certificate renewed now.
    pub(super) fn renew(&self) -> Result<(), String> {
        let answer = self.ask_admin("PUT", "/renew")?;
        if answer.status == 202 { Ok(()) } else { Err(format!("/renew: {} {}", answer.status, answer.body)) }
    }

    fn ask_admin(&self, method: &str, path: &str) -> Result<Answer, String> {
        let socket = self.dir.join("proxy.sock");
        let stream = UnixStream::connect(&socket).map_err(|e| format!("{}: {e}", socket.display()))?;
        stream.set_read_timeout(Some(ASK)).map_err(|e| e.to_string())?;
        ask(stream, method, path)
    }

    /// The sum of a metric's series that carry all of these labels; 0 where there is none yet.
    pub(super) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64, String> {
        let answer = self.get_public(15020, "/metrics")?;
        Ok(answer.body.lines().filter_map(|line| sample(line, name, labels)).sum())
    }

    /// What whoever decides on traffic is answered.
    pub(super) fn readiness(&self) -> Result<Answer, String> {
        self.get_public(15021, "/ready")
    }

    fn get_public(&self, port: u16, path: &'static str) -> Result<Answer, String> {
        self.host.run(move || {
            let stream = std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| format!("{path}: {e}"))?;
            stream.set_read_timeout(Some(ASK)).map_err(|e| e.to_string())?;
            ask(stream, "GET", path)
        })
    }

    /// The private key in its state directory.
    pub(super) fn private_key(&self) -> Result<PrivateKey, String> {
        let state = self.dir.join("state");
        let entries = fs::read_dir(&state).map_err(|e| format!("{}: {e}", state.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            if let Some(needle) = needle(&bytes) {
                let mode = fs::metadata(&path).map_err(|e| e.to_string())?.permissions().mode() & 0o777;
                return Ok(PrivateKey { path, mode, needle });
            }
        }
        Err(format!("no private key in {}", state.display()))
    }
}

fn config_text(dir: &Path, token: &Path, vm: bool) -> String {
    // On a VM only the ports of its services are captured, never SSH.
    let inbound = if vm { "services" } else { "all" };
    format!(
        "joinTokenFile: {}\nstateDir: {}\nlastGood: {{ seal: none }}\nworkers: 1\n\
         capture:\n  mode: nftables\n  exempt: {{ mark: {MARK} }}\n  inbound: {inbound}\n\
         admin: {{ socket: {} }}\nlog: {{ level: info, format: text }}\n",
        token.display(),
        dir.join("state").display(),
        dir.join("proxy.sock").display(),
    )
}

/// The base64 of a PEM private key's middle: long enough to be unique, and the same in any wrapping at 64 columns.
fn needle(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, after) = text.split_once("PRIVATE KEY-----")?;
    let longest = after.lines().take(3).map(str::trim).max_by_key(|line| line.len())?;
    (longest.len() >= 48).then(|| longest.as_bytes().to_vec())
}

fn ask(mut stream: impl Read + Write, method: &str, path: &str) -> Result<Answer, String> {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| format!("{path}: {e}"))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|e| format!("{path}: {e}"))?;
    Answer::parse(&String::from_utf8_lossy(&bytes))
}

/// The value of an exposition line, if it is of that metric with those labels.
fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (series, value) = rest.rsplit_once(' ')?;
    let is_whole_name = series.is_empty() || series.starts_with('{');
    let has_labels = labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")));
    if is_whole_name && has_labels { value.parse().ok() } else { None }
}
