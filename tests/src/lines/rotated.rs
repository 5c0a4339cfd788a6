//! Line 7: every certificate renewed again and again, with a new key each time, under constant load.

use std::time::Duration;

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Mesh, WORKLOADS};

const ROTATIONS: u32 = 3;
const RENEWALS: &str = "isthmus_certificate_renewals_total";

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let before = serials(mesh)?;
    let load = mesh.load();
    let rotated = (0..ROTATIONS).try_for_each(|_| rotate(mesh));
    let result = load.stop();
    rotated?;
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
        summary: format!("{ROTATIONS} rotations each; {} requests, 0 failed", result.ok),
        more: pairs.iter().map(|(w, (b, a))| format!("{w}: serial {b} → {a}")).collect(),
        facts: json!({ "rotations": ROTATIONS, "requests": result.ok, "failed": result.failed,
                       "serials": pairs.iter().map(|(w, (b, a))| json!({ "workload": w, "old": b, "new": a })).collect::<Vec<_>>() }),
    })
}

/// One sidecar after the other.
fn rotate(mesh: &mut Mesh) -> Result<(), String> {
    let renewed = |mesh: &Mesh, workload: &str| mesh.metric(workload, RENEWALS, &[("result", "ok")]);
    for workload in WORKLOADS {
        let start = renewed(mesh, workload)?;
        mesh.renew(workload)?;
        mesh.until(Duration::from_secs(20), "a certificate was renewed", |mesh| {
            Ok((renewed(mesh, workload)? > start).then_some(()))
        })?;
    }
    Ok(())
}

fn serials(mesh: &Mesh) -> Result<Vec<String>, String> {
    WORKLOADS.iter().map(|workload| mesh.serial(workload)).collect()
}
