//! What the numbers were made on.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::peers::Peer;
use crate::programs::Programs;

/// The machine and the versions of the programs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// Over one minute, before the first turn: above 0.3 the numbers are somebody else's too.
    pub(crate) load_average: f64,
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn look(programs: &Programs) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
        let mut versions = vec![version(&programs.wrk, "-v"), version(&programs.nginx, "-v")];
        let peers = [(Peer::Isthmus, "--version"), (Peer::Haproxy, "-v"), (Peer::Envoy, "--version")];
        versions.extend(peers.iter().filter_map(|(peer, option)| Some(version(programs.of(*peer)?, option))));
        Self {
            cpu: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            load_average: load_average(),
            versions,
        }
    }
}

/// Over one minute; NaN where the kernel does not tell.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// As many descriptors as we may have; children inherit it.
pub(crate) fn raise_descriptor_limit() -> Result<(), String> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, limit).map_err(|error| format!("raising the limit of open files: {error}"))
}

/// Name and version, as the program says it of itself.
fn version(program: &Path, option: &str) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let Ok(output) = Command::new(program).arg(option).output() else {
        return format!("{name} ?");
    };
    let text = [output.stdout, output.stderr].concat();
    format!("{name} {}", version_in(&String::from_utf8_lossy(&text)).unwrap_or("?"))
}

/// `1.22.1` in `nginx version: nginx/1.22.1`, `1.40.0` in `envoy  version: 9e55…/1.40.0/Clean`.
fn version_in(text: &str) -> Option<&str> {
    let words = text.split(|c: char| c.is_whitespace() || c == '/');
    words.into_iter().find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod machine_test;
