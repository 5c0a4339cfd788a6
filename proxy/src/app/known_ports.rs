//! The inbound ports that were captured last, kept over restarts: where only services' ports are captured, and the
//! control plane has not said yet which these are, the last ones known are captured. A port of a service is thus never
//! open in plain text because of a restart, and a port that was never a service's (SSH on another port, say) is never
//! closed by one. At the very first start nothing is known, and any port may be a service's.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const FILE: &str = "inbound-ports.json";
/// All ports there are, as text.
const MOST_BYTES: u64 = 65_536 * 6 + 2;

pub(super) struct KnownPorts {
    /// Nothing where the proxy keeps nothing.
    file: Option<PathBuf>,
    ports: Option<Vec<u16>>,
}

impl KnownPorts {
    /// What the last run wrote.
    pub(super) fn load(state_dir: Option<&Path>) -> KnownPorts {
        let Some(file) = state_dir.map(|dir| dir.join(FILE)) else {
            return KnownPorts { file: None, ports: None };
        };
        let ports = match read(&file) {
            Ok(ports) => Some(ports),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "which inbound ports were captured last is not known");
                None
            }
        };
        KnownPorts { file: Some(file), ports }
    }

    /// `None`: nobody has said it yet.
    pub(super) fn ports(&self) -> Option<&[u16]> {
        self.ports.as_deref()
    }

    /// Keeps them, where they are others than before.
    pub(super) fn set(&mut self, ports: &[u16]) {
        if self.ports.as_deref() == Some(ports) {
            return;
        }
        self.ports = Some(ports.to_vec());
        if let Some(file) = &self.file
            && let Err(error) = write(file, ports)
        {
            tracing::warn!(file = %file.display(), %error, "the captured inbound ports are not kept for a restart");
        }
    }
}

fn write(file: &Path, ports: &[u16]) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    isthmus_certs::private_file::replace(dir, FILE, &serde_json::to_vec(ports)?)
}

fn read(file: &Path) -> io::Result<Vec<u16>> {
    let mut text = Vec::new();
    fs::File::open(file)?.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
#[path = "known_ports_test.rs"]
mod known_ports_test;
