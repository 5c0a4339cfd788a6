//! Line 1: every sidecar joined with a token that pins the control plane's root, and made its own key.

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Mesh, WORKLOADS};

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let proxies = mesh.proxies()?;
    let mut identities = Vec::new();
    for workload in WORKLOADS {
        let proxy = proxies.iter().find(|p| p.workload == format!("shop/{workload}"));
        let proxy = proxy.ok_or_else(|| format!("the control plane knows no proxy of shop/{workload}"))?;
        let wanted = format!("spiffe://shop.example/ns/shop/sa/{workload}");
        require(proxy.spiffe_id == wanted, || format!("shop/{workload} has {} and not {wanted}", proxy.spiffe_id))?;
        require(proxy.connected, || format!("shop/{workload} has no stream to the control plane"))?;
        key_stayed(mesh, workload)?;
        identities.push(json!({ "workload": proxy.workload, "spiffeId": proxy.spiffe_id, "serial": proxy.serial }));
    }
    let tokens = mesh.isthmus_json(&["token", "list", "--json"])?;
    let tokens = tokens["tokens"].as_array().cloned().unwrap_or_default();
    require(tokens.len() == WORKLOADS.len() && tokens.iter().all(|t| t["state"] == "used"), || {
        format!("not every join token was used exactly once: {tokens:?}")
    })?;
    Ok(Shown {
        summary: format!(
            "{} sidecars enrolled by single-use tokens; each has a certificate from a CSR, its key is 0600 and nowhere else",
            WORKLOADS.len()
        ),
        more: proxies.iter().map(|p| format!("{}  serial {}", p.spiffe_id, p.serial)).collect(),
        facts: json!({ "identities": identities, "tokensUsed": tokens.len() }),
    })
}

/// The private key is in the sidecar's own state, readable by it alone, and in no file of the control plane.
fn key_stayed(mesh: &Mesh, workload: &str) -> Result<(), String> {
    let key = mesh.private_key(workload)?;
    require(key.mode & 0o077 == 0, || format!("{} has mode {:04o}", key.path.display(), key.mode))?;
    match mesh.control_plane_file_with(&key.needle) {
        Some(path) => Err(format!("the key of {workload} is in {}", path.display())),
        None => Ok(()),
    }
}
