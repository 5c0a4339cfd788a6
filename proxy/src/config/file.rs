//! The file as a whole.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::access_log::AccessLogFile;
use super::admin::{Admin, AdminFile};
use super::capture::{Capture, CaptureFile};
use super::enrol::{ControlPlaneFile, Enrol, EnrolFile};
use super::error::{ConfigError, Problem};
use super::field::{Count, Field, take_optional};
use super::last_good::{LastGood, LastGoodFile};
use super::listen::{Listen, ListenFile};
use super::log::{Log, LogFile};
use crate::telemetry::AccessSettings;

/// Larger is no configuration of ours; read no more of it than this.
const MOST_BYTES: u64 = 1024 * 1024;

/// What the proxy is told at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `host:port` of the control plane. Default: the address in the join token, and later the one kept in `state_dir`.
    pub control_plane: Option<String>,
    /// A file with the join token, which is needed until there is an identity; `ISTHMUS_JOIN_TOKEN` comes first.
    pub join_token_file: Option<PathBuf>,
    /// How else to prove who this is. Default: by the join token alone.
    pub enrol: Option<Enrol>,
    /// Where the identity is kept over restarts. Default: nowhere; it lives in memory.
    pub state_dir: Option<PathBuf>,
    pub last_good: LastGood,
    /// Threads that carry traffic. Default: one per core that the process may use.
    pub workers: usize,
    pub capture: Capture,
    pub listen: Listen,
    pub admin: Admin,
    pub log: Log,
    pub access_log: AccessSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ConfigFile {
    control_plane: ControlPlaneFile,
    join_token_file: Option<PathBuf>,
    enrol: Option<EnrolFile>,
    state_dir: Option<PathBuf>,
    last_good: LastGoodFile,
    workers: Field<Count>,
    capture: CaptureFile,
    listen: ListenFile,
    admin: AdminFile,
    log: LogFile,
    access_log: AccessLogFile,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault that was found.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |error| ConfigError::Unreadable { path: path.to_owned(), error };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MOST_BYTES {
            let message = format!("{size} bytes are no configuration of this proxy (at most {MOST_BYTES})");
            let problem = Problem { at: None, field: String::new(), message };
            return Err(ConfigError::Invalid { path: path.to_owned(), problems: vec![problem] });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Config::parse(&text).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// Reads configuration from text.
    ///
    /// # Errors
    /// Every fault in it; of faults in the YAML itself (also unknown fields), the first.
    pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
        let file: ConfigFile = if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            ConfigFile::default()
        } else {
            serde_saphyr::from_str(text).map_err(|error| vec![structure(&error)])?
        };
        let mut problems = Vec::new();
        let config = file.check(&mut problems);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

impl ConfigFile {
    fn check(mut self, problems: &mut Vec<Problem>) -> Config {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Config {
            control_plane: take_optional(self.control_plane.address.take(), "controlPlane.address", problems)
                .map(|at| at.0),
            join_token_file: self.join_token_file,
            enrol: self.control_plane.enrol(self.enrol, problems),
            state_dir: self.state_dir,
            last_good: self.last_good.check(problems),
            workers: take_optional(self.workers, "workers", problems).map_or_else(cores, |count| count.0.min(1024)),
            capture: self.capture.check(problems),
            listen: self.listen.check(problems),
            admin: self.admin.check(),
            log: self.log.check(problems),
            access_log: self.access_log.check(problems),
        }
    }
}

fn structure(error: &serde_saphyr::Error) -> Problem {
    let at = error.location().map(|location| (location.line(), location.column()));
    // The place and the snippet are said by us, and once.
    let message = error.without_snippet().to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    Problem { at, field: String::new(), message }
}
