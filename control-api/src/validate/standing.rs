//! Readers of the two kinds that say whether refusals are carried out, and of what is kept of decisions.

use super::field::Field;
use super::ours::not_empty;
use super::resource::{Bypass, Enforcement, Kept};
use std::time::Duration;

pub(super) fn enforcement(spec: &Field) -> Enforcement {
    spec.only(&["services", "mode"], &[]);
    let mode = spec.need("mode").and_then(|f| f.choice(&[("Observe", false), ("Enforce", true)]));
    Enforcement {
        services: spec.get("services").map(|f| not_empty(&f)).unwrap_or_default(),
        // A fault refuses the document; this is only what stands there until it does.
        enforce: mode.unwrap_or(true),
    }
}

pub(super) fn bypass(spec: &Field) -> Bypass {
    spec.only(&["services", "until", "operator", "reason"], &[]);
    let text = |name: &str| spec.get(name).and_then(|f| f.text()).unwrap_or_default().to_string();
    let until: Option<jiff::Timestamp> = spec.need("until").and_then(|f| f.parsed("a time, as `2026-11-22T18:30:00Z`"));
    Bypass {
        services: spec.get("services").map(|f| not_empty(&f)).unwrap_or_default(),
        until_unix_ms: until.map_or(0, |until| until.as_millisecond()),
        operator: text("operator"),
        reason: text("reason"),
    }
}

/// MeshConfig `spec.flows`.
pub(super) fn flows(field: &Field) -> Kept {
    field.only(&["keep", "maxRecords", "maxBytes"], &[]);
    let mut kept = Kept::default();
    if let Some(keep) = field.get("keep")
        && let Some(time) = keep.duration()
    {
        if !(Duration::from_secs(3600)..=Duration::from_secs(400 * 86_400)).contains(&time) {
            keep.fault("is not between 1h and 400d");
        }
        kept.keep = time;
    }
    let whole = |name: &str, least: u64| {
        let field = field.get(name)?;
        let number = field.number()?;
        if number < least as f64 || number.fract() != 0.0 || number > 1e15 {
            field.fault(format!("is no whole number of at least {least}"));
            return None;
        }
        Some(number as u64)
    };
    kept.max_records = whole("maxRecords", 1_000).unwrap_or(kept.max_records);
    kept.max_bytes = whole("maxBytes", 1 << 20).unwrap_or(kept.max_bytes);
    kept
}
