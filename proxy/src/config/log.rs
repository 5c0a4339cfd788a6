//! What the proxy logs, and how.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::error::Problem;
use super::field::{Field, FromScalar, take};

/// The log goes to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `info,isthmus_proxy::control=debug`. Default: info.
    pub level: String,
    /// Default: text.
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct LogFile {
    level: Field<Level>,
    format: Field<Format>,
}

#[derive(Debug, Clone)]
struct Level(String);

impl LogFile {
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> Log {
        Log {
            level: take(self.level, "log.level", || Level("info".to_owned()), problems).0,
            format: take(self.format, "log.format", || Format::Text, problems),
        }
    }
}

impl FromScalar for Level {
    fn from_scalar(text: &str) -> Result<Self, String> {
        // EnvFilter takes any word for a target, so that `inof` would silence the log: each part is looked at here.
        if text.split(',').all(is_directive) {
            return Ok(Level(text.to_owned()));
        }
        Err(format!("{text:?} is no log level: write error, warn, info, debug or trace"))
    }
}

fn is_directive(part: &str) -> bool {
    let (target, level) = part.rsplit_once('=').unwrap_or(("any", part));
    let is_target = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    levels.contains(&level) && !target.is_empty() && target.bytes().all(is_target)
}

/// The filter for `level`, if it is one.
pub fn filter(level: &str) -> Option<EnvFilter> {
    Level::from_scalar(level).ok().and_then(|level| EnvFilter::try_new(level.0).ok())
}

impl FromScalar for Format {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(format!("{text:?} is no log format: write text or json")),
        }
    }
}
