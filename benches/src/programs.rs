//! Where the programs are. A peer that is not installed is left out and named; the load generator, the backend and, when
//! it is asked for, our own binary must be there.

use std::env;
use std::path::{Path, PathBuf};

use isthmus_world::find;

use crate::peers::Peer;

/// One program, told different things.
const OURS: [Peer; 4] = [Peer::Isthmus, Peer::IsthmusOff, Peer::IsthmusAll, Peer::IsthmusKept];

/// Paths of everything that is started.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) wrk: PathBuf,
    pub(crate) nginx: PathBuf,
    haproxy: Option<PathBuf>,
    envoy: Option<PathBuf>,
    ztunnel: Option<PathBuf>,
    linkerd2_proxy: Option<PathBuf>,
    isthmus: Option<PathBuf>,
}

impl Programs {
    /// Finds what the contenders need. The second part names those that cannot be measured, with the reason.
    pub(crate) fn find(contenders: &[Peer]) -> Result<(Self, Vec<String>), String> {
        let mut programs = Self {
            wrk: tool("WRK", "wrk")?,
            nginx: tool("NGINX", "nginx")?,
            haproxy: None,
            envoy: None,
            ztunnel: None,
            linkerd2_proxy: None,
            isthmus: None,
        };
        let mut missing = Vec::new();
        let mut optional = |variable, name, peer: &str| {
            let found = tool(variable, name);
            found.map_err(|error| missing.push(format!("{peer}: {error}"))).ok()
        };
        let asked = |peers: &[Peer]| peers.iter().any(|peer| contenders.contains(peer));
        if asked(&[Peer::HaproxyH2, Peer::HaproxyH1, Peer::Haproxy]) {
            programs.haproxy = optional("HAPROXY", "haproxy", "haproxy, haproxy-h2, haproxy-h1");
        }
        if asked(&[Peer::EnvoyH2, Peer::Envoy]) {
            programs.envoy = optional("ENVOY", "envoy", "envoy, envoy-h2");
        }
        if asked(&[Peer::Ztunnel]) {
            programs.ztunnel = optional("ZTUNNEL", "ztunnel", "ztunnel (built with its feature `testing`)");
        }
        if asked(&[Peer::Linkerd2Proxy]) {
            // Without nft nothing leads an app's connection to it.
            let found = optional("LINKERD2_PROXY", "linkerd2-proxy", "linkerd2-proxy");
            match find::required("nft") {
                Ok(_) => programs.linkerd2_proxy = found,
                Err(error) => missing.push(format!("linkerd2-proxy: {error}")),
            }
        }
        if asked(&OURS) {
            programs.isthmus = Some(isthmus()?);
        }
        Ok((programs, missing))
    }

    /// The program of a contender, if it has one and it is there.
    pub(crate) fn of(&self, peer: Peer) -> Option<&Path> {
        match peer {
            Peer::Direct | Peer::NginxH1 | Peer::Nginx => Some(&self.nginx),
            Peer::Isthmus | Peer::IsthmusOff | Peer::IsthmusAll | Peer::IsthmusKept => self.isthmus.as_deref(),
            Peer::HaproxyH2 | Peer::HaproxyH1 | Peer::Haproxy => self.haproxy.as_deref(),
            Peer::EnvoyH2 | Peer::Envoy => self.envoy.as_deref(),
            Peer::Ztunnel => self.ztunnel.as_deref(),
            Peer::Linkerd2Proxy => self.linkerd2_proxy.as_deref(),
        }
    }
}

fn tool(variable: &str, name: &str) -> Result<PathBuf, String> {
    match env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(value) => {
            named(Path::new(&value)).ok_or_else(|| format!("{variable} is {}: no such program", value.display()))
        }
        None => find::required(name).map_err(|error| format!("{error}; set {variable} to its path")),
    }
}

/// A path as it is, a bare name as on PATH.
fn named(value: &Path) -> Option<PathBuf> {
    match value.components().count() {
        0 | 1 => find::program(&value.to_string_lossy()),
        // Absolute: children may have another working directory.
        _ => value.canonicalize().ok().filter(|path| path.is_file()),
    }
}

/// Ours: beside this program, where the same build puts it.
fn isthmus() -> Result<PathBuf, String> {
    if env::var_os("ISTHMUS").is_some_and(|value| !value.is_empty()) {
        return tool("ISTHMUS", "isthmus");
    }
    let beside = find::isthmus()?;
    if cfg!(debug_assertions) {
        eprintln!("warning: {} is an unoptimised build; its numbers mean nothing", beside.display());
    }
    Ok(beside)
}
