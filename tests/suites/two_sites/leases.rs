//! A workload whose proxy is gone leaves every view, and returns with it; also when the control plane crashed meanwhile.

use std::time::Duration;

use isthmus_world::mesh::{Mesh, ORDERS_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("a_dead_vm_leaves_within_the_grace_and_returns_with_its_proxy", dies_and_returns),
    ("a_vm_that_died_while_the_control_plane_was_down_is_no_ghost", ghost),
];

/// The grace is 10 s; then the view has to be made and pushed.
const GONE: Duration = Duration::from_secs(20);
/// After its start a control plane waits for 60 s.
const GHOST_GONE: Duration = Duration::from_secs(80);
const BACK: Duration = Duration::from_secs(10);

fn dies_and_returns(mesh: &mut Mesh) -> Result<(), String> {
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("before: {} {}", answer.status, answer.body))?;
    mesh.kill_sidecar("orders")?;
    mesh.until(GONE, "orders is away", |mesh| state_of_orders(mesh, "away"))?;
    let services = mesh.isthmus_json(&["services", "-n", "shop", "--json"])?;
    let orders = services["services"].as_array().into_iter().flatten().find(|service| service["name"] == "orders");
    let counts = orders.map(|orders| (orders["endpoints"].clone(), orders["away"].clone()));
    require(counts == Some((0.into(), 1.into())), || format!("endpoints and away: {counts:?}"))?;
    mesh.start_sidecar_again("orders")?;
    mesh.until(BACK, "orders is back", |mesh| state_of_orders(mesh, "connected"))?;
    mesh.until(BACK, "web reaches orders again", |mesh| Ok((mesh.get("web", ORDERS_URL)?.status == 200).then_some(())))
}

fn ghost(mesh: &mut Mesh) -> Result<(), String> {
    mesh.control_mut().kill();
    mesh.kill_sidecar("orders")?;
    mesh.restart_control()?;
    // The others come back, and nobody is withdrawn for what the control plane itself missed.
    mesh.until(BACK, "orders is not yet taken for dead", |mesh| state_of_orders(mesh, "not-connected"))?;
    mesh.until(GHOST_GONE, "the ghost is gone", |mesh| state_of_orders(mesh, "away"))
}

fn state_of_orders(mesh: &Mesh, wanted: &str) -> Result<Option<()>, String> {
    let answer = mesh.isthmus_json(&["endpoints", "shop/orders", "--json"])?;
    let states = answer["endpoints"].as_array().cloned().unwrap_or_default();
    Ok(states.iter().any(|endpoint| endpoint["state"] == wanted).then_some(()))
}
