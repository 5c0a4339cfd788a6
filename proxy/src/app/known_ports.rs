//! The inbound ports that were captured last, kept over restarts: where only services' ports are captured, and the
//! control plane has not said yet which these are, the last ones known are captured. A port of a service is thus never
//! open in plain text because of a restart, and a port that was never a service's (SSH on another port, say) is never
//! closed by one.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "inbound-ports.json";
/// All ports there are, as text.
const MOST_BYTES: u64 = 65_536 * 6 + 2;

pub(super) struct KnownPorts {
    /// Nothing where the proxy keeps nothing.
    file: Option<PathBuf>,
    ports: Vec<u16>,
}

impl KnownPorts {
    /// What the last run wrote; none at the first start.
    pub(super) fn load(state_dir: Option<&Path>) -> KnownPorts {
        let Some(file) = state_dir.map(|dir| dir.join(FILE)) else {
            return KnownPorts { file: None, ports: Vec::new() };
        };
        let ports = match read(&file) {
            Ok(ports) => ports,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "which inbound ports were captured last is not known");
                Vec::new()
            }
        };
        KnownPorts { file: Some(file), ports }
    }

    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Keeps them, where they are others than before.
    pub(super) fn set(&mut self, ports: &[u16]) {
        if self.ports == ports {
            return;
        }
        self.ports = ports.to_vec();
        if let Some(file) = &self.file
            && let Err(error) = write(file, ports)
        {
            tracing::warn!(file = %file.display(), %error, "the captured inbound ports are not kept for a restart");
        }
    }
}

/// Written aside and renamed, so that a crash leaves the old or the new one.
fn write(file: &Path, ports: &[u16]) -> io::Result<()> {
    let new = file.with_extension("json.new");
    let mut aside = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    aside.write_all(&serde_json::to_vec(ports)?)?;
    aside.sync_all()?;
    fs::rename(new, file)
}

fn read(file: &Path) -> io::Result<Vec<u16>> {
    let mut text = Vec::new();
    fs::File::open(file)?.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
#[path = "known_ports_test.rs"]
mod known_ports_test;
