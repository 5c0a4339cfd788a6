//! Joining with a token that is used, expired, or of another control plane.

use isthmus_certs::{JoinToken, RootFingerprint};
use isthmus_world::mesh::Mesh;

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("a_join_token_is_refused_the_second_time", used_twice),
    ("an_expired_join_token_is_refused", expired),
    ("a_control_plane_with_another_root_is_refused_before_anything_is_sent", another_root),
    ("a_restarted_sidecar_needs_no_second_token", restarted),
];

fn used_twice(mesh: &mut Mesh) -> Result<(), String> {
    let said = mesh.join_must_fail("orders.token", "second")?;
    require(said.contains("used"), || format!("the refusal does not say that the token was used: {said}"))
}

fn expired(mesh: &mut Mesh) -> Result<(), String> {
    mesh.token("shop/batch", "1s", "short.token")?;
    mesh.until(std::time::Duration::from_secs(5), "the token expires", |mesh| {
        let tokens = mesh.isthmus_json(&["token", "list", "--json"])?;
        let list = tokens["tokens"].as_array().cloned().unwrap_or_default();
        Ok(list.iter().any(|t| t["state"] == "expired").then_some(()))
    })?;
    let said = mesh.join_must_fail("short.token", "late")?;
    require(said.contains("expired"), || format!("the refusal does not say that the token expired: {said}"))
}

fn another_root(mesh: &mut Mesh) -> Result<(), String> {
    let file = mesh.token("shop/batch", "1h", "other.token")?;
    let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
    let mut token = JoinToken::parse(&text).map_err(|e| e.to_string())?;
    token.root = RootFingerprint::parse(&"5a".repeat(32)).map_err(|e| e.to_string())?;
    std::fs::write(&file, token.format().as_bytes()).map_err(|e| e.to_string())?;
    let said = mesh.join_must_fail("other.token", "misled")?;
    require(said.contains("root"), || format!("the refusal does not name the root: {said}"))?;
    let tokens = mesh.isthmus_json(&["token", "list", "--json"])?;
    let unused = tokens["tokens"].as_array().is_some_and(|list| list.iter().any(|t| t["state"] == "unused"));
    require(unused, || "the token's secret reached a control plane that could not be trusted".to_owned())
}

fn restarted(mesh: &mut Mesh) -> Result<(), String> {
    let before = mesh.serial("orders")?;
    mesh.restart_sidecar("orders")?;
    let answer = mesh.get("web", isthmus_world::mesh::ORDERS_URL)?;
    require(answer.status == 200, || format!("after the restart: {} {}", answer.status, answer.body))?;
    let after = mesh.serial("orders")?;
    require(before == after, || format!("the restarted sidecar took a new identity: {before} → {after}"))
}
