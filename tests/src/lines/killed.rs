//! Line 8: the control plane dies at once and comes back; the data path does not notice, and nothing is lost.

use std::time::Duration;

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Mesh, WORKLOADS, resources};

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let stored = mesh.stored()?;
    let load = mesh.load();
    // Before its first request a sidecar has nothing to go on with: it holds what its workload uses.
    mesh.until(Duration::from_secs(10), "the load flows", |_| Ok((load.so_far() >= 100).then_some(())))?;
    mesh.control_mut().kill();
    // Every sidecar has noticed, and goes on.
    let alone = mesh.until(Duration::from_secs(10), "every sidecar notices that the control plane is gone", |mesh| {
        connected(mesh, 0.0)
    });
    let at_death = load.so_far();
    let alone_served = mesh.until(Duration::from_secs(10), "200 requests without a control plane", |_| {
        let served = load.so_far() - at_death;
        Ok((served >= 200).then_some(served))
    });
    let restarted = mesh.restart_control();
    let resumed = mesh.until(Duration::from_secs(20), "every stream resumes", |mesh| connected(mesh, 1.0));
    let result = load.stop();
    alone?;
    restarted?;
    resumed?;
    require(result.failed == 0, || {
        format!("{} of {} requests failed: {}", result.failed, result.total(), result.first_error())
    })?;
    let alone_served = alone_served?;
    let after = mesh.stored()?;
    require(stored == after, || format!("the store is not what it was: {stored:?} → {after:?}"))?;
    // A resumed stream carries what comes next.
    let next = mesh.apply(&resources::batch_allowed())?;
    mesh.apply(resources::policy("orders"))?;
    require(next.acknowledged >= 1, || "after the restart no proxy acknowledged a change".to_owned())?;
    Ok(Shown {
        summary: format!(
            "SIGKILL under load: {} requests, 0 failed, {alone_served} of them while it was dead; {} streams resumed, \
             {} resources and revision {} as before",
            result.ok,
            WORKLOADS.len(),
            stored.resources,
            stored.revision
        ),
        more: Vec::new(),
        facts: json!({ "requests": result.ok, "failed": result.failed, "whileDead": alone_served,
                       "resources": stored.resources, "revision": stored.revision }),
    })
}

fn connected(mesh: &Mesh, wanted: f64) -> Result<Option<()>, String> {
    for workload in WORKLOADS {
        // Connected, it is behind until it has what it missed.
        let behind = mesh.metric(workload, "isthmus_control_lag_seconds", &[])? > 0.0;
        if mesh.metric(workload, "isthmus_control_connected", &[])? != wanted || behind != (wanted == 0.0) {
            return Ok(None);
        }
    }
    Ok(Some(()))
}
