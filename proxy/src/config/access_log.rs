//! Which requests are told of, how and where.

use std::path::PathBuf;

use serde::Deserialize;

use super::error::Problem;
use super::field::{Field, FromScalar, take};
use crate::telemetry::{AccessMode, AccessSettings, LineFormat};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct AccessLogFile {
    mode: Field<AccessMode>,
    format: Field<LineFormat>,
    path: Option<PathBuf>,
    hide_query: Vec<String>,
}

impl AccessLogFile {
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> AccessSettings {
        AccessSettings {
            mode: take(self.mode, "accessLog.mode", || AccessMode::Off, problems),
            format: take(self.format, "accessLog.format", || LineFormat::Json, problems),
            path: self.path,
            hide_query: self.hide_query,
        }
    }
}

impl FromScalar for AccessMode {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(AccessMode::Off),
            "errors" => Ok(AccessMode::Errors),
            "all" => Ok(AccessMode::All),
            _ => Err(format!("{text:?} is no mode: write off, errors or all")),
        }
    }
}

impl FromScalar for LineFormat {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(LineFormat::Json),
            template => LineFormat::parse(template)
                .map_err(|why| format!("{text:?} is neither json nor a template such as \"{{time}} {{path}}\": {why}")),
        }
    }
}
