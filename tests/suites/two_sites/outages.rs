//! What sidecars do while the control plane is gone, and what certificates do under load.

use std::time::{Duration, Instant};

use isthmus_world::mesh::{Mesh, ORDERS_URL, WORKLOADS, resources};
use serde_json::Value;

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("sidecars_started_before_any_control_plane_serve_and_say_so", started_first),
    ("a_control_plane_away_for_more_than_half_of_a_life_costs_nothing", away_for_long),
    ("hundreds_of_rotations_under_load_cost_no_request", hundreds_of_rotations),
    ("status_and_check_tell_an_operator_how_things_are", status_and_check),
];

const SOON: Duration = Duration::from_secs(30);
/// Of all three sidecars together.
const ROTATIONS: u32 = 210;
const RENEWALS: &str = "isthmus_certificate_renewals_total";

/// Everything is killed, and only the sidecars come back.
fn started_first(mesh: &mut Mesh) -> Result<(), String> {
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("before: {} {}", answer.status, answer.body))?;
    let denied = mesh.get("batch", ORDERS_URL)?;
    require(denied.status == 403, || format!("batch before: {} {}", denied.status, denied.body))?;
    // What the sidecars asked for meanwhile is on disk when a version that came after it is.
    mesh.apply(&resources::mesh(&mesh.collector_url(), "23h"))?;
    for workload in ["web", "orders"] {
        let version = snapshot_version(mesh, workload)?;
        mesh.until(SOON, "the snapshot is on disk", |mesh| {
            Ok((mesh.status(workload)?["kept"]["version"].as_u64() == Some(version)).then_some(()))
        })?;
    }
    mesh.control_mut().kill();
    mesh.kill_sidecar("web")?;
    mesh.kill_sidecar("orders")?;
    mesh.start_sidecar_again("orders")?;
    let began = Instant::now();
    mesh.start_sidecar_again("web")?;
    let answer = mesh.get("web", ORDERS_URL)?;
    let took = began.elapsed();
    require(answer.status == 200, || format!("without a control plane: {} {}", answer.status, answer.body))?;
    // Process start, TLS keys and all. Under a second where the machine is not shared; this build is not optimised.
    require(took < Duration::from_secs(5), || format!("served after {took:?}"))?;
    println!("served {} ms after the start of the process", took.as_millis());
    let status = mesh.status("web")?;
    require(status["status"] == "warning" && status["snapshot"]["from"] == "last-good", || format!("{status}"))?;
    let alone = status["withoutControlPlane"]["seconds"].as_u64().unwrap_or_default();
    require((80_000..=86_400).contains(&alone), || format!("can run for {alone} s: {status}"))?;
    // Nobody who was refused before is let in now.
    let denied = mesh.get("batch", ORDERS_URL)?;
    require(denied.status == 403, || format!("batch: {} {}", denied.status, denied.body))?;
    mesh.restart_control()?;
    mesh.until(SOON, "the control plane's own snapshot is in force", |mesh| {
        Ok((mesh.status("web")?["snapshot"]["from"] == "control-plane").then_some(()))
    })
}

fn snapshot_version(mesh: &Mesh, workload: &str) -> Result<u64, String> {
    mesh.status(workload)?["snapshot"]["version"].as_u64().ok_or_else(|| "no version".to_owned())
}

