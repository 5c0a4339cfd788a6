//! Line 6: what is applied is in force when `--wait` returns; what is invalid changes nothing.

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Mesh, ORDERS_URL, resources};

const INVALID: &str = "apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: shop, name: orders }
spec:
  services: [orders]
  transport: HttpOnly
";

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let applied = mesh.apply(&resources::batch_allowed())?;
    let now_allowed = mesh.get("batch", ORDERS_URL);
    let restored = mesh.apply(resources::policy("orders"))?;
    let now_allowed = now_allowed?.status;
    require(now_allowed == 200, || format!("`apply --wait` returned, and batch still got {now_allowed}"))?;
    let refused_again = mesh.get("batch", ORDERS_URL)?.status;
    require(refused_again == 403, || format!("the allow-list was narrowed, and batch still got {refused_again}"))?;

    let refused = mesh.apply_refused("orders.yaml", INVALID)?;
    require(
        refused.contains("orders.yaml:6:") && refused.contains("transport") && refused.contains("HttpsOnly"),
        || format!("the refusal does not name file, line, field and the nearest spelling: {refused}"),
    )?;
    let after = mesh.revision()?;
    require(after == restored.revision, || {
        format!("an invalid document moved the store from revision {} to {after}", restored.revision)
    })?;
    let ms = applied.elapsed_us as f64 / 1000.0;
    Ok(Shown {
        summary: format!("in force in {}/{} proxies {ms:.1} ms after commit", applied.acknowledged, applied.affected),
        more: vec![
            format!("invalid: {}", refused.lines().next().unwrap_or_default()),
            format!("the store stays at revision {after}"),
        ],
        facts: json!({ "inForceMs": ms, "affected": applied.affected, "acknowledged": applied.acknowledged,
                       "refused": refused, "revision": after }),
    })
}
