//! What is kept on disk, for a start without a control plane.

use std::time::Duration;

use serde::Deserialize;

use super::error::Problem;
use super::field::{Field, FromScalar, take};

/// The last good snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastGood {
    /// Default: auto.
    pub keep: Keep,
    /// How old it may be when it is served, by the control plane's signature. Default: 24 h.
    pub max_stale: Duration,
    /// Whether the files of the state directory are sealed where this machine can. Default: auto.
    pub seal: Sealing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Where there is a state directory, but not in a pod: a pod that starts anew is another one.
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    Auto,
    None,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct LastGoodFile {
    keep: Field<Keep>,
    max_stale: Field<Duration>,
    seal: Field<Sealing>,
}

impl LastGoodFile {
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> LastGood {
        LastGood {
            keep: take(self.keep, "lastGood.keep", || Keep::Auto, problems),
            max_stale: take(self.max_stale, "lastGood.maxStale", || Duration::from_secs(86_400), problems),
            seal: take(self.seal, "lastGood.seal", || Sealing::Auto, problems),
        }
    }
}

impl FromScalar for Keep {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Keep::Auto),
            "on" => Ok(Keep::On),
            "off" => Ok(Keep::Off),
            _ => Err(format!("{text:?} is unknown: write auto, on or off")),
        }
    }
}

impl FromScalar for Sealing {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Sealing::Auto),
            "none" => Ok(Sealing::None),
            _ => Err(format!("{text:?} is unknown: write auto or none")),
        }
    }
}
