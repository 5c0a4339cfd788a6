//! Line 5: an app's own TLS is taken from TLS 1.2 on where the service is `HttpsOnly`, by the version that both ends
//! really agree on.

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Mesh, resources};

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let mut arms = Vec::new();
    // Past any sidecar, and from a workload whose own sidecar must refuse before a byte leaves its pod.
    for (from, to, refuses) in [("stranger", "10.20.1.10:8443", "orders"), ("web", "10.96.0.11:443", "web")] {
        let refusal = mesh.refusal(refuses, "tls-version")?;
        let old = mesh.tls(from, to, "1.1")?;
        require(!old.completed, || format!("TLS 1.1 from {from} was accepted: {}", old.said))?;
        refusal.happened(mesh)?;

        let new = mesh.tls(from, to, "1.3")?;
        require(new.completed, || format!("TLS 1.3 from {from} was refused: {}", new.said))?;

        let accepts = mesh.orders_reached()?;
        mesh.apply(&resources::old_tls_allowed())?;
        let relaxed = mesh.tls(from, to, "1.1");
        mesh.apply(resources::policy("orders-tls"))?;
        let relaxed = relaxed?;
        require(relaxed.completed, || {
            format!("with minTlsVersion 1.1, TLS 1.1 from {from} still failed: {}", relaxed.said)
        })?;
        let reached = mesh.requests_reached(accepts)?;
        arms.push(json!({ "from": from, "to": to, "refusedBy": refuses, "tls11": false, "tls13": true,
                          "controlArm": { "tls11": relaxed.completed, "reachedApp": reached } }));
    }
    Ok(Shown {
        summary: "TLS 1.1 → tls-version (by the receiver, and by the sender's own sidecar); 1.3 → accepted; \
                  with minTlsVersion 1.1 the same handshake reaches the app"
            .to_owned(),
        more: vec![format!("TLS peers: {}", mesh.tls_client())],
        facts: json!({ "arms": arms, "client": mesh.tls_client() }),
    })
}
