//! The log: to standard error, for people or as JSON, with a level that the admin socket can change.

use std::sync::Arc;

use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, reload};

use crate::admin::SetLogLevel;
use crate::config::{Format, Log, filter};

/// Starts logging for the whole process. `None` where a log was started before: then that one is kept.
pub(super) fn start(log: &Log) -> Option<SetLogLevel> {
    let (level, handle) = reload::Layer::new(filter(&log.level).unwrap_or_default());
    let lines = match log.format {
        Format::Text => fmt::layer().with_writer(std::io::stderr).with_target(false).boxed(),
        Format::Json => fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(level).with(lines).try_init().ok()?;
    Some(Arc::new(move |text: &str| {
        let wanted =
            filter(text).ok_or_else(|| format!("{text:?} is no log level: error, warn, info, debug or trace"))?;
        handle.reload(wanted).map_err(|error| error.to_string())
    }))
}
