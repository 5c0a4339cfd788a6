//! Line 7: certificates of a minute, the least that a mesh may have, renewed again and again under constant load.

use std::time::Duration;

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Mesh, WORKLOADS, resources};

const LIFETIME: &str = "60s";
const ROTATIONS: f64 = 2.0;
const RENEWALS: &str = "isthmus_certificate_renewals_total";

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let before = serials(mesh)?;
    let renewed = |mesh: &Mesh, workload: &str| mesh.metric(workload, RENEWALS, &[("result", "ok")]);
    let mut start = Vec::new();
    for workload in WORKLOADS {
        start.push(renewed(mesh, workload)?);
    }
    let load = mesh.load();
    mesh.apply(&resources::mesh(&mesh.collector_url(), LIFETIME))?;
    let rotated = mesh.until(Duration::from_secs(100), "every certificate was renewed several times", |mesh| {
        let mut least = f64::MAX;
        for (workload, start) in WORKLOADS.iter().zip(&start) {
            least = least.min(renewed(mesh, workload)? - start);
        }
        Ok((least >= ROTATIONS).then_some(least))
    });
    // Long lives again before anything else is looked at: the next line takes the control plane away.
    mesh.apply(&resources::mesh(&mesh.collector_url(), "24h"))?;
    let result = load.stop();
    let rotated = rotated?;
    require(result.failed == 0, || {
        format!("{} of {} requests failed: {}", result.failed, result.total(), result.first_error())
    })?;
    require(result.ok > 0, || "no request was made".to_owned())?;
    let after = serials(mesh)?;
    require(before.iter().zip(&after).all(|(b, a)| b != a), || {
        format!("a serial did not change: {before:?} → {after:?}")
    })?;
    let pairs: Vec<_> = WORKLOADS.iter().zip(before.iter().zip(&after)).collect();
    Ok(Shown {
        summary: format!("{rotated:.0} rotations each at {LIFETIME} lifetime; {} requests, 0 failed", result.ok),
        more: pairs.iter().map(|(w, (b, a))| format!("{w}: serial {b} → {a}")).collect(),
        facts: json!({ "rotations": rotated, "lifetime": LIFETIME, "requests": result.ok, "failed": result.failed,
                       "serials": pairs.iter().map(|(w, (b, a))| json!({ "workload": w, "old": b, "new": a })).collect::<Vec<_>>() }),
    })
}

fn serials(mesh: &Mesh) -> Result<Vec<String>, String> {
    WORKLOADS.iter().map(|workload| mesh.serial(workload)).collect()
}