/// Certificates of the shortest life that the configuration takes.
fn away_for_long(mesh: &mut Mesh) -> Result<(), String> {
    mesh.apply(&resources::mesh(&mesh.collector_url(), "60s"))?;
    // At half of the new life, counted from their beginning.
    mesh.until(SOON * 2, "every certificate is a short one", |mesh| {
        let short = |workload: &&str| Ok(seconds_left(&mesh.status(workload)?) <= 60);
        all(WORKLOADS.iter().map(short)).map(|all| all.then_some(()))
    })?;
    // A service that nobody has called yet is unknown to a sidecar, and stays so while nobody tells.
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("before: {} {}", answer.status, answer.body))?;
    let load = mesh.load();
    mesh.control_mut().kill();
    // Longer than half of a life: each has tried to renew by now, in vain.
    let tried = mesh.until(Duration::from_secs(50), "every renewal has failed", |mesh| {
        let failing = |workload: &&str| Ok(mesh.status(workload)?["certificate"]["renewalFailures"] != 0);
        all(WORKLOADS.iter().map(failing)).map(|all| all.then_some(()))
    });
    let warned = told_alone(mesh);
    let restarted = mesh.restart_control();
    let back = mesh.until(SOON, "every certificate is renewed", |mesh| {
        let renewed = |workload: &&str| {
            let status = mesh.status(workload)?;
            Ok(status["certificate"]["renewalFailures"] == 0 && seconds_left(&status) > 25)
        };
        all(WORKLOADS.iter().map(renewed)).map(|all| all.then_some(()))
    });
    let result = load.stop();
    tried?;
    restarted?;
    back?;
    warned?;
    require(result.failed == 0 && result.ok > 0, || {
        format!("{} of {} requests failed: {}", result.failed, result.total(), result.first_error())
    })
}

/// Status, readiness and metric say that it was not renewed, and how long it can go on; readiness is still that.
fn told_alone(mesh: &Mesh) -> Result<(), String> {
    const WORDS: &str = "could not be renewed";
    let status = mesh.status("web")?;
    let warnings = status["warnings"].to_string();
    require(warnings.contains(WORDS) && status["status"] == "warning", || warnings.clone())?;
    let shown = mesh.status_text("web")?;
    let alone = shown.lines().find(|line| line.starts_with("alone ")).unwrap_or_default();
    require(alone.contains("can run") && alone.contains("without the control plane"), || shown.clone())?;
    let (ready, page) = mesh.readiness("web")?;
    require(ready == 200 && page.contains("warning: ") && page.contains(WORDS), || format!("{ready} {page}"))?;
    let failing = mesh.metric("web", "isthmus_certificate_renewal_failing_attempts", &[])?;
    require(failing > 0.0, || "the metric says that all is well".to_owned())
}

fn seconds_left(status: &Value) -> u64 {
    status["certificate"]["secondsLeft"].as_u64().unwrap_or(u64::MAX)
}

fn all(each: impl Iterator<Item = Result<bool, String>>) -> Result<bool, String> {
    each.collect::<Result<Vec<bool>, String>>().map(|all| all.into_iter().all(|one| one))
}

fn hundreds_of_rotations(mesh: &mut Mesh) -> Result<(), String> {
    let renewed = |mesh: &Mesh, workload: &str| mesh.metric(workload, RENEWALS, &[("result", "ok")]);
    // Lives of a minute, so that those that are due by themselves come in between.
    mesh.apply(&resources::mesh(&mesh.collector_url(), "60s"))?;
    let load = mesh.load();
    let rotated =
        (0..ROTATIONS / 3).try_for_each(|_| {
            let before = WORKLOADS.map(|workload| renewed(mesh, workload));
            for workload in WORKLOADS {
                mesh.renew(workload)?;
            }
            for (workload, before) in WORKLOADS.into_iter().zip(before) {
                let before = before?;
                mesh.until(SOON, "a certificate was renewed", |mesh| {
                    Ok((renewed(mesh, workload)? > before).then_some(()))
                })?;
            }
            Ok::<_, String>(())
        });
    let result = load.stop();
    rotated?;
    require(result.failed == 0 && result.ok > 0, || {
        format!("{} of {} requests failed: {}", result.failed, result.total(), result.first_error())
    })
}

fn status_and_check(mesh: &mut Mesh) -> Result<(), String> {
    let shown = mesh.status_text("orders")?;
    for line in
        ["status         ready", "alone          can run 23 h", "capture        nftables", "plain files with mode 0600"]
    {
        require(shown.contains(line), || format!("no `{line}` in:\n{shown}"))?;
    }
    let found = mesh.isthmus_json(&["check", "--json"])?;
    require(found["status"] == "ok", || format!("{found}"))?;
    mesh.kill_sidecar("batch")?;
    mesh.until(SOON, "the control plane misses batch", |mesh| {
        let (status, text) = mesh.isthmus_status(&["check"])?;
        Ok((status == Some(4) && text.contains("shop/batch offline")).then_some(()))
    })
}
