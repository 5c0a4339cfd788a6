//! Line 4: plaintext that does not come through a sidecar is refused, though the sender is on the allow-list.

use serde_json::json;

use super::denied::one_word_and_an_id;
use super::{Shown, require};
use crate::mesh::{Mesh, resources};

/// The VM's own address and the app's own port: nothing of the mesh is on the sender's side.
const STRAIGHT: &str = "http://10.20.1.10:8080/";

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let refusal = mesh.refusal("orders", "plaintext")?;
    let answer = mesh.get("stranger", STRAIGHT)?;
    let id = one_word_and_an_id(&answer, "plaintext")?;
    refusal.happened(mesh)?;

    let accepts = mesh.orders_reached()?;
    mesh.apply(&resources::plaintext_allowed())?;
    let relaxed = mesh.get("stranger", STRAIGHT);
    mesh.apply(resources::policy("orders"))?;
    let relaxed = relaxed?;
    require(relaxed.status == 200, || format!("with Permissive it still got {}: {}", relaxed.status, relaxed.body))?;
    let reached = mesh.requests_reached(accepts)?;
    Ok(Shown {
        summary: format!(
            "GET {STRAIGHT} from a host without sidecar → 403 plaintext, decision {id}; with Permissive: {}",
            relaxed.status
        ),
        more: Vec::new(),
        facts: json!({ "status": answer.status, "reason": "plaintext", "decision": id,
                       "controlArm": { "status": relaxed.status, "reachedApp": reached } }),
    })
}
